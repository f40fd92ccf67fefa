package verdict

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A Port says what a bind() to a watched port would answer at this moment if its listeners were
// closed, as a restart does.
type Port struct {
	Number   uint16
	Binds    []Bind    // by address, then without and with SO_REUSEADDR
	Restarts []Restart // by address

	// Port has the sockets, listeners too, to ask about another bind.
	Port bindrule.Port
}

// A Bind is the answer to a bind without SO_REUSEPORT.
type Bind struct {
	Address   netip.Addr
	ReuseAddr bool // the binder has SO_REUSEADDR
	Verdict
}

// A Restart is the answer to a restart of a listener, with its address, flags and user.
type Restart struct {
	Address   netip.Addr
	Ifindex   uint32
	Listening bool // it listens now; if not, it closed less than the retention ago
	Owner     owner.Owner
	ReuseAddr bindrule.Flag
	ReusePort bindrule.Flag
	Verdict
}

// A Verdict is that of bindrule, with the blockers counted.
type Verdict struct {
	bindrule.Verdict
	// Blockers counts, by sock.State, the sockets that certainly block. BlockersKnown says that
	// there are no others.
	Blockers      [sock.NumStates]uint64
	BlockersKnown bool
}

// Remaining returns how long the bind would keep failing: 0 where it would succeed. ok is false
// where that is not known.
func (v *Verdict) Remaining() (left time.Duration, forever, ok bool) {
	switch {
	case v.Outcome == bindrule.Unknown, v.Outcome == bindrule.Blocked && !v.UntilKnown:
		return 0, false, false
	case v.Outcome == bindrule.Blocked && v.Forever:
		return 0, true, true
	default:
		return v.Until, false, true
	}
}

// Judge judges every watched port: in[i] is what is on set.Ports[i].
func (h *History) Judge(now time.Time, set watch.Set, in []bindrule.Port) []Port {
	out := make([]Port, len(in))
	groups := make(map[uint16][]ports.GroupKey, len(h.keys))
	for port, keys := range h.byPort() {
		groups[port] = keys
	}
	var empty Port // ports on which nothing is have the same answers
	empty.addServerBinds(&empty.Port)
	for i := range in {
		number := set.Ports[i].Number
		if len(groups[number]) == 0 && len(in[i].Sockets) == 0 && !in[i].Incomplete {
			out[i] = Port{Number: number, Port: in[i], Binds: empty.Binds}
			continue
		}
		out[i] = h.judge(now, number, groups[number], &in[i])
	}
	return out
}

func (h *History) judge(now time.Time, number uint16, groups []ports.GroupKey, port *bindrule.Port) Port {
	addresses := len(groups)
	if addresses == 0 {
		addresses = 2 // addServerBinds
	}
	v := Port{
		Number: number, Port: *port,
		Restarts: make([]Restart, 0, len(groups)), Binds: make([]Bind, 0, 2*addresses),
	}
	for _, key := range groups {
		r := h.groups[key]
		request := bindrule.Request{
			Addr: key.Address, Ifindex: key.Ifindex, V6Only: r.v6only,
			ReuseAddr: r.reuseAddr, ReusePort: r.reusePort, UID: r.uid, ListenersAside: true, ServerEnds: r.seen.Equal(now),
		}
		v.Restarts = append(v.Restarts, Restart{
			Address: key.Address, Ifindex: key.Ifindex, Listening: request.ServerEnds, Owner: r.owner,
			ReuseAddr: r.reuseAddr, ReusePort: r.reusePort, Verdict: ask(port, request),
		})
		v.addBinds(port, request)
	}
	if len(groups) == 0 {
		v.addServerBinds(port)
	}
	return v
}

// addServerBinds asks for binds to the wildcard addresses.
func (v *Port) addServerBinds(port *bindrule.Port) {
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		v.addBinds(port, bindrule.Request{Addr: a, V6Only: bindrule.No, ListenersAside: true})
	}
}

// addBinds asks for a bind to the request's address, without and with SO_REUSEADDR. Of several
// devices on one address the worst answer counts.
func (v *Port) addBinds(port *bindrule.Port, request bindrule.Request) {
	request.ReusePort, request.ServerEnds = bindrule.No, false
	for _, reuseAddr := range []bool{false, true} {
		request.ReuseAddr = bindrule.FlagOf(reuseAddr)
		b := Bind{Address: request.Addr, ReuseAddr: reuseAddr, Verdict: ask(port, request)}
		same := slices.IndexFunc(v.Binds, func(o Bind) bool {
			return o.Address == b.Address && o.ReuseAddr == b.ReuseAddr
		})
		switch {
		case same < 0:
			v.Binds = append(v.Binds, b)
		case b.Worse(&v.Binds[same].Verdict):
			v.Binds[same] = b
		}
	}
}

func ask(port *bindrule.Port, request bindrule.Request) Verdict {
	v := Verdict{Verdict: port.Bind(request)}
	v.BlockersKnown = v.Outcome != bindrule.Unknown && len(v.Doubtful) == 0 && !port.Incomplete
	for _, i := range v.Verdict.Blockers {
		if s := &port.Sockets[i]; int(s.State) < sock.NumStates {
			v.Blockers[s.State] += s.Count
		}
	}
	return v
}

// Worse says whether this verdict is worse than another one. From good to bad: free, blocked for a
// while, for longer, for an unknown time, until somebody closes a socket.
func (v *Verdict) Worse(than *Verdict) bool {
	left, rank := v.rank()
	otherLeft, other := than.rank()
	return cmp.Or(cmp.Compare(rank, other), cmp.Compare(left, otherLeft)) > 0
}

func (v *Verdict) rank() (time.Duration, int) {
	switch left, forever, ok := v.Remaining(); {
	case !ok:
		return 0, 1
	case forever:
		return 0, 2
	default:
		return left, 0
	}
}
