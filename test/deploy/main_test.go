package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
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
	mounts.PrivateTracefs()
	kerneltest.Main(m)
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
