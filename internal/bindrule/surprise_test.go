package bindrule_test

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// The examples of the package documentation, done in the kernel, without the rule.

func TestIPv6TimeWaitOfDualStackBlocksIPv4Wildcard(t *testing.T) {
	for _, v6only := range []bool{false, true} {
		ns := kerneltest.New(t)
		l := ns.Listen(t, netip.MustParseAddrPort("[::]:4840"), kerneltest.Options{V6Only: &v6only})
		l.Peers(t, kerneltest.StateTimeWait, 1, netip.IPv6Loopback())
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		want := unix.EADDRINUSE
		if v6only {
			want = 0
		}
		checkBind(t, ns, "0.0.0.0:4840", kerneltest.Options{}, want)
	}
}

func TestBoundIPv6AddressDoesNotBlockIPv4Wildcard(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, netip.MustParseAddrPort("[::1]:4840"), kerneltest.Options{V6Only: new(false)})
	checkBind(t, ns, "0.0.0.0:4840", kerneltest.Options{}, 0)
}

func TestBucketLetsDualStackBindOverIPv4(t *testing.T) {
	ns := kerneltest.New(t)
	dualStack := kerneltest.Options{ReusePort: true, V6Only: new(false)}
	ns.Listen(t, netip.MustParseAddrPort("0.0.0.0:4840"), kerneltest.Options{})
	checkBind(t, ns, "[::]:4840", dualStack, unix.EADDRINUSE)
	ns.Listen(t, netip.MustParseAddrPort("[::]:4840"), kerneltest.Options{ReusePort: true, V6Only: new(true)})
	checkBind(t, ns, "[::]:4840", dualStack, 0)
}

// checkBind binds and closes. want is the errno, 0 for success.
func checkBind(t *testing.T, ns *kerneltest.NetNS, addr string, opts kerneltest.Options, want unix.Errno) {
	t.Helper()
	s, err := ns.OpenBound(netip.MustParseAddrPort(addr), opts)
	var got unix.Errno
	if err != nil && !errors.As(err, &got) {
		t.Fatal(err)
	}
	if s != nil {
		_ = s.Close()
	}
	if got != want {
		t.Errorf("bind %s with %+v: errno %d, want %d", addr, opts, got, want)
	}
}
