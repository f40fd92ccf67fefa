package bindrule

import (
	"net/netip"
	"time"

	"sockstate_exporter/internal/sock"
)

// A Port is one local TCP port of one network namespace, as far as it is known.
type Port struct {
	Sockets []Socket

	// Bucket is the kernel's summary of the binds to the port. It does not matter if Sockets is
	// empty.
	Bucket Bucket

	// Incomplete says that some sockets may be missing in Sockets. A bind is then Free only if the
	// bucket admits it.
	Incomplete bool

	// MappedMeetsAny says whether a v4-mapped address conflicts with 0.0.0.0 and ::ffff:0.0.0.0. Linux
	// 6.12 and later: Yes. Before, it depends on Bucket.MappedMeetsAny.
	MappedMeetsAny Flag

	// Folding has folded some of the sockets. What it replaced is known for the requests that
	// it expects, and unknown for others.
	Folding *Folding
}

// A Socket stands for one or more sockets that are the same to bind().
type Socket struct {
	// Addr is the local address. An IPv4 address (Is4) means AF_INET. Any other,
	// also a v4-mapped one, means AF_INET6. A zone is ignored: the kernel keeps it in
	// Ifindex.
	Addr netip.Addr

	// Elsewhere is set in place of Addr where a Folding has folded sockets of several addresses:
	// to the family of the addresses, IPv4 if they are v4-mapped. They are no wildcards, and no
	// expected request names one of them.
	Elsewhere sock.Family

	Ifindex uint32 // device that the sockets are bound to, or 0

	// V6Only (IPV6_V6ONLY) matters only where Addr is neither IPv4 nor v4-mapped.
	V6Only, ReuseAddr, ReusePort Flag

	// UID is the owner, as sock_diag reports it. It has no meaning for KindTimeWait.
	UID UID

	State sock.State
	Kind  sock.Kind

	// NamedPort says that the program of a connection has named the local port, so that this side
	// opened it. False where that is not known. bind() does not look at it.
	NamedPort bool

	// Queued says that nobody has accepted the connection: the kernel resets it with its listener
	// (inet_csk_listen_stop). False where that is not known.
	Queued bool

	Count uint64
	// Expires is the time until the last of them is gone. KindTimeWait only.
	Expires time.Duration
}

// A Request is a bind() to the port. Flags and UID may be unknown: the Verdict is
// Unknown only if that matters.
type Request struct {
	Addr                         netip.Addr // as in Socket
	Ifindex                      uint32
	V6Only, ReuseAddr, ReusePort Flag
	UID                          UID

	// ListenersAside leaves out the sockets in StateListen and what is Queued, because a restart closes
	// them.
	ListenersAside bool

	// ServerEnds says that the end of the server closes its connections. Those in CLOSE_WAIT are gone as
	// soon as the peers confirm that (LAST_ACK): they are Doubtful, and Until does not count them. All
	// others that are open stay: they wait for the peer to close, and then in TIME_WAIT.
	ServerEnds bool
}

// A Verdict is the answer to a Request.
type Verdict struct {
	Outcome Outcome

	// Blockers are the indexes in Port.Sockets of the sockets that conflict with the
	// request. Doubtful are the indexes of those that may conflict: that depends on
	// something that is not known.
	Blockers, Doubtful []int

	// Until is the time until all Blockers are gone by themselves, or 0 where there
	// are none. Forever says that no timer ends one of them; Until is 0 then.
	// UntilKnown is false where Doubtful sockets might make the time longer, or where
	// Port.Incomplete sockets might.
	Until      time.Duration
	Forever    bool
	UntilKnown bool
}

// An Outcome says whether bind() would succeed.
type Outcome uint8

// The outcomes.
const (
	Unknown Outcome = iota // it depends on something that is not known
	Free                   // it would succeed
	Blocked                // it would fail with EADDRINUSE
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

// Bind says whether bind() would succeed.
func (p *Port) Bind(r Request) Verdict {
	v := Verdict{UntilKnown: !p.Incomplete}
	shortcut := p.Bucket.admits(&r)
	if shortcut == Yes {
		v.Outcome = Free
		v.UntilKnown = true
		return v
	}

	mappedMeetsAny := or(p.MappedMeetsAny, is(p.Bucket.MappedMeetsAny))
	expected := p.hasFolded() && p.Folding.expects(&r)
	var doubtful time.Duration
	var doubtfulForever bool
	for i := range p.Sockets {
		s := &p.Sockets[i]
		if r.ListenersAside && (s.State == sock.StateListen || s.Queued) {
			continue
		}
		switch conflicts := and(conflict(&r, s, expected, mappedMeetsAny), not(shortcut)); {
		case conflicts == No:
		case r.ServerEnds && s.State == sock.StateCloseWait:
			v.Doubtful = append(v.Doubtful, i)
		case conflicts == Yes:
			v.Blockers = append(v.Blockers, i)
			v.Until = max(v.Until, s.Expires)
			v.Forever = v.Forever || s.Kind != sock.KindTimeWait
		default:
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

// hasFolded says whether a Folding has replaced anything: on most ports it has not.
func (p *Port) hasFolded() bool {
	for i := range p.Sockets {
		s := &p.Sockets[i]
		if s.Elsewhere != 0 || s.Ifindex == sock.OtherIfindex || s.UID == UIDOf(sock.OtherUID) {
			return true
		}
	}
	return false
}

// conflict does what inet_bind_conflict (net/ipv4/inet_connection_sock.c) does with relax
// and reuseport_ok, as for every port other than 0. It also compares the addresses, which
// the callers of inet_bind_conflict do. expected: what a Folding replaced differs from the request.
func conflict(r *Request, s *Socket, expected bool, mappedMeetsAny Flag) Flag {
	if s.Kind == sock.KindRequest {
		return No // in no bind bucket
	}
	return and(
		or(is(r.Ifindex == 0 || s.Ifindex == 0), sameDevice(r, s, expected)),
		overlap(r, s, expected, mappedMeetsAny),
		not(and(r.ReuseAddr, s.ReuseAddr, is(s.State != sock.StateListen))),
		not(and(r.ReusePort, s.ReusePort, or(is(s.Kind == sock.KindTimeWait), sameUser(r, s, expected)))),
	)
}

func sameDevice(r *Request, s *Socket, expected bool) Flag {
	if s.Ifindex == sock.OtherIfindex && !expected {
		return FlagUnknown
	}
	return is(r.Ifindex == s.Ifindex)
}

func sameUser(r *Request, s *Socket, expected bool) Flag {
	if s.UID == UIDOf(sock.OtherUID) && !expected {
		return FlagUnknown
	}
	return r.UID.equal(s.UID)
}
