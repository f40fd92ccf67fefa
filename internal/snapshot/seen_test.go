package snapshot

import (
	"errors"
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
)

const (
	v4 = sock.FamilyIPv4
	v6 = sock.FamilyIPv6
)

// inode is that of the namespace in these tests.
const inode = 7

// A series makes the namespaces of one snapshot after another, which have the ports with a listener
// for one minute.
type series struct {
	watcher *watch.Watcher
	now     time.Time
	memory  Memory
}

func newSeries(t *testing.T, asked ...uint16) *series {
	t.Helper()
	cfg := watch.Config{Listeners: true, Retention: time.Minute, MaxPorts: 512}
	for _, p := range asked {
		cfg.Ports = append(cfg.Ports, watch.Spec{PortRange: one(p)})
	}
	w, err := watch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &series{watcher: w, now: time.Now()}
}

// see has the memory note a snapshot, a minute after the one before. The ports have a listener for
// the Watcher, and no socket unless change adds one.
func (w *series) see(listening []uint16, change func(*Namespace)) *Namespace {
	w.now = w.now.Add(time.Minute)
	var servers []watch.Server
	for _, p := range listening {
		servers = append(servers, watch.Server{Port: p})
	}
	ns := &Namespace{Inode: inode}
	ns.Watch.Data = w.watcher.Update(w.now, servers)
	for _, p := range ns.Watch.Data.Ports {
		ns.TCP.Data = append(ns.TCP.Data, ports.PortSockets{Number: p.Number})
	}
	if change != nil {
		change(ns)
	}
	w.memory.Note(ns)
	return ns
}

// sockets adds a socket in the state.
func sockets(port uint16, f sock.Family, state sock.State) func(*Namespace) {
	return func(ns *Namespace) {
		for i := range ns.TCP.Data {
			if ns.TCP.Data[i].Number == port {
				ns.TCP.Data[i].Of(f).States[state]++
			}
		}
	}
}

func checkSeen(t *testing.T, when string, p SeenPort, ipv4, ipv6 bool, states4, states6 sock.StateSet) {
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
	checkSeen(t, "without a socket", ns.Seen.TCP(80), false, false, 0, 0)
	ns = w.see(on, sockets(80, v4, sock.StateFinWait2))
	checkSeen(t, "with one", ns.Seen.TCP(80), true, false, sock.States(sock.StateFinWait2), 0)
	ns = w.see(on, sockets(80, v4, sock.StateLastAck))
	both := sock.States(sock.StateFinWait2, sock.StateLastAck)
	checkSeen(t, "in another state", ns.Seen.TCP(80), true, false, both, 0)
	ns = w.see(on, nil)
	checkSeen(t, "when they are gone", ns.Seen.TCP(80), true, false, both, 0)
	checkSeen(t, "another port", ns.Seen.TCP(81), false, false, 0, 0)
}

func TestAFamilyThatAppearsLaterIsInUseFromThenOn(t *testing.T) {
	w := newSeries(t)
	on := []uint16{80}
	ns := w.see(on, sockets(80, v4, sock.StateListen))
	checkSeen(t, "before", ns.Seen.TCP(80), true, false, sock.States(sock.StateListen), 0)
	ns = w.see(on, sockets(80, v6, sock.StateEstablished))
	listen, established := sock.States(sock.StateListen), sock.States(sock.StateEstablished)
	checkSeen(t, "with it", ns.Seen.TCP(80), true, true, listen, established)
	ns = w.see(on, nil)
	checkSeen(t, "after it", ns.Seen.TCP(80), true, true, listen, established)
}

func TestAPortThatComesBackIsNew(t *testing.T) {
	w := newSeries(t)
	w.see([]uint16{80, 81}, func(ns *Namespace) {
		sockets(80, v6, sock.StateTimeWait)(ns)
		sockets(81, v6, sock.StateTimeWait)(ns)
		ns.GroupsDropped = map[uint16]int{80: 1}
	})
	ns := w.see([]uint16{81}, nil) // the retention of 80 is over
	if _, watched := ns.Watch.Data.Find(80); watched {
		t.Fatal("port 80 is still watched")
	}
	ns = w.see([]uint16{80, 81}, sockets(80, v4, sock.StateListen))
	checkSeen(t, "the port that came back", ns.Seen.TCP(80), true, false, sock.States(sock.StateListen), 0)
	if p := ns.Seen.TCP(80); p.GroupsDropped {
		t.Error("still has dropped groups")
	}
	checkSeen(t, "the other one", ns.Seen.TCP(81), false, true, 0, sock.States(sock.StateTimeWait))
}

