package snapshot

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/netlinkdiag"
)

// PortVerdicts say what a bind() to a watched port would answer at the moment of the
// snapshot, listeners aside: a restart closes them.
type PortVerdicts struct {
	Number   uint16
	Binds    []BindVerdict    // by address, then without and with SO_REUSEADDR
	Restarts []RestartVerdict // by address

	// Port is what they were judged by, and listeners, for whoever asks about another bind.
	Port bindrule.Port
}

// A BindVerdict is the answer to a binder without SO_REUSEPORT.
type BindVerdict struct {
	Address   netip.Addr
	ReuseAddr bool // the binder has SO_REUSEADDR
	Verdict
}

// A RestartVerdict is the answer to a restart of a listener: its address, its flags, its user.
type RestartVerdict struct {
	Address   netip.Addr
	Ifindex   uint32
	Listening bool // it is there; else it went less than the retention ago
	Owner     owner.Owner
	ReuseAddr bindrule.Flag
	ReusePort bindrule.Flag
	Verdict
}

// A Verdict is bindrule's, with the blockers counted.
type Verdict struct {
	bindrule.Verdict
	// Blockers by netlinkdiag.State: only those that are sure. There are no others where
	// BlockersKnown.
	Blockers      [netlinkdiag.NumStates]uint64
	BlockersKnown bool
}

// Remaining is for how long the bind would keep failing: 0 where it would succeed. ok is false
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

// FamilyOf is the address family of a socket that is bound to the address.
func FamilyOf(a netip.Addr) netlinkdiag.Family {
	if a.Is4() {
		return netlinkdiag.FamilyIPv4
	}
	return netlinkdiag.FamilyIPv6
}

// remembered is what is kept of a listener group after it went: that is when it matters
// whether it could come back.
type remembered struct {
	v6only               bindrule.Flag
	reuseAddr, reusePort bindrule.Flag
	creator
	owner owner.Owner
	seen  time.Time
}

// A memory of listeners, by group.
type memory struct {
	keep   time.Duration
	groups map[GroupKey]remembered
}

func newMemory(keep time.Duration) *memory {
	return &memory{keep: keep, groups: make(map[GroupKey]remembered)}
}

// update takes the groups that listen now. A flag of the same sockets that is not known now
// stays what it was.
func (m *memory) update(now time.Time, set ports.Set, listeners []listener, groups []Group, flags []GroupReuse) {
	maps.DeleteFunc(m.groups, func(k GroupKey, r remembered) bool {
		_, watched := set.Find(k.Port)
		return !watched || now.Sub(r.seen) > m.keep
	})
	creators := creatorsOf(listeners)
	for i, g := range groups {
		r := remembered{seen: now, v6only: bindrule.FlagOf(g.V6Only), creator: creators[g.GroupKey], owner: g.Owner}
		if i < len(flags) {
			r.reuseAddr, r.reusePort = flags[i].ReuseAddr, flags[i].ReusePort
		}
		if before := m.groups[g.GroupKey]; before.cookies == r.cookies {
			r.reuseAddr = keepKnown(r.reuseAddr, before.reuseAddr)
			r.reusePort = keepKnown(r.reusePort, before.reusePort)
			if !r.owner.Known() {
				r.owner = before.owner
			}
		}
		m.groups[g.GroupKey] = r
	}
	m.trim()
}

// trim forgets, of ports with too many groups, those that are not shown (cut), and those that
// went before those that are there.
func (m *memory) trim() {
	ports := m.byPort()
	var counts []int
	for _, keys := range ports {
		counts = append(counts, len(keys))
	}
	n := level(counts)
	for _, keys := range ports {
		if len(keys) <= n {
			continue
		}
		slices.SortFunc(keys, func(a, b GroupKey) int {
			return cmp.Or(
				cmp.Compare(a.standing(), b.standing()),
				m.groups[b].seen.Compare(m.groups[a].seen),
				a.compare(b),
			)
		})
		for _, k := range keys[n:] {
			delete(m.groups, k)
		}
	}
}

func (m *memory) byPort() map[uint16][]GroupKey {
	ports := make(map[uint16][]GroupKey)
	for k := range m.groups {
		ports[k.Port] = append(ports[k.Port], k)
	}
	return ports
}

func keepKnown(now, before bindrule.Flag) bindrule.Flag {
	if now == bindrule.FlagUnknown {
		return before
	}
	return now
}

// A creator is the user that made the sockets of a group.
type creator struct {
	uid     bindrule.UID // where it is one
	cookies uint64       // all of them, folded: other sockets, another number
}

func creatorsOf(listeners []listener) map[GroupKey]creator {
	out := make(map[GroupKey]creator)
	for _, l := range listeners {
		o, ok := out[l.key]
		switch {
		case !ok:
			o.uid = bindrule.UIDOf(l.uid)
		case o.uid != bindrule.UIDOf(l.uid):
			o.uid = bindrule.UID{}
		}
		o.cookies ^= l.cookie
		out[l.key] = o
	}
	return out
}

