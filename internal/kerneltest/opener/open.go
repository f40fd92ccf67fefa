// Package opener opens, for tests, what reads from the kernel.
package opener

import (
	"io"
	"slices"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// OrSkip opens what a host may refuse, and closes it when the test ends.
func OrSkip[R io.Closer](t testing.TB, open func() (R, error)) R {
	t.Helper()
	r, err := open()
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// Since61 is AsRoot for what fails on kernels before 6.1 only.
func Since61[R io.Closer](t testing.TB, open func() (R, error)) R {
	t.Helper()
	return AsRoot(t, open, func(error) bool { return !kerneltest.KernelAtLeast(t, 6, 1) })
}

// AsRoot opens what reads from the kernel with eBPF programs, and closes it when the test ends. It skips unless the
// process is root, and where it fails with an error that is allowed.
func AsRoot[R io.Closer](t testing.TB, open func() (R, error), allowed ...func(error) bool) R {
	t.Helper()
	kerneltest.RequireRoot(t)
	r, err := open()
	if err != nil {
		if slices.ContainsFunc(allowed, func(f func(error) bool) bool { return f(err) }) {
			kerneltest.Skip(t, "%v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
