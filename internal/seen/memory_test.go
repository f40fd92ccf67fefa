package seen

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

const (
	v4 = sock.FamilyIPv4
	v6 = sock.FamilyIPv6
)

// inode is that of the namespace in these tests.
const inode = 7

// A look is what one snapshot has shown.
type look struct {
	watched watch.Set
	tcp     []ports.PortSockets
	groups  []ports.Group
	unknown bool // whether there are more groups
	dropped map[uint16]int
	binds   []verdict.Bind // of port 80
}

func (m *Memory) note(l *look) Namespace {
	m.Watch(l.watched)
	m.Listeners(l.groups, l.dropped, !l.unknown)
	m.TCP(l.tcp)
	m.Verdicts([]verdict.Port{{Number: 80, Binds: l.binds}})
	return m.Namespace()
}

// A series makes one look after another, at the ports that have a listener for one minute.
type series struct {
	watcher *watch.Watcher
	now     time.Time
	memory  Memory
	last    look
}

func newSeries(t *testing.T, asked ...uint16) *series {
	t.Helper()
	cfg := watch.Config{Listeners: true, Retention: time.Minute, MaxPorts: 512}
	for _, p := range asked {
		cfg.Ports = append(cfg.Ports, watch.Spec{PortRange: netlinkdiag.Port(p)})
	}
	w, err := watch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &series{watcher: w, now: time.Now()}
}

// see has the memory note a look, a minute after the one before. The ports have a listener for
// the Watcher, and no socket unless change adds one.
func (w *series) see(listening []uint16, change func(*look)) Namespace {
	w.now = w.now.Add(time.Minute)
	var servers []watch.Server
	for _, p := range listening {
		servers = append(servers, watch.Server{Port: p})
	}
	w.last = look{watched: w.watcher.Update(w.now, servers)}
	for _, p := range w.last.watched.Ports {
		w.last.tcp = append(w.last.tcp, ports.PortSockets{Number: p.Number})
	}
	if change != nil {
		change(&w.last)
	}
	return w.memory.note(&w.last)
}

// sockets adds a socket in the state.
func sockets(port uint16, f sock.Family, state sock.State) func(*look) {
	return func(l *look) {
		for i := range l.tcp {
			if l.tcp[i].Number == port {
				l.tcp[i].Of(f).States[state]++
			}
		}
	}
}

func checkSeen(t *testing.T, when string, p Port, ipv4, ipv6 bool, states4, states6 sock.StateSet) {
	t.Helper()
	if p.InUse(v4) != ipv4 || p.InUse(v6) != ipv6 {
		t.Errorf("%s: uses IPv4 %v, IPv6 %v; want %v, %v", when, p.InUse(v4), p.InUse(v6), ipv4, ipv6)
	}
	if p.States(v4) != states4 || p.States(v6) != states6 {
		t.Errorf("%s: states %v, %v; want %v, %v", when, p.States(v4), p.States(v6), states4, states6)
	}
}

func TestAStateThatWasSeenStays(t *testing.T) {
	w := newSeries(t)
	on := []uint16{80}
	ns := w.see(on, nil)
	checkSeen(t, "without a socket", ns.TCP(80), false, false, 0, 0)
	ns = w.see(on, sockets(80, v4, sock.StateFinWait2))
	checkSeen(t, "with one", ns.TCP(80), true, false, sock.States(sock.StateFinWait2), 0)
	ns = w.see(on, sockets(80, v4, sock.StateLastAck))
	both := sock.States(sock.StateFinWait2, sock.StateLastAck)
	checkSeen(t, "in another state", ns.TCP(80), true, false, both, 0)
	ns = w.see(on, nil)
	checkSeen(t, "when they are gone", ns.TCP(80), true, false, both, 0)
	checkSeen(t, "another port", ns.TCP(81), false, false, 0, 0)
}

func TestAFamilyThatAppearsLaterIsInUseFromThenOn(t *testing.T) {
	w := newSeries(t)
	on := []uint16{80}
	ns := w.see(on, sockets(80, v4, sock.StateListen))
	checkSeen(t, "before", ns.TCP(80), true, false, sock.States(sock.StateListen), 0)
	ns = w.see(on, sockets(80, v6, sock.StateEstablished))
	listen, established := sock.States(sock.StateListen), sock.States(sock.StateEstablished)
	checkSeen(t, "with it", ns.TCP(80), true, true, listen, established)
	ns = w.see(on, nil)
	checkSeen(t, "after it", ns.TCP(80), true, true, listen, established)
}

func TestAPortThatComesBackIsNew(t *testing.T) {
	w := newSeries(t)
	w.see([]uint16{80, 81}, func(l *look) {
		sockets(80, v6, sock.StateTimeWait)(l)
		sockets(81, v6, sock.StateTimeWait)(l)
		l.dropped = map[uint16]int{80: 1}
	})
	w.see([]uint16{81}, nil) // the retention of 80 is over
	if _, watched := w.last.watched.Find(80); watched {
		t.Fatal("port 80 is still watched")
	}
	ns := w.see([]uint16{80, 81}, sockets(80, v4, sock.StateListen))
	checkSeen(t, "the port that came back", ns.TCP(80), true, false, sock.States(sock.StateListen), 0)
	if p := ns.TCP(80); p.GroupsDropped {
		t.Error("still has dropped groups")
	}
	checkSeen(t, "the other one", ns.TCP(81), false, true, 0, sock.States(sock.StateTimeWait))
}

