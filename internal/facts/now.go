package facts

import (
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
)

// A Look is what is on a port now, for the diagnosis of binds that nobody has made.
type Look struct {
	Number    uint16
	Port      *bindrule.Port
	Listeners []ports.Group
	Open      []Open
	Host      diagnosis.Host
}

// Open is a number of sockets that do not listen and that one process has open. Peer is set for a
// single connection.
type Open struct {
	State sock.State
	Addr  netip.Addr
	Peer  netip.AddrPort
	Count uint64
	Owner owner.Owner
}

// Bind is the diagnosis of a bind by what bindrule says of it. halfFree says that its IPv6 half alone
// would work.
func (l *Look) Bind(r bindrule.Request, v *bindrule.Verdict, halfFree bool) diagnosis.Diagnosis {
	f := l.facts(r, v)
	f.HalfFree = halfFree
	return diagnosis.Of(&f)
}

// Restart is the diagnosis of a restart of a server, which listens now or did lately.
func (l *Look) Restart(r bindrule.Request, v *bindrule.Verdict, by owner.Owner, running bool) diagnosis.Diagnosis {
	f := l.facts(r, v)
	f.Call, f.By, f.Running, f.Host.Listened = diagnosis.Restart, by, running, true
	return diagnosis.Of(&f)
}

// facts has no sockets where the bind would work.
func (l *Look) facts(r bindrule.Request, v *bindrule.Verdict) diagnosis.Facts {
	more := 0
	for i := range l.Listeners {
		more += l.Listeners[i].OthersMore
	}
	return diagnosis.Facts{
		MoreHolders: more,
		Protocol:    sock.TCP, Port: l.Number, PortKnown: true, Request: r, Seen: diagnosis.Now, Host: l.Host,
		Blockers: l.blockers(v.Blockers), Doubtful: l.blockers(v.Doubtful), Partial: l.Port.Incomplete,
	}
}

func (l *Look) blockers(indices []int) []diagnosis.Blocker {
	var out []diagnosis.Blocker
	for _, i := range indices {
		s := l.Port.Sockets[i]
		if s.State == sock.StateListen {
			out = append(out, l.listeners(s)...)
		} else {
			out = append(out, l.opened(s)...)
		}
	}
	return out
}

// listeners names everybody who has one of the sockets open.
func (l *Look) listeners(s bindrule.Socket) []diagnosis.Blocker {
	i := slices.IndexFunc(l.Listeners, func(g ports.Group) bool { return g.Address == s.Addr && g.Ifindex == s.Ifindex })
	if i < 0 {
		return []diagnosis.Blocker{{Socket: s, Held: true}}
	}
	g := &l.Listeners[i]
	owners := g.AllOwners()
	if len(owners) == 0 {
		owners = []owner.Owner{g.Owner} // says why nobody is known
	}
	var out []diagnosis.Blocker
	left := s.Count
	for i := range owners {
		if left == 0 {
			break
		}
		b := diagnosis.Blocker{Socket: s, Held: true, Holder: owners[i], Opener: goneOpener(&owners[i])}
		b.Count = 1
		left--
		out = append(out, b)
	}
	if len(out) > 0 {
		out[0].Count += left
	}
	return out
}

// opened names the processes that have sockets in this state on the address open.
func (l *Look) opened(s bindrule.Socket) []diagnosis.Blocker {
	var out []diagnosis.Blocker
	outgoing := outgoing(&s, &l.Port.Bucket)
	for _, o := range l.holders(&s) {
		if s.Count == 0 {
			break
		}
		b := diagnosis.Blocker{Socket: s, Outgoing: outgoing, Held: true, Holder: o.Owner}
		b.Count = min(o.Count, s.Count)
		if o.Count == 1 {
			b.Peer = o.Peer
		}
		s.Count -= b.Count
		out = append(out, b)
	}
	if s.Count > 0 {
		out = append(out, diagnosis.Blocker{Socket: s, Outgoing: outgoing})
	}
	return out
}

// holders are who has the sockets open. Where others are in the same state on the same address, and differ in
// their flags or in who opened them, nobody knows whose are whose, unless one process has them all.
func (l *Look) holders(s *bindrule.Socket) []Open {
	if s.Kind != sock.KindFull || s.Queued {
		return nil
	}
	var out []Open
	for i := range l.Open {
		o := &l.Open[i]
		if o.State == s.State && (s.Elsewhere != 0 || o.Addr.Unmap() == s.Addr.Unmap()) {
			out = append(out, *o)
		}
	}
	alike := 0
	for i := range l.Port.Sockets {
		o := &l.Port.Sockets[i]
		if o.Kind == sock.KindFull && !o.Queued && o.State == s.State && (s.Elsewhere != 0 || o.Elsewhere != 0 || o.Addr.Unmap() == s.Addr.Unmap()) {
			alike++
		}
	}
	if alike > 1 && slices.ContainsFunc(out, func(o Open) bool { return o.Owner.PID != out[0].Owner.PID }) {
		for i := range out {
			out[i].Owner, out[i].Peer = owner.Owner{}, netip.AddrPort{}
		}
	}
	return out
}
