package snapshot

import (
	"errors"
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

// A SeenPort says what was seen on a port since it came into the watch. Metrics have series for what
// was seen, and keep them with 0, so that no series comes and goes with its value. It is part of the
// snapshot, so all callers show the same series, whenever they began. The zero value is a port with
// nothing on it.
type SeenPort struct {
	ipv4, ipv6 seenFamily
	asked      bool // somebody asked for the port: it has series before anything is on it

	// GroupsDropped says that the port had too many listener groups.
	GroupsDropped bool

	// Of the addresses that the snapshot still has. A map is replaced, not changed.
	shared   map[ports.GroupKey]bool
	blockers map[bindKey]sock.StateSet
}

type seenFamily struct {
	used   bool // it had a socket, or a bind failed
	states sock.StateSet
}

// A bindKey is one verdict.Bind of a port.
type bindKey struct {
	address   netip.Addr
	reuseAddr bool
}

func (p *SeenPort) of(f sock.Family) *seenFamily {
	if f == sock.FamilyIPv6 {
		return &p.ipv6
	}
	return &p.ipv4
}

// InUse says whether the port listened, had sockets or failed to bind in the family. A port that
// somebody asked for uses both families as long as it has used neither.
func (p *SeenPort) InUse(f sock.Family) bool {
	return p.of(f).used || p.asked && !p.ipv4.used && !p.ipv6.used
}

// States are those in which a socket of the family was seen.
func (p *SeenPort) States(f sock.Family) sock.StateSet { return p.of(f).states }

// Shared says whether the listener group had several sockets.
func (p *SeenPort) Shared(k ports.GroupKey) bool { return p.shared[k] }

// Blockers are the states of sockets that were seen to block the bind.
func (p *SeenPort) Blockers(b *verdict.Bind) sock.StateSet {
	return p.blockers[bindKey{b.Address, b.ReuseAddr}]
}

// Seen is what a Memory hands out with a Namespace.
type Seen struct {
	tcp, udp   seenPorts
	remote     []SeenPort // by Remote.Data
	ipv4, ipv6 int        // most destinations in Ephemeral
}

// seenPorts has what was seen on the ports of a set: ports[i] is of set.Ports[i].
type seenPorts struct {
	set   watch.Set
	ports []SeenPort
}

func (s *seenPorts) find(port uint16) SeenPort {
	if i, ok := s.set.Find(port); ok {
		return s.ports[i]
	}
	return SeenPort{}
}

// TCP returns what was seen on a watched TCP port.
func (s *Seen) TCP(port uint16) SeenPort { return s.tcp.find(port) }

// UDP returns what was seen on a watched UDP port.
func (s *Seen) UDP(port uint16) SeenPort { return s.udp.find(port) }

// Remote returns what was seen of the i-th of the watched remote ports.
func (s *Seen) Remote(i int) SeenPort {
	if i < len(s.remote) {
		return s.remote[i]
	}
	return SeenPort{}
}

// Destinations is the largest number of destinations of the family that Ephemeral had.
func (s *Seen) Destinations(f sock.Family) int {
	if f == sock.FamilyIPv6 {
		return s.ipv6
	}
	return s.ipv4
}

// A Memory keeps what was seen in one network namespace. It forgets a port that is not watched any
// more, so its size follows the number of watched ports. It is not safe for concurrent use.
type Memory struct {
	seen Seen

	// handedOut: a Namespace has the slices. They are copied before they change. At rest nothing
	// changes.
	handedOut bool
}

// beside returns a publish for one snapshot. It also notes what each part shows, and publishes what
// was seen together with the part.
func (m *Memory) beside(publish func(func(*Namespace))) func(func(*Namespace)) {
	var noted notedParts
	return func(set func(*Namespace)) {
		publish(func(ns *Namespace) {
			set(ns)
			m.note(ns, &noted)
		})
	}
}

// Note notes what a whole Namespace shows, and hands out with it what was seen.
func (m *Memory) Note(ns *Namespace) { m.note(ns, new(notedParts)) }

// notedParts are the parts of one snapshot that were noted. What a Memory needs of a part does not
// change when the part is published again.
type notedParts [6]bool

func (m *Memory) note(ns *Namespace, noted *notedParts) {
	clients := ns.Remote.Err
	if clients == nil {
		clients = ns.Ephemeral.Err
	}
	for i, part := range [len(noted)]struct {
		err  error
		note func(*Memory, *Namespace)
	}{
		{ns.Watch.Err, (*Memory).noteWatch}, // first: the other parts need the set
		{ns.Listeners.Err, (*Memory).noteListeners},
		{ns.TCP.Err, (*Memory).noteTCP},
		{ns.UDP.Err, (*Memory).noteUDP},
		{clients, (*Memory).noteClients},
		{ns.Verdicts.Err, (*Memory).noteVerdicts},
	} {
		if !noted[i] && !errors.Is(part.err, errPending) {
			noted[i] = true
			part.note(m, ns)
		}
	}
	m.handOut(ns)
}

func (m *Memory) handOut(ns *Namespace) {
	ns.Seen = m.seen
	m.handedOut = true
}

// own is called before a change.
func (m *Memory) own() {
	if !m.handedOut {
		return
	}
	m.seen.tcp.ports, m.seen.udp.ports, m.seen.remote = slices.Clone(m.seen.tcp.ports), slices.Clone(m.seen.udp.ports), slices.Clone(m.seen.remote)
	m.handedOut = false
}

func (m *Memory) noteWatch(ns *Namespace) { m.seen.tcp.watch(ns.Watch.Data) }

// watch forgets the ports that are not in the set.
func (s *seenPorts) watch(set watch.Set) {
	if len(set.Ports) == len(s.set.Ports) && (len(set.Ports) == 0 || &set.Ports[0] == &s.set.Ports[0]) {
		return // a set does not change, so it is the same
	}
	before := *s
	s.set, s.ports = set, make([]SeenPort, len(set.Ports))
	for i, p := range set.Ports {
		s.ports[i] = before.find(p.Number)
		s.ports[i].asked = p.Source == watch.SourceFlag
	}
}

// see notes that the port uses the family, and sockets in these states.
func (m *Memory) see(in *[]SeenPort, i int, f sock.Family, states sock.StateSet) {
	before := (*in)[i].of(f)
	if before.used && before.states|states == before.states {
		return
	}
	m.own()
	now := (*in)[i].of(f)
	now.used = true
	now.states |= states
}

// noteListeners takes the listeners also where the collector of listeners is off: other metrics
// need to know the families.
func (m *Memory) noteListeners(ns *Namespace) {
	var several map[uint16][]ports.GroupKey
	for i := range ns.Listeners.Data {
		g := &ns.Listeners.Data[i]
		n, ok := m.seen.tcp.set.Find(g.Port)
		if !ok {
			continue
		}
		m.see(&m.seen.tcp.ports, n, g.Family, sock.States(sock.StateListen))
		if g.Sockets > 1 || m.seen.tcp.ports[n].shared[g.GroupKey] {
			if several == nil {
				several = make(map[uint16][]ports.GroupKey)
			}
			several[g.Port] = append(several[g.Port], g.GroupKey)
		}
	}
	if ns.Listeners.Err != nil && !ns.Listeners.Off() {
		return
	}
	for i := range m.seen.tcp.ports {
		number := m.seen.tcp.set.Ports[i].Number
		m.share(i, several[number])
		if ns.GroupsDropped[number] > 0 && !m.seen.tcp.ports[i].GroupsDropped {
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

func (m *Memory) noteTCP(ns *Namespace) {
	for i := range ns.TCP.Data {
		p := &ns.TCP.Data[i]
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

func (m *Memory) noteUDP(ns *Namespace) {
	m.seen.udp.watch(ns.UDP.Data.Watch)
	for i := range ns.UDP.Data.Ports {
		p := &ns.UDP.Data.Ports[i]
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

func (m *Memory) noteClients(ns *Namespace) {
	if ns.Remote.Err == nil && len(m.seen.remote) != len(ns.Remote.Data) { // the first time: these ports do not change
		m.seen.remote = make([]SeenPort, len(ns.Remote.Data))
		for i := range m.seen.remote {
			m.seen.remote[i].asked = ns.Name == "" // elsewhere, nobody misses the connections
		}
	}
	for i := range ns.Remote.Data {
		for _, family := range sock.Families() {
			if states := statesIn((*[sock.NumStates]uint64)(ns.Remote.Data[i].Of(family))); states != 0 {
				m.see(&m.seen.remote, i, family, states)
			}
		}
	}
	m.seen.ipv4 = max(m.seen.ipv4, len(ns.Ephemeral.Data.IPv4))
	m.seen.ipv6 = max(m.seen.ipv6, len(ns.Ephemeral.Data.IPv6))
}

func (m *Memory) noteVerdicts(ns *Namespace) {
	for i := range ns.Verdicts.Data {
		v := &ns.Verdicts.Data[i]
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

// NoteFailures notes the families in which a watched port failed to bind, and hands out with the
// Namespace what was seen.
func (m *Memory) NoteFailures(ns *Namespace, counts []bindtrace.Count) {
	for _, c := range counts {
		if c.Netns != ns.Inode || c.OtherPort || c.Op != bindtrace.OpBind || c.N == 0 {
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
	m.handOut(ns)
}
