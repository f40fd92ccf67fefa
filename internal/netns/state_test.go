package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// addAddress adds an address to a device, as the flags say.
func addAddress(t *testing.T, h *netlink.Handle, device, cidr string, flags int) {
	t.Helper()
	link, err := h.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = flags
	if err := h.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
}

func setLink(t *testing.T, h *netlink.Handle, device string, set func(netlink.Link) error) {
	t.Helper()
	link, err := h.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := set(link); err != nil {
		t.Fatal(err)
	}
}

// refusesAddress says whether bind() returns EADDRNOTAVAIL.
func refusesAddress(t *testing.T, ns *kerneltest.NetNS, addr string) bool {
	t.Helper()
	s, err := ns.OpenBound(netip.AddrPortFrom(netip.MustParseAddr(addr), 0), kerneltest.Options{})
	if err == nil {
		_ = s.Close()
	} else if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatal(err)
	}
	return err != nil
}

// TestStateOfAnAddress makes each reason why bind() refuses an address.
func TestStateOfAnAddress(t *testing.T) {
	for _, tt := range []struct {
		name, addr string
		set        func(*testing.T, *kerneltest.NetNS, *netlink.Handle)
		want       sock.Address
	}{
		{"absent", "192.0.2.9", nil, sock.Address{State: sock.AddressAbsent}},
		{"IPv6, absent", "2001:db8::9", nil, sock.Address{State: sock.AddressAbsent}},
		{"IPv4-mapped, absent", "::ffff:192.0.2.9", nil, sock.Address{State: sock.AddressAbsent}},
		{"there", "127.0.0.1", nil, sock.Address{State: sock.AddressUsable}},
		{"nonlocal_bind", "192.0.2.9", func(t *testing.T, ns *kerneltest.NetNS, _ *netlink.Handle) {
			t.Helper()
			ns.Sysctl(t, "net.ipv4.ip_nonlocal_bind", "1")
		}, sock.Address{State: sock.AddressAbsent, Nonlocal: true}},
		{"nonlocal_bind of the other family", "2001:db8::9", func(t *testing.T, ns *kerneltest.NetNS, _ *netlink.Handle) {
			t.Helper()
			ns.Sysctl(t, "net.ipv4.ip_nonlocal_bind", "1")
		}, sock.Address{State: sock.AddressAbsent}},
		{"IPv4, device down", "192.0.2.7", func(t *testing.T, _ *kerneltest.NetNS, h *netlink.Handle) {
			t.Helper()
			setLink(t, h, "d0", h.LinkSetDown)
		}, sock.Address{State: sock.AddressUsable}},
		{"IPv6, device down", "2001:db8::7", func(t *testing.T, ns *kerneltest.NetNS, h *netlink.Handle) {
			t.Helper()
			setLink(t, h, "d0", h.LinkSetARPOn) // without both, an address is never tentative
			ns.Sysctl(t, "net.ipv6.conf.d0.accept_dad", "1")
			setLink(t, h, "d0", h.LinkSetDown)
			addAddress(t, h, "d0", "2001:db8::7/64", 0)
		}, sock.Address{State: sock.AddressDown, Device: "d0"}},
		{"tentative", "2001:db8::7", func(t *testing.T, ns *kerneltest.NetNS, h *netlink.Handle) {
			t.Helper()
			setLink(t, h, "d0", h.LinkSetARPOn)
			ns.Sysctl(t, "net.ipv6.conf.d0.accept_dad", "1")
			ns.Sysctl(t, "net.ipv6.conf.d0.dad_transmits", "600")
			addAddress(t, h, "d0", "2001:db8::7/64", 0)
		}, sock.Address{State: sock.AddressTentative, Device: "d0"}},
		{"IPv6 disabled on loopback", "::1", func(t *testing.T, ns *kerneltest.NetNS, _ *netlink.Handle) {
			t.Helper()
			ns.Sysctl(t, "net.ipv6.conf.lo.disable_ipv6", "1")
		}, sock.Address{State: sock.IPv6Disabled, Device: "lo"}},
		{"IPv6 disabled on loopback, another address", "2001:db8::9", func(t *testing.T, ns *kerneltest.NetNS, _ *netlink.Handle) {
			t.Helper()
			ns.Sysctl(t, "net.ipv6.conf.lo.disable_ipv6", "1")
		}, sock.Address{State: sock.AddressAbsent}},
		{"IPv6 disabled on all devices", "2001:db8::9", func(t *testing.T, ns *kerneltest.NetNS, _ *netlink.Handle) {
			t.Helper()
			ns.AddDummy(t, "d1")
			ns.Sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
		}, sock.Address{State: sock.IPv6Disabled}},
		{"IPv6 enabled again on all devices but one", "2001:db8::9", func(t *testing.T, ns *kerneltest.NetNS, h *netlink.Handle) {
			t.Helper()
			ns.AddDummy(t, "d1")
			ns.Sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
			links, err := h.LinkList()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range links {
				if name := l.Attrs().Name; name != "d1" {
					ns.Sysctl(t, "net.ipv6.conf."+name+".disable_ipv6", "0")
				}
			}
		}, sock.Address{State: sock.AddressAbsent, Device: "d1", Disabled: 1}},
		{"IPv6 disabled on one device", "2001:db8::9", func(t *testing.T, ns *kerneltest.NetNS, _ *netlink.Handle) {
			t.Helper()
			ns.AddDummy(t, "d1")
			ns.Sysctl(t, "net.ipv6.conf.d1.disable_ipv6", "1")
		}, sock.Address{State: sock.AddressAbsent, Device: "d1", Disabled: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.AddDummy(t, "d0", netip.MustParsePrefix("192.0.2.7/24"))
			if tt.set != nil {
				tt.set(t, ns, rtnl(t, ns))
			}
			if refused, want := refusesAddress(t, ns, tt.addr), tt.want.State != sock.AddressUsable && !tt.want.Nonlocal; refused != want {
				t.Fatalf("bind to %s is refused: %t, want %t", tt.addr, refused, want)
			}
			if got := interfaces(t, ns.FD()).State(netip.MustParseAddr(tt.addr), 0); got != tt.want {
				t.Errorf("%s: %+v, want %+v", tt.addr, got, tt.want)
			}
		})
	}
}