func TestAnAskedPortUsesBothFamiliesUntilItUsesOne(t *testing.T) {
	w := newSeries(t, 80)
	ns := w.see(nil, nil)
	checkSeen(t, "without a socket", ns.Seen.TCP(80), true, true, 0, 0)
	ns = w.see(nil, sockets(80, v6, sock.StateListen))
	checkSeen(t, "with one", ns.Seen.TCP(80), false, true, 0, sock.States(sock.StateListen))
	ns = w.see(nil, nil)
	checkSeen(t, "when it is gone", ns.Seen.TCP(80), false, true, 0, sock.States(sock.StateListen))
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
			ns := w.see([]uint16{80}, sockets(80, v4, sock.StateListen))
			w.memory.NoteFailures(ns, []bindtrace.Count{tt.of})
			listen := sock.States(sock.StateListen)
			checkSeen(t, "in the same snapshot", ns.Seen.TCP(80), true, tt.want, listen, 0)
			ns = w.see([]uint16{80}, nil)
			checkSeen(t, "in the next one", ns.Seen.TCP(80), true, tt.want, listen, 0)
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
	note := func(sockets uint64) *Namespace {
		ns := &Namespace{Inode: inode}
		ns.UDP.Data = ports.UDP{Watch: set, Ports: []ports.UDPPort{{Number: 53}, {Number: 514}}}
		ns.UDP.Data.Ports[0].IPv6.Sockets = sockets
		m.Note(ns)
		return ns
	}
	note(1)
	ns := note(0)
	m.NoteFailures(ns, []bindtrace.Count{bindFailure(514, sock.FamilyIPv4, sock.UDP)})
	checkSeen(t, "a port that had a socket", ns.Seen.UDP(53), false, true, 0, 0)
	checkSeen(t, "a port that failed to bind", ns.Seen.UDP(514), true, false, 0, 0)
	checkSeen(t, "the TCP port with its number", ns.Seen.TCP(53), false, false, 0, 0)
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
		groups []ports.Group
		err    error
		want   []string // addresses of groups that had several
	}{
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 1)}},
		{groups: []ports.Group{group("127.0.0.1", 4), group("127.0.0.2", 1)}, want: []string{"127.0.0.1"}},
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 1)}, want: []string{"127.0.0.1"}},
		{err: errStack, want: []string{"127.0.0.1"}}, // not known: nothing is forgotten
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 2)}, want: []string{"127.0.0.1", "127.0.0.2"}},
		{groups: []ports.Group{group("127.0.0.2", 1)}, want: []string{"127.0.0.2"}},
		{groups: []ports.Group{group("127.0.0.1", 1), group("127.0.0.2", 1)}, want: []string{"127.0.0.2"}},
	} {
		ns := w.see([]uint16{80}, func(ns *Namespace) { ns.Listeners = Part[[]ports.Group]{Data: step.groups, Err: step.err} })
		var got []string
		for _, address := range []string{"127.0.0.1", "127.0.0.2"} {
			if p := ns.Seen.TCP(80); p.Shared(key(address)) {
				got = append(got, address)
			}
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: shared %q, want %q", i, got, step.want)
		}
	}
}

func TestListenersTellTheFamilyWithoutTheirCollector(t *testing.T) {
	w := newSeries(t)
	ns := w.see([]uint16{80}, func(ns *Namespace) {
		ns.TCP = Part[[]ports.PortSockets]{Err: ErrOff}
		ns.Listeners = Part[[]ports.Group]{Err: ErrOff, Data: []ports.Group{{GroupKey: ports.GroupKey{Port: 80, Family: v6, Address: localhost6}}}}
	})
	checkSeen(t, "collectors off", ns.Seen.TCP(80), false, true, 0, sock.States(sock.StateListen))
}

