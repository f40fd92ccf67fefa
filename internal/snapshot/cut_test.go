package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/netlinkdiag"
)

// crowd are n listeners on as many addresses of 127.1.0.0/16, from the highest to the lowest.
func crowd(n int, port uint16) []netlinkdiag.Socket {
	var out []netlinkdiag.Socket
	for i := n; i > 0; i-- {
		out = append(out, listening(fmt.Sprintf("127.1.%d.%d:%d", i/256, i%256, port), uint64(port)<<32|uint64(i)))
	}
	return out
}

// shownOn are the addresses of the groups of a port.
func shownOn(s *Snapshot, port uint16) []string {
	var out []string
	for _, g := range s.Listeners.Data {
		if g.Port == port {
			out = append(out, g.Address.String())
		}
	}
	return out
}

func TestCrowdOfListenersLeavesRoomForServers(t *testing.T) {
	servers := []string{"0.0.0.0", "127.0.0.1", "192.0.2.1", "::", "::1", "2001:db8::1"}
	f := newFake(crowd(1000, 80)...)
	for i, address := range servers {
		f.sockets = append(f.sockets, listening(netip.AddrPortFrom(netip.MustParseAddr(address), 80).String(), uint64(i+1)))
	}
	f.sockets = append(f.sockets, listening("127.9.9.9:79", 1<<60))
	taker := newTaker(t, f.config(), discovering())
	s := whole(t, taker)

	got := shownOn(&s, 80)
	for _, address := range servers {
		if !slices.Contains(got, address) {
			t.Errorf("%s is not shown", address)
		}
	}
	if len(got) != maxShownPerPort || s.GroupsDropped[80] != 1000+len(servers)-maxShownPerPort {
		t.Errorf("%d groups are shown, %d dropped; want %d, and %d", len(got), s.GroupsDropped[80], maxShownPerPort, 1000+len(servers)-maxShownPerPort)
	}
	if got := shownOn(&s, 79); !slices.Equal(got, []string{"127.9.9.9"}) || s.GroupsDropped[79] != 0 {
		t.Errorf("of a port beside it %q are shown, %d dropped; want the one", got, s.GroupsDropped[79])
	}
	if n := port(t, &s, 80).IPv4.States[netlinkdiag.StateListen]; n != 1003 {
		t.Errorf("%d IPv4 listeners are counted, want 1003", n)
	}
	if !slices.IsSortedFunc(s.Listeners.Data, func(a, b Group) int { return a.compare(b.GroupKey) }) {
		t.Error("groups are not sorted")
	}

	// Whatever the order of the kernel, whoever else comes: the same ones.
	f.set(slices.Concat(crowd(2000, 80), f.sockets[1000:])...)
	s = whole(t, taker)
	if again := shownOn(&s, 80); !slices.Equal(again, got) {
		t.Errorf("with more of them are shown\n%q, before\n%q", again, got)
	}
}

func TestGroupsOfAllPortsAreBounded(t *testing.T) {
	f := newFake()
	watched := 2 * maxShown / maxShownPerPort
	for p := range watched {
		f.sockets = append(f.sockets, crowd(maxShownPerPort, uint16(1000+p))...)
	}
	s := whole(t, newTaker(t, f.config(), discovering()))
	if len(s.Listeners.Data) != maxShown {
		t.Errorf("%d groups are shown, want %d", len(s.Listeners.Data), maxShown)
	}
	for p := range watched {
		if n := len(shownOn(&s, uint16(1000+p))); n != maxShownPerPort/2 {
			t.Fatalf("%d groups of port %d are shown, want %d of each", n, 1000+p, maxShownPerPort/2)
		}
	}
}

func TestEveryPortHasAGroup(t *testing.T) {
	counts := slices.Repeat([]int{3}, 2*maxShown)
	if n := level(counts); n != 1 {
		t.Errorf("of %d ports %d groups each, want 1", len(counts), n)
	}
}