// The other end of the link has the address already.
func TestStateOfADuplicateAddress(t *testing.T) {
	ns, other := kerneltest.New(t), kerneltest.New(t)
	h := rtnl(t, ns)
	err := h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "v0", TxQLen: -1}, PeerName: "v1", PeerNamespace: netlink.NsFd(other.FD()),
	})
	if err != nil {
		kerneltest.SkipOrFatal(t, err)
	}
	there := rtnl(t, other)
	setLink(t, there, "v1", there.LinkSetUp)
	addAddress(t, there, "v1", "2001:db8::7/64", unix.IFA_F_NODAD)
	setLink(t, h, "v0", h.LinkSetUp)
	addAddress(t, h, "v0", "2001:db8::7/64", 0)
	i, want := interfaces(t, ns.FD()), sock.Address{State: sock.AddressDuplicate, Device: "v0"}
	got := i.State(netip.MustParseAddr("2001:db8::7"), 0)
	for deadline := time.Now().Add(20 * time.Second); got != want && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = i.State(netip.MustParseAddr("2001:db8::7"), 0)
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !refusesAddress(t, ns, "2001:db8::7") {
		t.Error("bind() takes the address")
	}
}

// Where containers come and go, the kernel says of many lists that they changed while they were read.
func TestStateWhileDevicesComeAndGo(t *testing.T) {
	ns := kerneltest.New(t)
	h := rtnl(t, ns)
	for n := range 20 { // lists that take several messages
		link(t, h, bridge(fmt.Sprint("stays", n)))
		addAddress(t, h, "lo", fmt.Sprintf("10.9.%d.1/32", n), 0)
		addAddress(t, h, "lo", fmt.Sprintf("2001:db8:%x::1/128", n+1), unix.IFA_F_NODAD)
	}
	comes, err := netlink.ParseAddr("10.9.9.9/32")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var changing sync.WaitGroup
	for _, change := range []func() error{
		func() error { return errors.Join(h.LinkAdd(bridge("comes")), h.LinkDel(bridge("comes"))) },
		func() error { return errors.Join(h.AddrAdd(lo, comes), h.AddrDel(lo, comes)) },
	} {
		changing.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := change(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 600 {
		i := NewInterfaces(ns.FD())
		for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
			if got := i.State(netip.MustParseAddr(addr), 0); got.State != sock.AddressAbsent {
				t.Errorf("%s: state %v, want absent", addr, got.State)
			}
		}
		if _, err := i.Addresses(); err != nil {
			t.Error(err)
		}
		if i.Close(); t.Failed() {
			break
		}
	}
	close(done)
	changing.Wait()
}
