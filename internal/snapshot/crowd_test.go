package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/ports/shown"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// crowd are n listeners on as many addresses of 127.1.0.0/16, from the highest to the lowest.
func crowd(n int, port uint16) []netlinkdiag.Socket {
	var out []netlinkdiag.Socket
	for i := n; i > 0; i-- {
		out = append(out, diagtest.Listening(fmt.Sprintf("127.1.%d.%d:%d", i/256, i%256, port), uint64(port)<<32|uint64(i)))
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
		f.sockets = append(f.sockets, diagtest.Listening(netip.AddrPortFrom(netip.MustParseAddr(address), 80).String(), uint64(i+1)))
	}
	f.sockets = append(f.sockets, diagtest.Listening("127.9.9.9:79", 1<<60))
	taker := newTaker(t, f.config(), discovering())
	s := whole(t, taker)

	got := shownOn(&s, 80)
	for _, address := range servers {
		if !slices.Contains(got, address) {
			t.Errorf("%s is not shown", address)
		}
	}
	if len(got) != shown.MaxPerPort || s.GroupsDropped[80] != 1000+len(servers)-shown.MaxPerPort {
		t.Errorf("%d groups are shown, %d dropped; want %d, and %d", len(got), s.GroupsDropped[80], shown.MaxPerPort, 1000+len(servers)-shown.MaxPerPort)
	}
	if got := shownOn(&s, 79); !slices.Equal(got, []string{"127.9.9.9"}) || s.GroupsDropped[79] != 0 {
		t.Errorf("of a port beside it %q are shown, %d dropped; want the one", got, s.GroupsDropped[79])
	}
	if n := port(t, &s, 80).IPv4.States[netlinkdiag.StateListen]; n != 1003 {
		t.Errorf("%d IPv4 listeners are counted, want 1003", n)
	}
	if !slices.IsSortedFunc(s.Listeners.Data, func(a, b ports.Group) int { return a.Compare(b.GroupKey) }) {
		t.Error("groups are not sorted")
	}

	// The same ones in any order of the kernel, also when more come.
	f.set(slices.Concat(crowd(2000, 80), f.sockets[1000:])...)
	s = whole(t, taker)
	if again := shownOn(&s, 80); !slices.Equal(again, got) {
		t.Errorf("with more of them are shown\n%q, before\n%q", again, got)
	}
}

func TestGroupsOfAllPortsAreBounded(t *testing.T) {
	f := newFake()
	watched := 2 * shown.Max / shown.MaxPerPort
	for p := range watched {
		f.sockets = append(f.sockets, crowd(shown.MaxPerPort, uint16(1000+p))...)
	}
	s := whole(t, newTaker(t, f.config(), discovering()))
	if len(s.Listeners.Data) != shown.Max {
		t.Errorf("%d groups are shown, want %d", len(s.Listeners.Data), shown.Max)
	}
	for p := range watched {
		if n := len(shownOn(&s, uint16(1000+p))); n != shown.MaxPerPort/2 {
			t.Fatalf("%d groups of port %d are shown, want %d of each", n, 1000+p, shown.MaxPerPort/2)
		}
	}
}

func TestFlagsKeepToTheirGroupsInACrowd(t *testing.T) {
	f := newFake(append(crowd(1000, 80), diagtest.Listening("0.0.0.0:80", 1))...)
	flags := make(map[uint64]sock.ReuseFlags)
	for _, s := range f.sockets {
		flags[s.Cookie] = sock.ReuseFlags{ReuseAddr: s.Cookie == 1}
	}
	s := whole(t, newTaker(t, withFlags(f, knowing(flags)), discovering()))
	if len(s.Listeners.Data) != shown.MaxPerPort {
		t.Fatalf("%d groups are shown, want %d", len(s.Listeners.Data), shown.MaxPerPort)
	}
	for _, g := range s.Listeners.Data {
		if want := bindrule.FlagOf(g.Address.IsUnspecified()); g.ReuseAddr != want {
			t.Errorf("%v:%d has SO_REUSEADDR %v, want %v", g.Address, g.Port, g.ReuseAddr, want)
		}
	}
}

// Listeners that are not shown block a bind all the same.
func TestVerdictsConsiderTheWholeCrowd(t *testing.T) {
	f := newFake(crowd(1000, 80)...)
	cfg := f.config()
	cfg.Parts.Verdicts = true
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
	if len(v.Restarts) != shown.MaxPerPort {
		t.Errorf("%d restarts are judged, want %d", len(v.Restarts), shown.MaxPerPort)
	}
}
