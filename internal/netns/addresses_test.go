package netns

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"sockstate_exporter/internal/kerneltest"
)

func TestAddressesAreThoseOfTheNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, cidr := range []string{"10.9.9.9/32", "fd00::9/128"} {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
	got, err := interfaces(t, ns.FD()).Addresses()
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"10.9.9.9": true, "fd00::9": true, "127.0.0.1": true, "10.9.9.8": false, "1.0.0.1": false} {
		if _, ok := got[netip.MustParseAddr(addr)]; ok != want {
			t.Errorf("%s is local: %v, want %v", addr, ok, want)
		}
	}
}
