package e2e

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
)

func TestMain(m *testing.M) {
	reexec.Play(roles())
	if mounts.Private() {
		if err := mountAll(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	kerneltest.Main(m)
}

func mountAll() error {
	if err := mounts.MountTracefs(); err != nil {
		return err
	}
	return mountFiles()
}

// mountFiles mounts a tmpfs for the temporary files on a directory that most hosts have and in
// which this one has nothing. Without any, temporary files are where they always are, and stay
// there if the tests are killed.
func mountFiles() error {
	for _, dir := range []string{"/mnt", "/media", "/srv"} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			continue
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
		return os.Setenv("TMPDIR", dir)
	}
	return nil
}

// program returns the path of a server that the tests run.
func program(t *testing.T, name string) string {
	t.Helper()
	kerneltest.RequireRoot(t)
	return kerneltest.RequireCommand(t, name)
}
