package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"sockstate_exporter/internal/kerneltest"
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
	if kerneltest.PrivateMounts() {
		if err := kerneltest.MountTracefs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	kerneltest.Main(m)
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
