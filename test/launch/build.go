package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// The builds, one of each for a test process.
var (
	static = sync.OnceValues(func() (*os.File, error) {
		return build("CGO_ENABLED=0", "-trimpath")
	})
	checked = sync.OnceValues(func() (*os.File, error) {
		return build("CGO_ENABLED=1", "-race") // of what the go command has compiled for the tests of its packages
	})
)

// Binary is the exporter as the Makefile builds it.
func Binary(t testing.TB) *os.File {
	t.Helper()
	return built(t, static)
}

// Checked is [Binary], with the race detector where the test has it.
func Checked(t testing.TB) *os.File {
	t.Helper()
	if raceDetector {
		return built(t, checked)
	}
	return built(t, static)
}

// Copy writes the exporter to a new file.
func Copy(t testing.TB, path string) {
	t.Helper()
	from := Binary(t)
	info, err := from.Stat()
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	// In small pieces, as cp does: what a kernel gets in one piece it also maps in large ones, and
	// mapped memory counts as the process's own.
	_, err = io.Copy(to, io.NewSectionReader(from, 0, info.Size()))
	if err := errors.Join(err, to.Close()); err != nil {
		t.Fatal(err)
	}
}

func built(t testing.TB, binary func() (*os.File, error)) *os.File {
	t.Helper()
	kerneltest.RequireCommand(t, "go")
	file, err := binary()
	if err != nil {
		t.Fatalf("build the exporter: %v", err)
	}
	return file
}

// build builds the exporter in its own module, and gives the open file.
func build(env, flag string) (file *os.File, err error) {
	module, err := exec.Command("go", "list", "-f", "{{.Module.Dir}}", "sockstate_exporter/internal/kerneltest").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module: %w", err)
	}
	dir, err := os.MkdirTemp("", "sockstate_exporter")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "sockstate_exporter")
	cmd := exec.Command("go", "-C", strings.TrimSpace(string(module)), "build", flag, "-buildvcs=false", "-ldflags=-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.Open(path)
}
