package ports

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

const hostile = 65534

// at is a moment s seconds into a test.
func at(s int) time.Time { return time.Unix(1_000_000+int64(s), 0) }

func newWatcher(t *testing.T, cfg watch.Config) *watch.Watcher {
	t.Helper()
	cfg.MaxPorts = 512
	w, err := watch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// dropperOf is a listener with drops on 127.0.0.1:80.
func dropperOf(uid uint32, cookie uint64, drops uint32) Listener {
	return Listener{
		GroupKey: GroupKey{Port: 80, Family: sock.FamilyIPv4, Address: netip.AddrFrom4([4]byte{127, 0, 0, 1})},
		Cookie:   cookie, UID: uid, Drops: drops, DropsKnown: true,
	}
}

func TestSocketThatADumpSkipsOrRepeatsIsCountedOnce(t *testing.T) {
	a, b := dropperOf(0, 1, 100), dropperOf(0, 2, 7)
	c := NewDropCounter(retention)
	for dump, sockets := range [][]Listener{{a, b}, {a, a, b}, {b}, {b}, {a, b, a, b}, {}, {b}, {a}} {
		c.takeDump(at(dump), sockets...)
		if got := c.Total(a.GroupKey); got != 107 {
			t.Fatalf("dump %d: %d drops, want 107", dump, got)
		}
	}
	a.Drops += 3
	later := a
	later.Drops += 2 // it drops while the dump is taken
	c.takeDump(at(9), a, later)
	if got := c.Total(a.GroupKey); got != 112 {
		t.Errorf("%d drops, want 112", got)
	}
}

func TestDropsOfASocketWrap(t *testing.T) {
	c := NewDropCounter(retention)
	for i, drops := range []uint32{math.MaxUint32 - 5, math.MaxUint32, 0, 3} {
		c.takeDump(at(i), dropperOf(0, 1, drops))
	}
	if got, want := c.Total(dropperOf(0, 1, 0).GroupKey), uint64(math.MaxUint32)+4; got != want {
		t.Errorf("%d drops, want %d", got, want)
	}
}

func TestDropsThatGoBackAreNotAWrap(t *testing.T) {
	c := NewDropCounter(retention)
	for i, drops := range []uint32{100, 90, 100, 101} {
		c.takeDump(at(i), dropperOf(0, 1, drops))
	}
	if got := c.Total(dropperOf(0, 1, 0).GroupKey); got != 101 {
		t.Errorf("%d drops, want 101", got)
	}
}

func TestSocketsWithoutDropsTakeNoMemory(t *testing.T) {
	c := NewDropCounter(retention)
	var all []Listener
	for i := range 1000 {
		all = append(all, dropperOf(0, uint64(i), 0))
	}
	c.takeDump(at(0), all...)
	if len(c.sockets)+len(c.groups)+len(c.users) != 0 {
		t.Errorf("%d sockets, %d groups and %d users are remembered, want none", len(c.sockets), len(c.groups), len(c.users))
	}
}

func TestClosedSocketsAreForgotten(t *testing.T) {
	c := NewDropCounter(retention)
	c.takeDump(at(0), dropperOf(0, 1, 5))
	for i := range maxMissing + 1 {
		c.takeDump(at(i))
	}
	if len(c.sockets)+len(c.users) != 0 {
		t.Errorf("%d sockets of %d users are remembered, want none", len(c.sockets), len(c.users))
	}
	if got := c.Total(dropperOf(0, 1, 0).GroupKey); got != 5 {
		t.Errorf("%d drops, want 5", got)
	}
}

// A user with more sockets than are remembered: their counts stand still, and those of others go on.
func TestUserWithManyDroppingSocketsCostsOnlyTheirOwnCounts(t *testing.T) {
	c := NewDropCounter(retention)
	server := dropperOf(0, 1, 10)
	crowd := make([]Listener, maxDropping+maxDropping/2)
	for i := range crowd {
		crowd[i] = dropperOf(hostile, uint64(100+i), 1)
		crowd[i].Port = 81
	}
	total := func(l *Listener) uint64 { return c.Total(l.GroupKey) }
	dump := 0
	take := func(sockets ...Listener) {
		c.takeDump(at(dump), sockets...)
		dump++
	}
	take(crowd...)
	first := total(&crowd[0])
	for range 2 * maxMissing {
		server.Drops++
		take(append(crowd, server, server)...)
		take(append(crowd[len(crowd)/3:], server)...) // some are skipped
		if got := total(&crowd[0]); got != first {
			t.Fatalf("dump %d: the counter of the crowd went from %d to %d", dump, first, got)
		}
	}
	if got, want := total(&server), uint64(10+2*maxMissing); got != want {
		t.Errorf("the server has %d drops, want %d", got, want)
	}
	if n := len(c.sockets); n > maxDropping {
		t.Errorf("%d sockets are remembered, want %d at most", n, maxDropping)
	}
	// Once they are gone, the user is counted like anybody.
	for range 2*maxMissing + 2 {
		take(server)
	}
	if len(c.sockets) != 1 || len(c.users) != 1 {
		t.Errorf("%d sockets of %d users are remembered, want the server's", len(c.sockets), len(c.users))
	}
	crowd[0].Cookie, crowd[0].Drops = 1<<40, 3
	take(crowd[0], server)
	if got := total(&crowd[0]); got != first+3 {
		t.Errorf("%d drops of a new socket of the user, want %d", got, first+3)
	}
}

func TestGroupsThatAUserMakesPushOutNoOthers(t *testing.T) {
	c := NewDropCounter(retention)
	server := dropperOf(0, 1, 10)
	c.takeDump(at(0), server)
	for i := range 2 * maxGone / 1000 {
		var crowd []Listener
		for n := range 1000 {
			l := dropperOf(hostile, uint64(1000*i+n+2), 1)
			l.Port, l.Ifindex = uint16(2000+i), uint32(n)
			crowd = append(crowd, l)
		}
		c.takeDump(at(i+1), crowd...)
	}
	if got := c.Total(server.GroupKey); got != 10 {
		t.Errorf("%d drops of a server that restarts, want 10", got)
	}
}

func TestListenerThatIsTwiceInADumpIsOne(t *testing.T) {
	l := NewListening(at(0), NewDropCounter(retention), 0)
	for _, local := range []string{"0.0.0.0:80", "[::]:80", "0.0.0.0:80"} {
		s := diagtest.Listening(local, uint64(len(local)))
		s.HasMem, s.Mem.Drops = true, 5
		l.Add(&s)
	}
	l.End()
	set := newWatcher(t, watch.Config{Ports: []watch.Spec{{PortRange: netlinkdiag.Port(80)}}}).Set()
	on, _ := l.On(set)
	counter := NewCounter(set, 0)
	counter.AddListening(l)
	p := counter.Ports()[0]
	if l.Total() != 2 || len(on.Groups) != 2 || on.Groups[0].Sockets != 1 || on.Groups[0].QueueLimit != 128 ||
		p.IPv4.States[sock.StateListen] != 1 || p.IPv6.States[sock.StateListen] != 1 {
		t.Errorf("%d listeners, groups %+v, port %+v; want one of each family", l.Total(), on.Groups, p)
	}
	if got := l.drops.Total(on.Groups[0].GroupKey); got != 5 {
		t.Errorf("%d drops, want 5", got)
	}
}

func TestUDPSocketThatIsTwiceInADumpIsOne(t *testing.T) {
	w := newTestUDPWatcher(t, watch.Config{Listeners: true})
	s := udpSocket(53, 1, 5)
	s.RQueue = 10
	u := w.dump(at(0), sock.PortRange{}, s, udpSocket(53, 2, 1), s)
	want := UDPSockets{Sockets: 2, Queue: 10, Drops: 6, DropsKnown: true}
	if got := u.Ports[0].IPv4; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if u = w.dump(at(1), sock.PortRange{}, udpSocket(53, 2, 1)); u.Ports[0].IPv4.Drops != 6 {
		t.Errorf("%d drops where the dump lacks a socket, want 6", u.Ports[0].IPv4.Drops)
	}
	if u = w.dump(at(2), sock.PortRange{}, s, udpSocket(53, 2, 1)); u.Ports[0].IPv4 != want {
		t.Errorf("%+v, want %+v", u.Ports[0].IPv4, want)
	}
}

// crowded is a namespace with too many listeners to know all one by one: 20,000 of one user on 20
// ports, two groups of root on one of those, and a server of root.
func crowded() []netlinkdiag.Socket {
	var out []netlinkdiag.Socket
	for i := range 20_000 {
		s := diagtest.Listening(fmt.Sprintf("127.1.%d.%d:%d", i/256, i%256, 2000+i%20), uint64(1000+i))
		s.UID = hostile
		out = append(out, s)
	}
	for i := range 3 {
		out = append(out, diagtest.Listening("0.0.0.0:80", uint64(i+1)))
	}
	return append(out, diagtest.Listening("0.0.0.0:2000", 10), diagtest.Listening("127.0.0.1:2000", 11))
}

func TestCrowdOfListenersIsBoundedAndOthersAreKnown(t *testing.T) {
	sockets := crowded()
	l := NewListening(at(0), NewDropCounter(retention), 0)
	for i := range sockets {
		l.Add(&sockets[i])
	}
	l.End()
	w := newWatcher(t, watch.Config{Listeners: true})
	set := w.Discover(at(0), l.Servers(), sock.PortRange{})
	if len(set.Ports) != 21 || set.Dropped != 0 {
		t.Errorf("%d ports are watched, %d dropped; want 21 and none", len(set.Ports), set.Dropped)
	}
	if _, ok := l.On(set); ok || l.all != nil {
		t.Fatal("all of them are known one by one")
	}

	s := l.Select(set)
	s.Add(&sockets[0]) // of a dump that is restarted
	s.Reset()
	for i := range sockets {
		s.Add(&sockets[i])
		s.Add(&sockets[i])
	}
	on := s.On()
	if n := len(on.Listeners); n > maxListeners || n < maxListeners-20 {
		t.Errorf("%d listeners are known one by one, want some %d", n, maxListeners)
	}
	share := uint64(maxListeners-5) / 20
	groups := make(map[uint16]uint64)
	for _, g := range on.Groups {
		groups[g.Port]++
		if g.Rank() == 0 && g.Port == 80 && (g.Sockets != 3 || g.QueueLimit != 3*128) {
			t.Errorf("the server is %+v, want three sockets", g)
		}
	}
	if groups[80] != 1 || on.Unknown[80] != 0 || groups[2000] != share+2 || groups[2019] != share ||
		on.Unknown[2000] != 1000-share || on.GroupsUnknown[2019] != 1000-share {
		t.Errorf("groups %v, listeners not known %v, groups not known %v; want %d of each port of the crowd", groups, on.Unknown, on.GroupsUnknown, share)
	}
	counter := NewCounter(set, 0)
	counter.AddListening(l)
	for _, p := range counter.Ports() {
		if want := map[uint16]uint64{80: 3, 2000: 1002}[p.Number]; p.IPv4.States[sock.StateListen] != max(want, min(1000, 3*uint64(p.Number))) && want == 0 {
			t.Errorf("%d listeners on port %d", p.IPv4.States[sock.StateListen], p.Number)
		} else if want > 0 && p.IPv4.States[sock.StateListen] != want {
			t.Errorf("%d listeners on port %d, want %d", p.IPv4.States[sock.StateListen], p.Number, want)
		}
	}
}

func TestMostImportantGroupsOfACrowdAreKept(t *testing.T) {
	set := newWatcher(t, watch.Config{Ports: []watch.Spec{{PortRange: netlinkdiag.Port(80)}}}).Set()
	l := NewListening(at(0), NewDropCounter(retention), 0)
	var sockets []netlinkdiag.Socket
	for i := range maxListeners + 100 {
		sockets = append(sockets, diagtest.Listening(fmt.Sprintf("127.1.%d.%d:80", i/256, i%256), uint64(i+1)))
	}
	sockets = append(sockets, diagtest.Listening("127.0.0.1:80", 1<<40), diagtest.Listening("0.0.0.0:80", 1<<40+1))
	for i := range sockets {
		l.Add(&sockets[i])
	}
	s := l.Select(set)
	for i := range sockets {
		s.Add(&sockets[i])
	}
	on := s.On()
	if len(on.Groups) != maxListeners || on.Groups[0].Rank() != 0 || on.Groups[1].Address.String() != "127.0.0.1" || on.Unknown[80] != 102 || on.GroupsUnknown[80] != 102 {
		t.Errorf("%d groups, the first %v and %v, %d not known; want %d, with the important ones", len(on.Groups), on.Groups[0].Address, on.Groups[1].Address, on.Unknown[80], maxListeners)
	}
}

func TestGroupWithUnknownSocketsHasUnknownFlags(t *testing.T) {
	key := dropperOf(0, 0, 0).GroupKey
	listeners := []Listener{{GroupKey: key, Cookie: 1}, {GroupKey: key, Cookie: 2}}
	groups := Groups(listeners)
	groups[0].Sockets = 3
	SetFlags(groups, listeners, map[uint64]sock.ReuseFlags{1: {ReuseAddr: true, ReusePort: true}, 2: {ReusePort: true}})
	if groups[0].ReuseAddr.String() != "no" || groups[0].ReusePort.String() != "unknown" {
		t.Errorf("SO_REUSEADDR %v, SO_REUSEPORT %v; want no, since one lacks it, and unknown", groups[0].ReuseAddr, groups[0].ReusePort)
	}
}

func TestPortOfSeveralUsersBelongsToTheOldest(t *testing.T) {
	l := NewListening(time.Time{}, NewDropCounter(retention), 0)
	for _, of := range []struct {
		uid    uint32
		cookie uint64
	}{{7, 20}, {8, 10}, {9, 30}, {8, 40}} {
		s := diagtest.Listening("127.0.0.1:80", of.cookie)
		s.UID = of.uid
		l.Add(&s)
	}
	if got := l.Servers(); len(got) != 1 || got[0] != (watch.Server{Port: 80, UID: 8, Cookie: 10}) {
		t.Errorf("%+v, want port 80 of uid 8", got)
	}
}