func TestAnAskedPortUsesBothFamiliesUntilItUsesOne(t *testing.T) {
	w := newSeries(t, 80)
	ns := w.see(nil, nil)
	checkSeen(t, "without a socket", ns.TCP(80), true, true, 0, 0)
	ns = w.see(nil, sockets(80, v6, sock.StateListen))
	checkSeen(t, "with one", ns.TCP(80), false, true, 0, sock.States(sock.StateListen))
	ns = w.see(nil, nil)
	checkSeen(t, "when it is gone", ns.TCP(80), false, true, 0, sock.States(sock.StateListen))
}

// bindFailure is a failed bind() to the port.
func bindFailure(port uint16, family sock.Family, protocol sock.Protocol) bindtrace.Count {
	return bindtrace.Count{N: 1, Key: bindtrace.Key{Netns: inode, Port: port, Family: family, Protocol: protocol, Errno: unix.EADDRINUSE}}
}

func TestAFamilyThatFailedToBindIsInUse(t *testing.T) {
	const tcp, ipv6 = sock.TCP, sock.FamilyIPv6
	failure := bindFailure(80, ipv6, tcp)
	changed := func(change func(*bindtrace.Count)) bindtrace.Count {
		c := failure
		change(&c)
		return c
	}
	for _, tt := range []struct {
		name string
		of   bindtrace.Count
		want bool
	}{
		{"TCP", failure, true},
		{"MPTCP", bindFailure(80, ipv6, sock.MPTCP), true},
		{"for another reason", changed(func(c *bindtrace.Count) { c.Errno = unix.EACCES }), true},
		{"UDP", bindFailure(80, ipv6, sock.UDP), false},
		{"SCTP", bindFailure(80, ipv6, sock.SCTP), false},
		{"another port", bindFailure(81, ipv6, tcp), false},
		{"another namespace", changed(func(c *bindtrace.Count) { c.Netns++ }), false},
		{"a port without number", changed(func(c *bindtrace.Count) { c.OtherPort = true }), false},
		{"connect", changed(func(c *bindtrace.Count) { c.Op = bindtrace.OpConnect }), false},
		{"no failure", changed(func(c *bindtrace.Count) { c.N = 0 }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newSeries(t)
			w.see([]uint16{80}, sockets(80, v4, sock.StateListen))
			w.memory.Failures(inode, []bindtrace.Count{tt.of})
			ns := w.memory.Namespace()
			listen := sock.States(sock.StateListen)
			checkSeen(t, "in the same snapshot", ns.TCP(80), true, tt.want, listen, 0)
			ns = w.see([]uint16{80}, nil)
			checkSeen(t, "in the next one", ns.TCP(80), true, tt.want, listen, 0)
		})
	}
}

func TestUDPFamiliesAreSeenApart(t *testing.T) {
	plan, err := watch.NewPlan(watch.Config{Listeners: true, MaxPorts: 512})
	if err != nil {
		t.Fatal(err)
	}
	set := plan.Own(sock.UDP).Update(time.Now(), []watch.Server{{Port: 53}, {Port: 514}})
	var m Memory
	for _, sockets := range []uint64{1, 0} {
		udp := ports.UDP{Watch: set, Ports: []ports.UDPPort{{Number: 53}, {Number: 514}}}
		udp.Ports[0].IPv6.Sockets = sockets
		m.UDP(&udp)
	}
	m.Failures(inode, []bindtrace.Count{bindFailure(514, sock.FamilyIPv4, sock.UDP)})
	ns := m.Namespace()
	checkSeen(t, "a port that had a socket", ns.UDP(53), false, true, 0, 0)
	checkSeen(t, "a port that failed to bind", ns.UDP(514), true, false, 0, 0)
	checkSeen(t, "the TCP port with its number", ns.TCP(53), false, false, 0, 0)
}

func TestAListenerGroupOfSeveralSocketsStaysOne(t *testing.T) {
	key := func(address string) ports.GroupKey {
		return ports.GroupKey{Port: 80, Family: v4, Address: netip.MustParseAddr(address)}
	}
	group := func(address string, sockets uint64) ports.Group {
		return ports.Group{GroupKey: key(address), Sockets: sockets}
	}
	w := newSeries(t)
	for i, step := range []struct {
		groups  []ports.Group
		unknown bool
		want    []string // addresses of groups that had several
	}{
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 1)}},
		{groups: []ports.Group{group("127.0.0.1", 4), group("127.0.0.2", 1)}, want: []string{"127.0.0.1"}},
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 1)}, want: []string{"127.0.0.1"}},
		{unknown: true, want: []string{"127.0.0.1"}}, // not known: nothing is forgotten
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 2)}, want: []string{"127.0.0.1", "127.0.0.2"}},
		{groups: []ports.Group{group("127.0.0.2", 1)}, want: []string{"127.0.0.2"}},
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 1)}, want: []string{"127.0.0.2"}},
	} {
		ns := w.see([]uint16{80}, func(l *look) { l.groups, l.unknown = step.groups, step.unknown })
		var got []string
		for _, address := range []string{"127.0.0.1", "127.0.0.2"} {
			if p := ns.TCP(80); p.Shared(key(address)) {
				got = append(got, address)
			}
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: shared %q, want %q", i, got, step.want)
		}
	}
}

