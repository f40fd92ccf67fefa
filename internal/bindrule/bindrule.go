package bindrule

import (
	"net/netip"
	"time"

	"sockstate_exporter/internal/sock"
)

// A Port is what is known of one local TCP port of one network namespace.
type Port struct {
	Sockets []Socket

	// Bucket is the kernel's shortcut for the port; of a port that nothing holds it
	// makes no difference.
	Bucket Bucket

	// Incomplete says that there may be sockets which Sockets does not list. A
	// bind is then not Free unless the bucket admits it.
	Incomplete bool
}

// A Socket stands for a number of sockets that bind() could not tell apart.
type Socket struct {
	// Addr is the local address. Is4 means AF_INET, all others, v4-mapped ones
	// included, AF_INET6. A zone is ignored: the kernel keeps it in Ifindex.
	Addr    netip.Addr
	Ifindex uint32 // device the sockets are bound to, or 0

	// V6Only (IPV6_V6ONLY) matters only where Addr is neither IPv4 nor v4-mapped.
	V6Only, ReuseAddr, ReusePort Flag

	// UID as sock_diag shows it; without meaning for KindTimeWait.
	UID UID

	State sock.State
	Kind  sock.Kind

	Count uint64
	// Expires is the time until the last of them is gone; KindTimeWait only.
	Expires time.Duration
}

// A Request is a bind() to the port. Where something of it is Unknown, the
// Verdict tells whether that matters.
type Request struct {
	Addr                         netip.Addr // as in Socket
	Ifindex                      uint32
	V6Only, ReuseAddr, ReusePort Flag
	UID                          UID

	// ListenersAside leaves out sockets in StateListen, which a restart closes.
	ListenersAside bool
}

// A Verdict is the answer to a Request.
type Verdict struct {
	Outcome Outcome

	// Blockers are the indices, in Port.Sockets, of those that conflict with
	// the request. Doubtful ones conflict or do not, by what is not known.
	Blockers, Doubtful []int

	// Until says when all Blockers are gone, if nobody does anything: 0 where
	// there are none; Forever where one has no timer that ends it. Only
	// the Doubtful can make it later, and UntilKnown is false where they might.
	Until      time.Duration
	Forever    bool
	UntilKnown bool
}

// An Outcome is what bind() answers.
type Outcome uint8

// The outcomes.
const (
	Unknown Outcome = iota // it depends on something that is not known
	Free                   // no conflict
	Blocked                // EADDRINUSE
)

func (o Outcome) String() string {
	switch o {
	case Free:
		return "free"
	case Blocked:
		return "blocked"
	default:
		return "unknown"
	}
}

// Bind says what bind() would answer.
func (p *Port) Bind(r Request) Verdict {
	v := Verdict{UntilKnown: !p.Incomplete}
	shortcut := p.Bucket.admits(&r)
	if shortcut == Yes {
		v.Outcome = Free
		v.UntilKnown = true
		return v
	}

	var doubtful time.Duration
	var doubtfulForever bool
	for i := range p.Sockets {
		s := &p.Sockets[i]
		if r.ListenersAside && s.State == sock.StateListen {
			continue
		}
		switch and(conflict(&r, s), not(shortcut)) {
		case Yes:
			v.Blockers = append(v.Blockers, i)
			v.Until = max(v.Until, s.Expires)
			v.Forever = v.Forever || s.Kind != sock.KindTimeWait
		case FlagUnknown:
			v.Doubtful = append(v.Doubtful, i)
			doubtful = max(doubtful, s.Expires)
			doubtfulForever = doubtfulForever || s.Kind != sock.KindTimeWait
		}
	}

	switch {
	case v.Forever:
		v.Until, v.UntilKnown = 0, true
	case doubtfulForever || doubtful > v.Until:
		v.UntilKnown = false
	}
	switch {
	case len(v.Blockers) > 0:
		v.Outcome = Blocked
	case len(v.Doubtful) == 0 && !p.Incomplete:
		v.Outcome = Free
	}
	return v
}

// conflict is inet_bind_conflict of net/ipv4/inet_connection_sock.c with relax and
// reuseport_ok, as for every port but 0, and the question of addresses that its
// callers ask.
func conflict(r *Request, s *Socket) Flag {
	if s.Kind == sock.KindRequest {
		return No // in no bind bucket
	}
	return and(
		is(r.Ifindex == 0 || s.Ifindex == 0 || r.Ifindex == s.Ifindex),
		overlap(r, s),
		not(and(r.ReuseAddr, s.ReuseAddr, is(s.State != sock.StateListen))),
		not(and(r.ReusePort, s.ReusePort, or(is(s.Kind == sock.KindTimeWait), r.UID.equal(s.UID)))),
	)
}