// bindPorts gives, for each watched port, the sockets that a bind would meet: those of the
// dump whose flags nobody knows, and the others from what knows them.
func bindPorts(set ports.Set, tcp *fold, reuse *Reuse, wheel wheel) []bindrule.Port {
	ports := make([]bindrule.Port, len(set.Ports))
	for i := range set.Ports {
		ports[i] = bindrule.Port{Sockets: tcp.held[i].sockets(), Incomplete: tcp.held[i].overflow}
		wheel.correct(ports[i].Sockets, tcp.at)
		if reuse.complete && !reuse.Ports[i].Known {
			ports[i].Incomplete = true
		}
		ports[i].Bucket = bucketOf(reuse.buckets, set.Ports[i].Number)
	}
	for _, g := range reuse.Sockets {
		if i, ok := set.Find(g.Port); ok {
			s := []bindrule.Socket{fromFlags(&g)}
			wheel.correct(s, reuse.at)
			ports[i].Sockets = append(ports[i].Sockets, s...)
		}
	}
	return ports
}

// addListeners adds the listener groups to their ports.
func addListeners(ports []bindrule.Port, set ports.Set, listeners []listener, groups []Group, flags []GroupReuse) {
	creators := creatorsOf(listeners)
	for i, g := range groups {
		n, ok := set.Find(g.Port)
		if !ok {
			continue
		}
		s := bindrule.Socket{
			Addr: g.Address, Ifindex: g.Ifindex, V6Only: bindrule.FlagOf(g.V6Only), UID: creators[g.GroupKey].uid,
			State: bindrule.StateListen, Count: g.Sockets,
		}
		if i < len(flags) {
			s.ReuseAddr, s.ReusePort = flags[i].ReuseAddr, flags[i].ReusePort
		}
		ports[n].Sockets = append(ports[n].Sockets, s)
	}
}

// bucketOf is the kernel's shortcut for the port, where it is known.
func bucketOf(buckets map[uint16]sockflags.Bucket, port uint16) bindrule.Bucket {
	b, known := buckets[port]
	return bindrule.Bucket{
		Known:         known,
		FastReuse:     b.FastReuse > 0,
		FastReusePort: bindrule.FastReusePort(max(b.FastReusePort, 0)), // -1 is none, too
		UID:           b.UID,
		Addr:          b.Addr,
		V6Only:        b.V6Only,
	}
}

func fromFlags(g *sockflags.Group) bindrule.Socket {
	s := bindrule.Socket{
		Addr:      g.Addr,
		Ifindex:   g.Ifindex,
		V6Only:    bindrule.FlagOf(g.V6Only),
		ReuseAddr: bindrule.FlagOf(g.ReuseAddr),
		ReusePort: bindrule.FlagOf(g.ReusePort),
		State:     bindrule.State(g.State),
		Kind:      bindrule.Kind(g.Kind),
		Count:     g.Count,
		Expires:   g.Expires,
	}
	if s.Kind == bindrule.KindFull {
		s.UID = bindrule.UIDOf(g.UID)
	}
	return s
}

// verdicts judge every watched port: ports[i] is of set.Ports[i].
func (m *memory) verdicts(now time.Time, set ports.Set, ports []bindrule.Port) []PortVerdicts {
	out := make([]PortVerdicts, len(ports))
	known := m.byPort()
	for i := range ports {
		number := set.Ports[i].Number
		out[i] = m.judge(now, number, known[number], &ports[i])
	}
	return out
}

func (m *memory) judge(now time.Time, number uint16, groups []GroupKey, port *bindrule.Port) PortVerdicts {
	slices.SortFunc(groups, GroupKey.compare)
	v := PortVerdicts{Number: number, Port: *port}
	for _, key := range groups {
		r := m.groups[key]
		request := bindrule.Request{
			Addr: key.Address, Ifindex: key.Ifindex, V6Only: r.v6only,
			ReuseAddr: r.reuseAddr, ReusePort: r.reusePort, UID: r.uid, ListenersAside: true,
		}
		v.Restarts = append(v.Restarts, RestartVerdict{
			Address: key.Address, Ifindex: key.Ifindex, Listening: r.seen.Equal(now), Owner: r.owner,
			ReuseAddr: r.reuseAddr, ReusePort: r.reusePort, Verdict: ask(port, request),
		})
		v.addBinds(port, request)
	}
	if len(groups) == 0 {
		for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			v.addBinds(port, bindrule.Request{Addr: a, V6Only: bindrule.No, ListenersAside: true})
		}
	}
	return v
}

// addBinds asks what a binder to the request's address would be answered, without and with
// SO_REUSEADDR. Of several devices on one address the worst counts.
func (v *PortVerdicts) addBinds(port *bindrule.Port, request bindrule.Request) {
	request.ReusePort = bindrule.No
	for _, reuseAddr := range []bool{false, true} {
		request.ReuseAddr = bindrule.FlagOf(reuseAddr)
		b := BindVerdict{Address: request.Addr, ReuseAddr: reuseAddr, Verdict: ask(port, request)}
		same := slices.IndexFunc(v.Binds, func(o BindVerdict) bool {
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
		if s := &port.Sockets[i]; int(s.State) < netlinkdiag.NumStates {
			v.Blockers[s.State] += s.Count
		}
	}
	return v
}

// Worse says whether this is the worse of two verdicts: free, blocked for a while, for longer,
// for nobody knows how long, for ever.
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