func TestGroupsThatWereDroppedOnceAreKept(t *testing.T) {
	w := newSeries(t)
	for i, step := range []struct {
		dropped int
		want    bool
	}{{0, false}, {3, true}, {0, true}} {
		ns := w.see([]uint16{80}, func(ns *Namespace) { ns.GroupsDropped = map[uint16]int{80: step.dropped} })
		if p := ns.Seen.TCP(80); p.GroupsDropped != step.want {
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
		ns := w.see([]uint16{80}, func(ns *Namespace) { ns.Verdicts.Data = []verdict.Port{{Number: 80, Binds: step.binds}} })
		p := ns.Seen.TCP(80)
		for n := range step.binds {
			if got := p.Blockers(&step.binds[n]); got != step.want[n] {
				t.Errorf("step %d, bind %d: %v, want %v", i, n, got, step.want[n])
			}
		}
	}
}

func TestRemotePortsAndDestinationsStay(t *testing.T) {
	for _, tt := range []struct {
		netns string
		both  bool // families, before anything is seen
	}{{"", true}, {"blue", false}} {
		var m Memory
		note := func(remote ports.RemotePort, e ports.Ephemeral) *Namespace {
			ns := &Namespace{Name: tt.netns}
			ns.Remote.Data, ns.Ephemeral.Data = []ports.RemotePort{remote}, e
			m.Note(ns)
			return ns
		}
		ns := note(ports.RemotePort{Number: 5432}, ports.Ephemeral{})
		checkSeen(t, fmt.Sprintf("in %q before", tt.netns), ns.Seen.Remote(0), tt.both, tt.both, 0, 0)
		busy := ports.RemotePort{Number: 5432}
		busy.IPv4[sock.StateSynSent] = 1
		note(busy, ports.Ephemeral{IPv4: []uint64{5, 3}})
		failed := &Namespace{Name: tt.netns}
		failed.Remote.Err = errStack
		m.Note(failed)
		ns = note(ports.RemotePort{Number: 5432}, ports.Ephemeral{IPv4: []uint64{1}})
		checkSeen(t, fmt.Sprintf("in %q after", tt.netns), ns.Seen.Remote(0), true, false, sock.States(sock.StateSynSent), 0)
		if ns.Seen.Destinations(v4) != 2 || ns.Seen.Destinations(v6) != 0 {
			t.Errorf("destinations %d, %d; want 2, 0", ns.Seen.Destinations(v4), ns.Seen.Destinations(v6))
		}
	}
}

// Nobody changes a snapshot once it is returned.
func TestWhatWasHandedOutDoesNotChange(t *testing.T) {
	w := newSeries(t)
	on := []uint16{80}
	ns := w.see(on, sockets(80, v4, sock.StateListen))
	later := w.see(on, func(ns *Namespace) {
		sockets(80, v6, sock.StateTimeWait)(ns)
		ns.GroupsDropped = map[uint16]int{80: 1}
		ns.Listeners.Data = []ports.Group{{GroupKey: ports.GroupKey{Port: 80, Family: v4, Address: localhost4}, Sockets: 2}}
	})
	w.memory.NoteFailures(later, []bindtrace.Count{bindFailure(80, sock.FamilyIPv6, sock.TCP)})
	p := ns.Seen.TCP(80)
	checkSeen(t, "the first snapshot", p, true, false, sock.States(sock.StateListen), 0)
	if p.GroupsDropped || len(p.shared) > 0 {
		t.Errorf("the first snapshot has become %+v", p)
	}
}

// A port of the set that is watched while the kernel does not answer keeps what was seen on it.
func TestAFailedLookForgetsNothing(t *testing.T) {
	w := newSeries(t)
	w.see([]uint16{80}, sockets(80, v6, sock.StateTimeWait))
	ns := w.see([]uint16{80}, func(ns *Namespace) {
		for err := range partErrors(ns) {
			*err = errStack
		}
		ns.TCP.Data, ns.Verdicts.Data = nil, nil
	})
	checkSeen(t, "after a failure", ns.Seen.TCP(80), false, true, 0, sock.States(sock.StateTimeWait))
}

// Of one snapshot, a part is noted when it is there, and what was noted goes out with the part.
func TestPartsAreNotedAsTheyCome(t *testing.T) {
	w := newSeries(t)
	whole := w.see([]uint16{80}, nil)
	ns := &Namespace{Inode: inode}
	for err := range partErrors(ns) {
		*err = errPending
	}
	publish := w.memory.beside(func(set func(*Namespace)) { set(ns) })
	publish(func(ns *Namespace) { ns.Watch = whole.Watch })
	checkSeen(t, "the set alone", ns.Seen.TCP(80), false, false, 0, 0)
	publish(func(ns *Namespace) {
		ns.TCP = Part[[]ports.PortSockets]{Data: []ports.PortSockets{{Number: 80}}}
		sockets(80, v4, sock.StateTimeWait)(ns)
	})
	checkSeen(t, "with the sockets", ns.Seen.TCP(80), true, false, sock.States(sock.StateTimeWait), 0)
	if !errors.Is(ns.Verdicts.Err, errPending) {
		t.Error("another part is not pending any more")
	}
}
