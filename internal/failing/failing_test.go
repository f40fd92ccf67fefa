package failing

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
)

const (
	own = 7
	v4  = sock.FamilyIPv4
	v6  = sock.FamilyIPv6
)

// A story tells a Tracker what happens on port 80, by the second.
type story struct {
	t       *testing.T
	tracker *Tracker
	start   time.Time
}

func newStory(t *testing.T) *story {
	t.Helper()
	return &story{t: t, tracker: New(), start: time.Unix(1_700_000_000, 0)}
}

func (s *story) at(second int) time.Time { return s.start.Add(time.Duration(second) * time.Second) }

func (s *story) fails(second int, addr string) {
	a := netip.MustParseAddr(addr)
	family := v4
	if a.Is6() {
		family = v6
	}
	s.tracker.Failed(Failure{Key: Key{own, 80, family}, Time: s.at(second), Addr: a, V6Only: false})
}

// looks is a snapshot.
func (s *story) looks(second int, listeners ...ports.Listener) {
	s.tracker.Look(own, s.at(second), listeners)
}

// want checks the state of port 80.
func (s *story) want(second int, family sock.Family, failing bool) {
	s.t.Helper()
	for _, state := range s.tracker.Update(s.at(second), func(k Key) bool { return k.Port == 80 }) {
		if state.Key == (Key{own, 80, family}) {
			if state.Failing != failing {
				s.t.Errorf("at %d s: failing is %v, want %v", second, state.Failing, failing)
			}
			return
		}
	}
	s.t.Errorf("at %d s: no state", second)
}

func listener(cookie uint64, addr string) ports.Listener {
	a := netip.MustParseAddr(addr)
	family := v4
	if a.Is6() {
		family = v6
	}
	return ports.Listener{GroupKey: ports.GroupKey{Port: 80, Family: family, Address: a}, Cookie: cookie}
}

func v6only(l ports.Listener) ports.Listener {
	l.V6Only = true
	return l
}

func TestARestartThatIsBlockedFailsUntilItsBindWorks(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "0.0.0.0"))
	s.fails(5, "0.0.0.0") // the server was stopped at 4
	s.looks(15)
	s.want(15, v4, true)
	s.fails(20, "0.0.0.0")
	s.looks(30)
	s.want(30, v4, true)
	s.looks(45, listener(2, "0.0.0.0"))
	s.want(45, v4, false)
	s.looks(60) // stopped on purpose
	s.want(60, v4, false)
}

func TestABindThatWorkedBetweenTwoSnapshotsEndsIt(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "0.0.0.0"))
	s.fails(5, "0.0.0.0")
	s.looks(15, listener(2, "0.0.0.0"))
	s.want(15, v4, false)
	s.looks(30)
	s.want(30, v4, false)
}

// A server starts after a snapshot, and another one fails beside it before the next.
func TestAListenerThatWasInTheWayIsNoBindThatWorked(t *testing.T) {
	first, second := listener(1, "0.0.0.0"), listener(2, "0.0.0.0")
	first.Inode, second.Inode = 101, 102
	s := newStory(t)
	s.looks(0)
	s.tracker.Failed(Failure{Key: Key{own, 80, v4}, Time: s.at(5), Addr: first.Address, InTheWay: []uint32{101}})
	s.looks(15, first)
	s.want(15, v4, true)
	s.looks(30, second)
	s.want(30, v4, false)
}

func TestASecondCopyFailsAsLongAsTheFirstIsThere(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "127.0.0.1"))
	s.fails(5, "127.0.0.1")
	for second := 15; second < 60; second += 15 {
		s.looks(second, listener(1, "127.0.0.1"))
		s.want(second, v4, true)
	}
	s.looks(60) // the first one is stopped on purpose
	s.want(60, v4, false)
}

func TestTheFirstIsStoppedAndTheSecondTriesAgain(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "127.0.0.1"))
	s.fails(5, "127.0.0.1")
	s.looks(15, listener(1, "127.0.0.1"))
	s.fails(20, "127.0.0.1") // old connections are in the way
	s.looks(30)
	s.want(30, v4, true)
}

func TestAnInheritedListenerIsNotTheBindThatWorked(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "0.0.0.0"))
	for second := 5; second < 3000; second += 10 {
		s.fails(second, "0.0.0.0")
		s.looks(second+5, listener(1, "0.0.0.0"))
		s.want(second+5, v4, true)
	}
}

func TestNobodyTriesAnyMore(t *testing.T) {
	for _, tt := range []struct {
		name      string
		listeners []ports.Listener
		last      int // second at which it fails for the last time
	}{
		{"where nothing listened", nil, 15 * 60},
		{"where something did", []ports.Listener{listener(1, "0.0.0.0")}, 60 * 60},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStory(t)
			s.looks(-20, tt.listeners...)
			s.looks(-10)
			s.fails(0, "0.0.0.0")
			s.looks(tt.last - 1)
			s.want(tt.last-1, v4, true)
			s.looks(tt.last)
			s.want(tt.last, v4, false)
			s.want(tt.last+10_000, v4, false)
		})
	}
}

