package bindrule

import "net/netip"

// A UDPPort is one local UDP port of one network namespace, as far as it is known.
//
// bind() to a port other than 0 goes through the sockets on it (udp_lib_get_port,
// net/ipv4/udp.c). A socket counts if all of this is true (udp_lib_lport_inuse):
//
//   - One of the two lacks SO_REUSEADDR.
//   - They are not bound to two different devices.
//   - Their addresses overlap (inet_rcv_saddr_equal); see udpOverlap.
//
// The first socket that counts decides: bind() succeeds if both have SO_REUSEPORT and the same
// owner, and fails with EADDRINUSE if not. The kernel does not look at the sockets behind it. So
// with SO_REUSEPORT the answer depends on the order of the sockets. UDP has no listeners: a socket
// that is connected counts like any other.
type UDPPort struct {
	// Sockets are in the order in which the kernel has them, if InOrder is set: mostly the newest
	// first. An IPv6 socket that had SO_REUSEPORT when it was bound is behind the others.
	// sock_diag reports them in this order.
	Sockets []Socket
	InOrder bool

	// Crowded says that the kernel has more than UDPCrowd sockets in the hash slot of the port,
	// those of other ports and network namespaces included. It then looks only at the sockets on
	// the address of the binder and on wildcards (udp_lib_lport_inuse2), and in another order. So,
	// by the source, the bind of a wildcard may succeed beside a socket on a particular address. The
	// tested kernels do not let it (TestUDPWildcardBesideACrowd); the answer is Unknown all the same.
	Crowded Flag

	// Incomplete says that some sockets may be missing in Sockets.
	Incomplete bool
}

// UDPCrowd is how many sockets a hash slot has at most without being crowded: the 10 of
// udp_lib_get_port.
const UDPCrowd = 10

// Bind says whether bind() would succeed. The sockets that block it are all that would do so alone.
// ListenersAside is ignored.
func (p *UDPPort) Bind(r Request) Verdict {
	var v Verdict
	var free, blocked, sure bool // what the answer may be; a socket counts for sure
	elsewhere := true            // all that block are where a crowded slot may hide them
	for i := range p.Sockets {
		s := &p.Sockets[i]
		counts := udpCounts(&r, s)
		if counts == No {
			continue
		}
		shares := and(r.ReusePort, s.ReusePort, r.UID.equal(s.UID))
		switch and(counts, not(shares)) {
		case Yes:
			v.Blockers = append(v.Blockers, i)
		case FlagUnknown:
			v.Doubtful = append(v.Doubtful, i)
		}
		if sure && p.InOrder && p.Crowded == No {
			continue // the kernel does not look at it
		}
		free = free || shares != No
		blocked = blocked || shares != Yes
		elsewhere = elsewhere && (shares == Yes || !sameSlot(r.Addr, s.Addr))
		sure = sure || counts == Yes
	}
	hidden := blocked && elsewhere && p.Crowded != No
	unseen := p.Incomplete && r.ReusePort != No // one that shares may come first
	switch {
	case blocked && !free && sure && !hidden && !unseen:
		v.Outcome = Blocked
	case !blocked && !p.Incomplete:
		v.Outcome = Free
		v.Blockers, v.Doubtful = nil, nil
	}
	v.Forever = len(v.Blockers) > 0
	v.UntilKnown = v.Forever || len(v.Doubtful) == 0 && !p.Incomplete
	return v
}

// udpCounts: the socket decides whether the request succeeds, unless another one does before.
func udpCounts(r *Request, s *Socket) Flag {
	return and(
		not(and(r.ReuseAddr, s.ReuseAddr)),
		is(r.Ifindex == 0 || s.Ifindex == 0 || r.Ifindex == s.Ifindex),
		udpOverlap(r, s),
	)
}

// udpOverlap does what inet_rcv_saddr_equal does. It is not symmetric. A request of AF_INET compares
// IPv4 addresses with any socket that lacks IPV6_V6ONLY. So 0.0.0.0 overlaps a dual-stack socket that is
// connected to an IPv6 address, and 127.0.0.6 overlaps it as well.
func udpOverlap(r *Request, s *Socket) Flag {
	binder, other := kindOf(r.Addr), s.kind()
	mapped := other.ipv4() // for the kernel, AF_INET is IPV6_ADDR_MAPPED here
	if r.Addr.Is4() {
		a, b := r.Addr, ipv4Of(s.Addr)
		v6only := s.V6Only
		if mapped {
			v6only = No
		}
		return and(not(v6only), is(a == b || a.IsUnspecified() || b.IsUnspecified()))
	}
	switch {
	case binder.ipv4() && mapped:
		a, b := r.Addr.Unmap(), s.Addr.Unmap()
		return is(a == b || a.IsUnspecified() || b.IsUnspecified())
	case binder == v6Any && other == v6Any:
		return Yes
	case other == v6Any:
		return or(not(s.V6Only), is(!binder.ipv4()))
	case binder == v6Any:
		return or(not(r.V6Only), is(!mapped))
	default:
		return is(!mapped && plainAddr(r.Addr) == plainAddr(s.Addr))
	}
}

// ipv4Of is sk_rcv_saddr.
func ipv4Of(a netip.Addr) netip.Addr {
	switch a = a.Unmap(); {
	case a.Is4():
		return a
	case a.IsUnspecified():
		return netip.IPv4Unspecified()
	default:
		return netip.AddrFrom4([4]byte{127, 0, 0, 6}) // LOOPBACK4_IPV6
	}
}

// sameSlot says whether the kernel looks at a socket on the other address in a crowded slot: the hash
// of all wildcards is the same (ipv4_portaddr_hash, ipv6_portaddr_hash).
func sameSlot(binder, other netip.Addr) bool {
	return other.Unmap().IsUnspecified() || plainAddr(binder) == plainAddr(other)
}