func TestGroupsThatWereDroppedOnceAreKept(t *testing.T) {
	w := newSeries(t)
	for i, step := range []struct {
		dropped int
		want    bool
	}{{0, false}, {3, true}, {0, true}} {
		ns := w.see([]uint16{80}, func(l *look) { l.dropped = map[uint16]int{80: step.dropped} })
		if p := ns.TCP(80); p.GroupsDropped != step.want {
			t.Errorf("step %d: %v, want %v", i, p.GroupsDropped, step.want)
		}
	}
}

func TestABlockingStateStaysAsLongAsItsAddress(t *testing.T) {
	bind := func(address string, reuseAddr, known bool, states ...sock.State) verdict.Bind {
		b := verdict.Bind{Address: netip.MustParseAddr(address), ReuseAddr: reuseAddr, Verdict: verdict.Verdict{BlockersKnown: known}}
		for _, s := range states {
			b.Blockers[s] = 1
		}
		return b
	}
	const timeWait, closeWait = sock.StateTimeWait, sock.StateCloseWait
	w := newSeries(t)
	for i, step := range []struct {
		binds []verdict.Bind
		want  []sock.StateSet // of binds
	}{
		{[]verdict.Bind{bind("0.0.0.0", false, true), bind("0.0.0.0", true, true)}, []sock.StateSet{0, 0}},
		{[]verdict.Bind{bind("0.0.0.0", false, true, timeWait), bind("0.0.0.0", true, true)}, []sock.StateSet{sock.States(timeWait), 0}},
		{[]verdict.Bind{bind("0.0.0.0", false, true), bind("0.0.0.0", true, true, closeWait)}, []sock.StateSet{sock.States(timeWait), sock.States(closeWait)}},
		{[]verdict.Bind{bind("0.0.0.0", false, false, closeWait), bind("::", false, true)}, []sock.StateSet{sock.States(timeWait), 0}}, // not all known
		{[]verdict.Bind{bind("::", false, true)}, []sock.StateSet{0}},
		{[]verdict.Bind{bind("0.0.0.0", false, true)}, []sock.StateSet{0}},
	} {
		ns := w.see([]uint16{80}, func(l *look) { l.binds = step.binds })
		p := ns.TCP(80)
		for n := range step.binds {
			if got := p.Blockers(&step.binds[n]); got != step.want[n] {
				t.Errorf("step %d, bind %d: %v, want %v", i, n, got, step.want[n])
			}
		}
	}
}

func TestRemotePortsAndDestinationsStay(t *testing.T) {
	for _, asked := range []bool{true, false} {
		var m Memory
		note := func(remote ports.RemotePort, e ports.Ephemeral) Namespace {
			m.Remote([]ports.RemotePort{remote}, asked)
			m.Ephemeral(&e)
			return m.Namespace()
		}
		ns := note(ports.RemotePort{Number: 5432}, ports.Ephemeral{})
		checkSeen(t, fmt.Sprintf("asked %v, before", asked), ns.Remote(0), asked, asked, 0, 0)
		busy := ports.RemotePort{Number: 5432}
		busy.IPv4[sock.StateSynSent] = 1
		note(busy, ports.Ephemeral{IPv4: []uint64{5, 3}})
		ns = note(ports.RemotePort{Number: 5432}, ports.Ephemeral{IPv4: []uint64{1}})
		checkSeen(t, fmt.Sprintf("asked %v, after", asked), ns.Remote(0), true, false, sock.States(sock.StateSynSent), 0)
		if ns.Destinations(v4) != 2 || ns.Destinations(v6) != 0 {
			t.Errorf("destinations %d, %d; want 2, 0", ns.Destinations(v4), ns.Destinations(v6))
		}
	}
}

// Nobody changes a snapshot once it is returned.
func TestWhatWasHandedOutDoesNotChange(t *testing.T) {
	w := newSeries(t)
	on := []uint16{80}
	ns := w.see(on, sockets(80, v4, sock.StateListen))
	w.see(on, func(l *look) {
		sockets(80, v6, sock.StateTimeWait)(l)
		l.dropped = map[uint16]int{80: 1}
		l.groups = []ports.Group{{GroupKey: ports.GroupKey{Port: 80, Family: v4, Address: netip.IPv4Unspecified()}, Sockets: 2}}
	})
	w.memory.Failures(inode, []bindtrace.Count{bindFailure(80, sock.FamilyIPv6, sock.TCP)})
	p := ns.TCP(80)
	checkSeen(t, "the first snapshot", p, true, false, sock.States(sock.StateListen), 0)
	if p.GroupsDropped || len(p.shared) > 0 {
		t.Errorf("the first snapshot has become %+v", p)
	}
}
