package sockwalk_test

import (
	"testing"

	"github.com/cilium/ebpf/features"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/linux"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// newWalker leaves the test out on kernels before 6.1 only.
func newWalker(t testing.TB, opts sockwalk.Options) *sockwalk.Walker {
	t.Helper()
	kerneltest.RequireRoot(t)
	w, err := sockwalk.New(opts)
	if err != nil {
		const linux61 = 6<<16 | 1<<8
		if version, verr := features.LinuxVersionCode(); verr == nil && version < linux61 {
			kerneltest.Skip(t, "%v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// of names a namespace.
func of(t testing.TB, ns *kerneltest.NetNS, watched ...uint16) sockwalk.Namespace {
	t.Helper()
	out := sockwalk.Namespace{Inode: uint32(ns.Inode()), Watched: watched}
	ns.Do(t, func() {
		var err error
		if out.Cookie, err = linux.NetNSCookie(); err != nil {
			t.Error(err)
		}
	})
	return out
}
