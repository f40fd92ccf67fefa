package bindrule

import "net/netip"

// A Bucket is the part of the port's struct inet_bind_bucket that inet_csk_get_port uses as a
// shortcut: where the bucket admits a request, the kernel checks no socket. It depends on earlier
// sockets that are gone by now, so it cannot be derived from the sockets that exist.
type Bucket struct {
	Known bool

	FastReuse     bool          // fastreuse > 0
	FastReusePort FastReusePort // fastreuseport

	// Chosen says that connect() chose the port, and that no bind() without SO_REUSEADDR came since
	// (fastreuse is -1). It matters to no request.
	Chosen bool

	// The rest has no meaning for FastReusePortNone.
	UID    uint32     // fastuid
	Addr   netip.Addr // fast_rcv_saddr or fast_v6_rcv_saddr, by fast_sk_family
	V6Only bool       // fast_ipv6_only

	// MappedMeetsAny is that of the Port where its kernel does not say, but the bind2 buckets of the
	// wildcards do. False where that is not known.
	MappedMeetsAny bool
}

// FastReusePort is numbered as in include/net/inet_hashtables.h.
type FastReusePort uint8

// The values of FastReusePort.
const (
	FastReusePortNone   FastReusePort = 0 // 0, and -1, which connect() sets
	FastReusePortAny    FastReusePort = 1 // FASTREUSEPORT_ANY: admits any address
	FastReusePortStrict FastReusePort = 2 // FASTREUSEPORT_STRICT
)

// admits says whether bind() succeeds without a check of the sockets.
//
// Where the bucket is not known, SO_REUSEADDR does not matter. fastreuse stays set only
// while every socket of the bucket was bound with SO_REUSEADDR and none listened. Then no
// socket conflicts with a request that has SO_REUSEADDR.
func (b *Bucket) admits(r *Request) Flag {
	if !b.Known {
		return and(r.ReusePort, FlagUnknown)
	}
	return or(and(r.ReuseAddr, is(b.FastReuse)), b.reusePortMatch(r))
}

// reusePortMatch does what sk_reuseport_match does.
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

// covers does what ipv6_rcv_saddr_equal does, or ipv4_rcv_saddr_equal for an AF_INET
// bucket, with match_sk1_wildcard only.
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
		return is(plainAddr(b.Addr) == plainAddr(r.Addr))
	}
}