func TestFlagsKeepToTheirGroupsInACrowd(t *testing.T) {
	f := newFake(append(crowd(1000, 80), listening("0.0.0.0:80", 1))...)
	flags := make(map[uint64]sockflags.Flags)
	for _, s := range f.sockets {
		flags[s.Cookie] = sockflags.Flags{ReuseAddr: s.Cookie == 1}
	}
	s := whole(t, newTaker(t, withFlags(f, knowing(flags)), discovering()))
	if len(s.Reuse.Data.Listeners) != len(s.Listeners.Data) {
		t.Fatalf("flags of %d groups, want of the %d that are shown", len(s.Reuse.Data.Listeners), len(s.Listeners.Data))
	}
	for i, g := range s.Reuse.Data.Listeners {
		if g.GroupKey != s.Listeners.Data[i].GroupKey || (g.ReuseAddr == bindrule.Yes) != g.Address.IsUnspecified() {
			t.Errorf("%v:%d has SO_REUSEADDR %v", g.Address, g.Port, g.ReuseAddr)
		}
	}
}

// Who is not shown is in the way of a bind all the same.
func TestVerdictsConsiderTheWholeCrowd(t *testing.T) {
	f := newFake(crowd(1000, 80)...)
	cfg := f.config()
	cfg.Verdicts = true
	s := whole(t, newTaker(t, cfg, discovering()))
	last := f.sockets[0].Local.Addr()
	if slices.Contains(shownOn(&s, 80), last.String()) {
		t.Fatalf("%v is shown", last)
	}
	v := s.Verdicts.Data[0]
	request := bindrule.Request{Addr: last, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No}
	if got := v.Port.Bind(request).Outcome; got != bindrule.Blocked {
		t.Errorf("a bind to %v is %v, want blocked by who listens there", last, got)
	}
	if len(v.Restarts) != maxShownPerPort {
		t.Errorf("%d restarts are judged, want %d", len(v.Restarts), maxShownPerPort)
	}
}

func TestCrowdDoesNotPushOutAListenerThatWent(t *testing.T) {
	r := newRememberer(t, 80)
	r.see(start, nil, listening("0.0.0.0:80", 1))
	now := start.Add(time.Minute)
	r.see(now, nil, crowd(1000, 80)...)
	if _, ok := whom(r.judgePort(now))["0.0.0.0%0"]; !ok {
		t.Error("0.0.0.0:80 is not judged any more")
	}
}

func TestDropsOfListenersThatGoAreBounded(t *testing.T) {
	c := newDropCounter(retention)
	now := start
	server := listening("192.0.2.1:80", 1)
	for i := range 10 * maxGone / 1000 {
		now = now.Add(time.Millisecond)
		stay := []listener{newListener(&server)}
		stay[0].drops = uint32(i + 1)
		for _, s := range crowd(1000, uint16(1000+i)) {
			stay = append(stay, newListener(&s))
		}
		c.update(now, stay)
	}
	if got := len(c.groups); got > maxGone+1001 {
		t.Errorf("%d groups are remembered, want %d at most", got, maxGone+1001)
	}
	if got, want := c.total(newListener(&server).key), uint64(10*maxGone/1000); got != want {
		t.Errorf("%d drops at the listener that stays, want %d", got, want)
	}
}

func TestOrderOfWhoIsShown(t *testing.T) {
	addresses := []string{"0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "::1", "::ffff:192.0.2.1", "127.0.0.2", "::ffff:127.0.0.2"}
	var keys []GroupKey
	for _, a := range addresses {
		addr := netip.MustParseAddr(a)
		keys = append(keys, GroupKey{Port: 80, Family: FamilyOf(addr), Address: addr})
	}
	shuffled := slices.Clone(keys)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, GroupKey.before)
	if !slices.Equal(shuffled, keys) {
		t.Errorf("in the order\n%v, want\n%v", shuffled, keys)
	}
}
