package netns

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// TestHasWhatBindTakes holds the answers against bind() itself.
func TestHasWhatBindTakes(t *testing.T) {
	ns := kerneltest.New(t)
	ns.AddDummy(t, "d0", netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("fd00::9/64"))
	h := rtnl(t, ns)
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	local, err := netlink.ParseIPNet("198.51.100.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: local, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL}); err != nil {
		t.Fatal(err)
	}
	i := interfaces(t, ns.FD())
	for _, s := range []string{
		"0.0.0.0", "127.0.0.1", "127.9.9.9", "192.0.2.7", "192.0.2.8", "192.0.2.255", "198.51.100.77", "203.0.113.1",
		"::", "::1", "fd00::9", "fd00::8", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:192.0.2.8",
	} {
		addr := netip.MustParseAddr(s)
		got, err := i.Has(addr, 0)
		if err != nil {
			t.Errorf("%v: %v", addr, err)
			continue
		}
		bound, err := ns.OpenBound(netip.AddrPortFrom(addr, 0), kerneltest.Options{})
		if err == nil {
			_ = bound.Close()
		} else if !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatal(err)
		}
		if want := err == nil; got != want {
			t.Errorf("has %v: %v, and bind() says %v", addr, got, err)
		}
	}
}

func TestTentativeAddressIsNotThereYet(t *testing.T) {
	ns := kerneltest.New(t)
	index := link(t, rtnl(t, ns), bridge("br0"))
	h := rtnl(t, ns)
	br, err := h.LinkByIndex(int(index))
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("fd00::7/64")
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_TENTATIVE
	// A bridge without ports has no carrier, so duplicate address detection never begins.
	if err := errors.Join(h.LinkSetUp(br), h.AddrAdd(br, addr)); err != nil {
		t.Fatal(err)
	}
	if has, err := interfaces(t, ns.FD()).Has(netip.MustParseAddr("fd00::7"), 0); has || err != nil {
		t.Errorf("has the address: %v, %v; want not yet", has, err)
	}
}
