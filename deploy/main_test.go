package deploy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const (
	tracefs    = "/sys/kernel/tracing"
	privateEnv = "SOCKSTATE_TEST_PRIVATE_MOUNTS"
)

func TestMain(m *testing.M) {
	if os.Getenv(sandboxEnv) != "" {
		fmt.Fprintln(os.Stderr, enterSandbox())
		os.Exit(1)
	}
	if os.Getenv(probeEnv) != "" {
		probe()
		os.Exit(0)
	}
	if os.Geteuid() == 0 {
		inPrivateMounts()
	}
	kerneltest.Main(m)
}

// inPrivateMounts runs the tests again in a mount namespace of their own, with tracefs: no
// mount outlives them.
func inPrivateMounts() {
	if os.Getenv(privateEnv) != "" {
		if err := mountTracefs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	runtime.LockOSThread() // Pdeathsig is sent when the forking thread ends
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	}
	fmt.Fprintf(os.Stderr, "run tests in a mount namespace: %v\n", err)
}

func mountTracefs() error {
	var st unix.Statfs_t
	if err := unix.Statfs(tracefs, &st); err == nil && st.Type == unix.TRACEFS_MAGIC {
		return nil
	}
	if err := unix.Mount("tracefs", tracefs, "tracefs", 0, ""); err != nil {
		return fmt.Errorf("mount tracefs: %w", err)
	}
	return nil
}

// build is the static binary of this source, in a directory that stays until the tests end.
var build = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "deploy")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sockstate_exporter")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(path)
})

// binary writes the exporter to path.
func binary(t *testing.T, path string) {
	t.Helper()
	data, err := build()
	if err != nil {
		t.Fatalf("build the exporter: %v", err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

// run runs a program, and fails the test when it fails.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	runtime.LockOSThread() // Pdeathsig is sent when the forking thread ends
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
