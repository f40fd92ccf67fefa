package kerneltest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// AddDummy adds an interface that is up and has the given addresses. What is
// sent through it is lost. Where the kernel lacks the dummy driver, the
// interface is one end of a veth pair, and name+"p" is the other end.
func (n *NetNS) AddDummy(t testing.TB, name string, addrs ...netip.Prefix) {
	t.Helper()
	if err := n.addDummy(name, addrs); err != nil {
		SkipOrFatal(t, fmt.Errorf("add dummy interface %s: %w", name, err))
	}
}

// AddVXLAN adds a tunnel on loopback that is up: the kernel then receives UDP on the port.
func (n *NetNS) AddVXLAN(t testing.TB, name string, port uint16) {
	t.Helper()
	if err := n.addVXLAN(name, port); err != nil {
		SkipOrFatal(t, fmt.Errorf("add VXLAN %s: %w", name, err))
	}
}

func (n *NetNS) addVXLAN(name string, port uint16) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	link := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, VxlanId: int(port), Port: int(port), VtepDevIndex: 1}
	if err := h.LinkAdd(link); err != nil {
		return fmt.Errorf("add link: %w", err)
	}
	return h.LinkSetUp(link)
}

// DeleteLink deletes an interface and returns the index that it had. Sockets that are bound to it
// stay bound to the index.
func (n *NetNS) DeleteLink(t testing.TB, name string) uint32 {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatalf("open rtnetlink: %v", err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if err != nil {
		t.Fatalf("find link %s: %v", name, err)
	}
	if err := h.LinkDel(link); err != nil {
		t.Fatalf("delete link %s: %v", name, err)
	}
	return uint32(link.Attrs().Index)
}

func (n *NetNS) addDummy(name string, addrs []netip.Prefix) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()

	names := []string{name}
	attrs := netlink.LinkAttrs{Name: name, TxQLen: -1}
	err = h.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		names = []string{name + "p", name} // without both up, neither has a carrier
		err = h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "p"})
	}
	if err != nil {
		return fmt.Errorf("add link: %w", err)
	}
	var link netlink.Link
	for _, name := range names {
		if link, err = h.LinkByName(name); err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set link %s up: %w", name, err)
		}
	}
	for _, prefix := range addrs {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP:   prefix.Addr().AsSlice(),
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
		}}
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // a tentative address cannot be bound
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %v: %w", prefix, err)
		}
	}
	return nil
}