// Which listener is the bind that worked, and which one is in the way of it.
func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		bind  string
		other ports.Listener
		works bool
	}{
		{"0.0.0.0", listener(1, "10.0.0.1"), true},
		{"10.0.0.1", listener(1, "0.0.0.0"), true},
		{"10.0.0.1", listener(1, "10.0.0.1"), true},
		{"10.0.0.1", listener(1, "10.0.0.2"), false},
		{"0.0.0.0", listener(1, "::"), true},
		{"0.0.0.0", listener(1, "::ffff:10.0.0.1"), true},
		{"0.0.0.0", v6only(listener(1, "::")), false},
		{"0.0.0.0", listener(1, "2001:db8::1"), false},
		{"::", listener(1, "::"), true},
		{"::", listener(1, "2001:db8::1"), true},
		{"::", listener(1, "0.0.0.0"), false}, // serves no IPv6
		{"2001:db8::1", listener(1, "2001:db8::2"), false},
		{"fe80::1%2", listener(1, "fe80::1"), true},
	} {
		t.Run(fmt.Sprint(tt.bind, " and ", tt.other.Address), func(t *testing.T) {
			s := newStory(t)
			family := v4
			if netip.MustParseAddr(tt.bind).Is6() {
				family = v6
			}
			s.looks(0)
			s.fails(5, tt.bind)
			s.looks(15, tt.other)
			s.want(15, family, !tt.works)
		})
	}
}

func TestOneAddressWorksAndAnotherFails(t *testing.T) {
	s := newStory(t)
	s.looks(0)
	s.fails(5, "10.0.0.1")
	s.fails(6, "10.0.0.2")
	s.looks(15, listener(1, "10.0.0.1"))
	s.want(15, v4, true)
	s.looks(30, listener(1, "10.0.0.1"), listener(2, "10.0.0.2"))
	s.want(30, v4, false)
}

// An IPv6 server on all addresses meets the IPv4 one.
func TestTheOtherFamilyIsInTheWay(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "0.0.0.0"))
	s.fails(5, "::")
	s.looks(15, listener(1, "0.0.0.0"))
	s.want(15, v6, true)
	s.looks(30)
	s.want(30, v6, false)
}

func TestAFailureThatMakesItsPortWatchedCounts(t *testing.T) {
	s := newStory(t)
	s.fails(5, "0.0.0.0")
	none := func(Key) bool { return false }
	if states := s.tracker.Update(s.at(6), none); len(states) > 0 {
		t.Errorf("a port that is not watched has states: %v", states)
	}
	s.want(7, v4, true)
	if states := s.tracker.Update(s.at(8), none); len(states) > 0 {
		t.Errorf("a port that left the watch has states: %v", states)
	}
	if len(s.tracker.ports) > 0 || s.tracker.others != 0 || len(s.tracker.users) > 0 {
		t.Errorf("it is kept: %+v", s.tracker)
	}
}

func TestAPortThatIsNeverWatchedIsForgotten(t *testing.T) {
	s := newStory(t)
	s.fails(5, "0.0.0.0")
	for range 2 {
		s.tracker.Update(s.at(6), func(Key) bool { return false })
	}
	if len(s.tracker.ports) > 0 || s.tracker.others != 0 || len(s.tracker.users) > 0 {
		t.Errorf("it is kept: %+v", s.tracker)
	}
}

func TestANamespaceThatIsGoneIsForgotten(t *testing.T) {
	s := newStory(t)
	s.looks(0, listener(1, "0.0.0.0"))
	s.fails(5, "0.0.0.0")
	s.want(6, v4, true)
	s.tracker.Forget(func(netns uint32) bool { return netns == own })
	if len(s.tracker.ports) > 0 || len(s.tracker.looks) > 0 {
		t.Errorf("it is kept: %+v", s.tracker)
	}
}

// Any user may fail to bind to all ports and addresses there are.
func TestHostileBindsKeepABoundedNumber(t *testing.T) {
	s := newStory(t)
	for uid := range uint32(8) {
		for port := range uint16(1000) {
			s.tracker.Failed(Failure{Key: Key{own, port + 1, v4}, Time: s.at(0), User: uid})
		}
	}
	if n := len(s.tracker.ports); n != maxUnwatched {
		t.Errorf("%d ports are kept, want %d", n, maxUnwatched)
	}
	for i := range byte(200) {
		s.tracker.Failed(Failure{Key: Key{own, 1, v4}, Time: s.at(int(i)), Addr: netip.AddrFrom4([4]byte{127, 0, 0, i})})
	}
	if n := len(s.tracker.ports[Key{own, 1, v4}].binds); n != maxAddresses {
		t.Errorf("%d addresses are kept, want %d", n, maxAddresses)
	}
}
