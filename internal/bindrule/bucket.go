package bindrule

import "net/netip"

// A Bucket is the port's struct inet_bind_bucket as far as inet_csk_get_port uses it
// as a shortcut: where it admits a request, no socket is asked. It remembers binds
// of sockets that are long gone, so it cannot be told from the sockets.
type Bucket struct {
	Known bool

	FastReuse     bool          // fastreuse > 0
	FastReusePort FastReusePort // fastreuseport

	// UID, Addr and V6Only: fastuid; fast_rcv_saddr or, by fast_sk_family,
	// fast_v6_rcv_saddr; fast_ipv6_only. Without meaning for FastReusePortNone.
	UID    uint32
	Addr   netip.Addr
	V6Only bool
}

// FastReusePort is numbered as in include/net/inet_hashtables.h.
type FastReusePort uint8

// The values of FastReusePort.
const (
	FastReusePortNone   FastReusePort = 0 // 0, and -1, which connect() sets
	FastReusePortAny    FastReusePort = 1 // FASTREUSEPORT_ANY: to any address
	FastReusePortStrict FastReusePort = 2 // FASTREUSEPORT_STRICT
)

// admits says whether bind() succeeds without asking a socket.
//
// Where the bucket is not known, SO_REUSEADDR is no matter: fastreuse stays set
// only while every socket of the bucket was bound with it and none listened, and
// then none conflicts with a request that has it either.
func (b *Bucket) admits(r *Request) Flag {
	if !b.Known {
		return and(r.ReusePort, FlagUnknown)
	}
	return or(and(r.ReuseAddr, is(b.FastReuse)), b.reusePortMatch(r))
}

// reusePortMatch is sk_reuseport_match.
func (b *Bucket) reusePortMatch(r *Request) Flag {
	if b.FastReusePort == FastReusePortNone {
		return No
	}
	match := and(r.ReusePort, r.UID.equal(UIDOf(b.UID)))
	if b.FastReusePort == FastReusePortAny {
		return match
	}
	return and(match, b.covers(r))
}

// covers is ipv6_rcv_saddr_equal, or for an AF_INET bucket ipv4_rcv_saddr_equal, with
// match_sk1_wildcard only.
func (b *Bucket) covers(r *Request) Flag {
	fast, binder := kindOf(b.Addr), kindOf(r.Addr)
	switch {
	case fast == v4Any && binder == v6Any:
		return not(r.V6Only)
	case fast == v4Any || fast == mappedAny:
		return is(binder.ipv4())
	case fast == v6Any:
		return is(!b.V6Only || !binder.ipv4())
	default:
		return is(sameAddr(b.Addr, r.Addr))
	}
}
