// Package tracers keeps tests apart that disturb each other because tracers see the calls of the whole host.
package tracers

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// Share waits for tests that call [Disturb], and keeps them waiting until the test ends.
func Share(t testing.TB) {
	t.Helper()
	lock(t, unix.LOCK_SH)
}

// Disturb is for a test that makes very many calls fail. They fill the ring of every tracer of the host,
// also of those that tests of other packages look at.
func Disturb(t testing.TB) {
	t.Helper()
	lock(t, unix.LOCK_EX)
}

// lock locks a file that is there wherever tracers work.
func lock(t testing.TB, how int) {
	t.Helper()
	f, err := os.Open("/sys/kernel/btf/vmlinux")
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		t.Fatal(err)
	}
}
