package sockwalk_test

import (
	"testing"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/linux"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func newWalker(t testing.TB, opts sockwalk.Options) *sockwalk.Walker {
	t.Helper()
	return opener.Since61(t, func() (*sockwalk.Walker, error) { return sockwalk.New(opts) })
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
