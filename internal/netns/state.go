package netns

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// State says why bind() may have refused an address with EADDRNOTAVAIL. index is the interface of an IPv6
// link-local address, or 0. It asks rtnetlink and procfs. What they do not say is unknown.
//
// It tells apart what the errno does not: an address that no device has, and for IPv6 one that is
// tentative or a duplicate, a device that is down, and one without IPv6 addresses (disable_ipv6). An IPv4
// address works on a device that is down.
func (i *Interfaces) State(addr netip.Addr, index uint32) sock.Address {
	addr = addr.Unmap()
	out := sock.Address{Nonlocal: i.sysctl(familyName(addr), "ip_nonlocal_bind") == "1"}
	if usable, err := i.Has(addr, index); err != nil || usable {
		if usable {
			out.State = sock.AddressUsable
		}
		return out
	}
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	addresses, err := i.handle.addresses(nil, family)
	if err != nil {
		return out
	}
	links, err := i.handle.links()
	if err != nil {
		return out
	}
	out.State = sock.AddressAbsent
	for _, a := range addresses {
		has, ok := netip.AddrFromSlice(a.IP)
		if !ok || has.Unmap() != addr || index != 0 && a.LinkIndex != int(index) {
			continue
		}
		at := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == a.LinkIndex })
		if at < 0 {
			continue // it has gone meanwhile
		}
		link := links[at].Attrs()
		switch out.Device = link.Name; {
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			out.State = sock.AddressDuplicate
		case link.RawFlags&unix.IFF_UP == 0:
			out.State = sock.AddressDown
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			out.State = sock.AddressTentative
		default:
			out.State, out.Device = sock.AddressUnknown, "" // in a VRF, without a route, or usable by now
		}
		return out
	}
	if addr.Is4() {
		return out
	}
	could, disabled := i.disabledIPv6(addr, index, links)
	switch {
	case could == 0 && index == 0 && i.sysctl("ipv6", "conf", "all", "disable_ipv6") == "1":
		out.State = sock.IPv6Disabled
	case len(disabled) == 0:
	case len(disabled) < could:
		out.Device, out.Disabled = disabled[0], len(disabled)
	case could == 1:
		out.State, out.Device = sock.IPv6Disabled, disabled[0]
	default:
		out.State = sock.IPv6Disabled
	}
	return out
}

// maxDevices bounds the devices that are asked for a setting.
const maxDevices = 64

// disabledIPv6 counts the devices that could have the address, and names those with IPv6 disabled.
func (i *Interfaces) disabledIPv6(addr netip.Addr, index uint32, links []netlink.Link) (could int, disabled []string) {
	var names []string
	for _, l := range links {
		a := l.Attrs()
		loopback := a.RawFlags&unix.IFF_LOOPBACK != 0
		if index != 0 && a.Index == int(index) || index == 0 && loopback == addr.IsLoopback() {
			names = append(names, a.Name)
		}
	}
	for _, name := range names[:min(len(names), maxDevices)] {
		if i.sysctl("ipv6", "conf", name, "disable_ipv6") == "1" {
			disabled = append(disabled, name)
		}
	}
	return len(names), disabled
}

func familyName(addr netip.Addr) string {
	if addr.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// sysctl returns a setting of the namespace; empty: it cannot be read.
func (i *Interfaces) sysctl(path ...string) (value string) {
	read := func() (err error) {
		value, err = linux.NetSysctl(path...)
		return err
	}
	if i.ns == 0 {
		_ = read()
	} else {
		_ = linux.RunInNetNS(i.ns, read)
	}
	return value
}
