package seen

import (
	"slices"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

// A Memory keeps what was seen in one network namespace. It forgets a port that is not watched any
// more, so its size follows the number of watched ports. It is not safe for concurrent use.
type Memory struct {
	seen Namespace

	// handedOut: somebody has the slices. They are copied before they change. At rest nothing
	// changes.
	handedOut bool
}

// Namespace returns what was seen so far.
func (m *Memory) Namespace() Namespace {
	m.handedOut = true
	return m.seen
}

// own is called before a change.
func (m *Memory) own() {
	if !m.handedOut {
		return
	}
	m.seen.tcp.ports, m.seen.udp.ports, m.seen.remote = slices.Clone(m.seen.tcp.ports), slices.Clone(m.seen.udp.ports), slices.Clone(m.seen.remote)
	m.handedOut = false
}

// Watch takes the set of watched TCP ports. It comes first: the other parts are about its ports.
func (m *Memory) Watch(set watch.Set) { m.seen.tcp.watch(set) }

// watch forgets the ports that are not in the set.
func (s *seenPorts) watch(set watch.Set) {
	if len(set.Ports) == len(s.set.Ports) && (len(set.Ports) == 0 || &set.Ports[0] == &s.set.Ports[0]) {
		return // a set does not change, so it is the same
	}
	before := *s
	s.set, s.ports = set, make([]Port, len(set.Ports))
	for i, p := range set.Ports {
		s.ports[i] = before.find(p.Number)
		s.ports[i].asked = p.Source == watch.SourceFlag
	}
}

// see notes that the port uses the family, and sockets in these states.
func (m *Memory) see(in *[]Port, i int, f sock.Family, states sock.StateSet) {
	before := (*in)[i].of(f)
	if before.used && before.states|states == before.states {
		return
	}
	m.own()
	now := (*in)[i].of(f)
	now.used = true
	now.states |= states
}

// Listeners takes the listener groups, and how many more there were by port. Not all groups that the
// ports had before are gone unless these are whole.
func (m *Memory) Listeners(groups []ports.Group, dropped map[uint16]int, whole bool) {
	var several map[uint16][]ports.GroupKey
	for i := range groups {
		g := &groups[i]
		n, ok := m.seen.tcp.set.Find(g.Port)
		if !ok {
			continue
		}
		m.see(&m.seen.tcp.ports, n, g.Family, sock.States(sock.StateListen))
		if g.Mixed && !m.seen.tcp.ports[n].Mixed {
			m.own()
			m.seen.tcp.ports[n].Mixed = true
		}
		if g.Sockets > 1 || m.seen.tcp.ports[n].shared[g.GroupKey] {
			if several == nil {
				several = make(map[uint16][]ports.GroupKey)
			}
			several[g.Port] = append(several[g.Port], g.GroupKey)
		}
	}
	if !whole {
		return
	}
	for i := range m.seen.tcp.ports {
		number := m.seen.tcp.set.Ports[i].Number
		m.share(i, several[number])
		if dropped[number] > 0 && !m.seen.tcp.ports[i].GroupsDropped {
			m.own()
			m.seen.tcp.ports[i].GroupsDropped = true
		}
	}
}

// share notes the groups of a port that have, or had, several sockets.
func (m *Memory) share(i int, several []ports.GroupKey) {
	before := m.seen.tcp.ports[i].shared
	if len(several) == len(before) && !slices.ContainsFunc(several, func(k ports.GroupKey) bool { return !before[k] }) {
		return
	}
	m.own()
	now := make(map[ports.GroupKey]bool, len(several))
	for _, k := range several {
		now[k] = true
	}
	m.seen.tcp.ports[i].shared = now
}

// TCP takes the sockets on TCP ports.
func (m *Memory) TCP(counts []ports.PortSockets) {
	for i := range counts {
		p := &counts[i]
		n, ok := m.seen.tcp.set.Find(p.Number)
		if !ok {
			continue
		}
		for _, family := range sock.Families() {
			if states := statesIn(&p.Of(family).States); states != 0 {
				m.see(&m.seen.tcp.ports, n, family, states)
			}
		}
	}
}

// statesIn is the set of states with a count above 0.
func statesIn(counts *[sock.NumStates]uint64) (set sock.StateSet) {
	for state, n := range counts {
		if n > 0 {
			set |= 1 << state
		}
	}
	return set
}

// UDP takes the watched UDP ports and their sockets.
func (m *Memory) UDP(udp *ports.UDP) {
	m.seen.udp.watch(udp.Watch)
	for i := range udp.Ports {
		p := &udp.Ports[i]
		n, ok := m.seen.udp.set.Find(p.Number)
		if !ok {
			continue
		}
		for _, family := range sock.Families() {
			if p.Of(family).Sockets > 0 {
				m.see(&m.seen.udp.ports, n, family, 0)
			}
		}
	}
}

// UDPPorts takes what is on the watched UDP ports. It comes after UDP.
func (m *Memory) UDPPorts(found []udp.Port) {
	for i := range found {
		n, ok := m.seen.udp.set.Find(found[i].Number)
		if !ok {
			continue
		}
		if _, shared := found[i].Shared(); shared && !m.seen.udp.ports[n].Mixed {
			m.own()
			m.seen.udp.ports[n].Mixed = true
		}
		if !m.seen.udp.ports[n].RestartBlocked && found[i].RestartBlocked() {
			m.own()
			m.seen.udp.ports[n].RestartBlocked = true
		}
	}
}

// Remote takes the sockets to the watched remote ports, which are always the same. asked says that
// somebody wants to see a port before there is a socket to it.
func (m *Memory) Remote(counts []ports.RemotePort, asked bool) {
	if len(m.seen.remote) != len(counts) { // the first time
		m.seen.remote = make([]Port, len(counts))
		for i := range m.seen.remote {
			m.seen.remote[i].asked = asked
		}
	}
	for i := range counts {
		p := &counts[i]
		for _, family := range sock.Families() {
			if states := statesIn((*[sock.NumStates]uint64)(p.Of(family))); states != 0 {
				m.see(&m.seen.remote, i, family, states)
			}
		}
	}
}

// Ephemeral takes the busiest destinations.
func (m *Memory) Ephemeral(e *ports.Ephemeral) {
	m.seen.ipv4 = max(m.seen.ipv4, len(e.IPv4))
	m.seen.ipv6 = max(m.seen.ipv6, len(e.IPv6))
}

// Unreserved takes the ports that an outgoing connection can take from their servers.
func (m *Memory) Unreserved(numbers []uint16) {
	for _, number := range numbers {
		if i, ok := m.seen.tcp.set.Find(number); ok && !m.seen.tcp.ports[i].Unreserved {
			m.own()
			m.seen.tcp.ports[i].Unreserved = true
		}
	}
}

// Verdicts takes the verdicts on TCP ports.
func (m *Memory) Verdicts(verdicts []verdict.Port) {
	for i := range verdicts {
		v := &verdicts[i]
		if n, ok := m.seen.tcp.set.Find(v.Number); ok {
			m.block(n, v.Binds)
		}
	}
}

// block notes what blocks the binds of a port, and forgets the binds that are not judged any more.
func (m *Memory) block(i int, binds []verdict.Bind) {
	before := m.seen.tcp.ports[i].blockers
	kept, changed := 0, false
	for n := range binds {
		was := m.seen.tcp.ports[i].Blockers(&binds[n])
		now := was | blockersOf(&binds[n])
		changed = changed || now != was
		if was != 0 {
			kept++
		}
	}
	if !changed && kept == len(before) {
		return
	}
	now := make(map[bindKey]sock.StateSet)
	for n := range binds {
		b := &binds[n]
		if states := before[bindKey{b.Address, b.ReuseAddr}] | blockersOf(b); states != 0 {
			now[bindKey{b.Address, b.ReuseAddr}] = states
		}
	}
	m.own()
	m.seen.tcp.ports[i].blockers = now
}

func blockersOf(b *verdict.Bind) sock.StateSet {
	if !b.BlockersKnown {
		return 0
	}
	return statesIn(&b.Blockers)
}

// Failures takes the failed calls, those of other namespaces too, and notes the families in which a
// watched port failed to bind. netns is the inode number of the namespace.
func (m *Memory) Failures(netns uint32, counts []bindtrace.Count) {
	for _, c := range counts {
		if c.Netns != netns || c.OtherPort || c.Op != bindtrace.OpBind || c.N == 0 {
			continue
		}
		in := &m.seen.tcp
		switch c.Protocol {
		case sock.TCP, sock.MPTCP:
		case sock.UDP:
			in = &m.seen.udp
		default:
			continue
		}
		if i, ok := in.set.Find(c.Port); ok {
			family := sock.FamilyIPv4
			if c.Family == sock.FamilyIPv6 {
				family = sock.FamilyIPv6
			}
			m.see(&in.ports, i, family, 0)
		}
	}
}
