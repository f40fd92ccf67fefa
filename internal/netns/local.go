package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Has reports whether the namespace has an address that bind() takes without IP_FREEBIND. It asks
// rtnetlink, so nothing is bound. index is the interface of an IPv6 link-local address, or 0.
//
// An IPv4 address counts if its route is local, broadcast or multicast
// (inet_addr_valid_or_nonlocal). So all of 127.0.0.0/8 counts. An IPv6 address has to be one of an
// interface, and not tentative (ipv6_chk_addr), or multicast.
func (i *Interfaces) Has(addr netip.Addr, index uint32) (bool, error) {
	addr = addr.Unmap()
	if addr.IsUnspecified() || addr.IsMulticast() {
		return true, nil
	}
	if err := i.connect(); err != nil {
		return false, err
	}
	if addr.Is4() {
		return i.hasIPv4(addr)
	}
	return i.hasIPv6(addr, index)
}

func (i *Interfaces) hasIPv4(addr netip.Addr) (bool, error) {
	routes, err := i.handle.route(addr.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return false, nil // no route, or one that refuses
	case err != nil:
		return false, fmt.Errorf("look up the route to %v: %w", addr, err)
	}
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_MULTICAST {
			return true, nil
		}
	}
	return false, nil
}

func (i *Interfaces) hasIPv6(addr netip.Addr, index uint32) (bool, error) {
	found, err := i.handle.addresses(nil, unix.AF_INET6)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range found {
		tentative := a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
		if has, ok := netip.AddrFromSlice(a.IP); ok && has == addr && !tentative && (index == 0 || a.LinkIndex == int(index)) {
			return true, nil
		}
	}
	return false, nil
}
