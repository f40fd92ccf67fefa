package snapshot

import (
	"math"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// TestDrops sees one group over several snapshots.
func TestDrops(t *testing.T) {
	const address = "0.0.0.0:80"
	type step struct {
		drops map[uint64]uint32 // by cookie
		want  uint64
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"what was dropped before the exporter started counts", []step{
			{map[uint64]uint32{1: 1000, 2: 10}, 1010},
			{map[uint64]uint32{1: 1000, 2: 10}, 1010},
		}},
		{"sum of a SO_REUSEPORT group", []step{
			{map[uint64]uint32{1: 0, 2: 0}, 0},
			{map[uint64]uint32{1: 3, 2: 4}, 7},
			{map[uint64]uint32{1: 5, 2: 4}, 9},
		}},
		{"does not fall when a socket of the group closes", []step{
			{map[uint64]uint32{1: 30, 2: 40}, 70},
			{map[uint64]uint32{2: 40}, 70},
			{map[uint64]uint32{2: 41}, 71},
		}},
		{"does not jump when a listener is replaced", []step{
			{map[uint64]uint32{1: 30}, 30},
			{map[uint64]uint32{2: 0}, 30},
			{map[uint64]uint32{2: 1}, 31},
			{map[uint64]uint32{3: 1}, 32},
		}},
		{"a counter that wraps", []step{
			{map[uint64]uint32{1: math.MaxUint32 - 1}, math.MaxUint32 - 1},
			{map[uint64]uint32{1: 3}, math.MaxUint32 + 4},
			{map[uint64]uint32{1: 4}, math.MaxUint32 + 5},
		}},
		{"counts on when the group comes back in time", []step{
			{map[uint64]uint32{1: 30}, 30},
			{nil, 0},
			{map[uint64]uint32{2: 2}, 32},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			taker := newTaker(t, f.config(), discovering())
			for i, step := range tt.steps {
				var sockets []netlinkdiag.Socket
				for cookie, drops := range step.drops {
					sockets = append(sockets, withDrops(diagtest.Listening(address, cookie), drops))
				}
				f.set(sockets...)
				s := whole(t, taker)
				switch g := s.Listeners.Data; {
				case len(sockets) == 0 && len(g) == 0:
				case len(g) != 1 || g[0].Drops != step.want || !g[0].DropsKnown:
					t.Errorf("step %d: got %+v, want one group with %d drops", i, g, step.want)
				}
			}
		})
	}
}

func TestDropsAreOfTheirGroup(t *testing.T) {
	f := newFake(withDrops(diagtest.Listening("0.0.0.0:80", 1), 1), withDrops(diagtest.Listening("[::]:80", 2), 2), withDrops(diagtest.Listening("127.0.0.1:80", 3), 4))
	s := whole(t, newTaker(t, f.config(), discovering()))
	got := make(map[netip.Addr]uint64)
	for _, g := range s.Listeners.Data {
		got[g.Address] = g.Drops
	}
	want := map[netip.Addr]uint64{netip.IPv4Unspecified(): 1, netip.IPv6Unspecified(): 2, netip.MustParseAddr("127.0.0.1"): 4}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDropsAreForgottenAfterTheRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := withDrops(diagtest.Listening("0.0.0.0:80", 1), 30)
		f := newFake(old)
		taker := newTaker(t, f.config(), discovering())
		whole(t, taker)

		f.set()
		time.Sleep(retention + time.Second)
		whole(t, taker)
		if l := ports.NewListener(&old); taker.host.own.drops.Total(l.GroupKey) != 0 {
			t.Error("the group is remembered, want it forgotten")
		}
		f.set(withDrops(diagtest.Listening("0.0.0.0:80", 2), 1))
		if s := whole(t, taker); s.Listeners.Data[0].Drops != 1 {
			t.Errorf("%d drops, want 1: those of the new group", s.Listeners.Data[0].Drops)
		}
	})
}

// Port 90 listens all the time, but is not watched while 80 has its place.
func TestDropsOfAListenerThatIsNotWatchedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := watch.Config{Listeners: true, Retention: retention, MaxPorts: 1}
		f := newFake(diagtest.Listening("0.0.0.0:80", 2))
		taker := newTaker(t, f.config(), cfg)
		whole(t, taker)

		f.set(diagtest.Listening("0.0.0.0:80", 2), withDrops(diagtest.Listening("0.0.0.0:90", 1), 31))
		s := whole(t, taker)
		checkWatched(t, &s, 80)

		f.set(withDrops(diagtest.Listening("0.0.0.0:90", 1), 32))
		time.Sleep(retention)
		s = whole(t, taker)
		checkWatched(t, &s, 90)
		if got := s.Listeners.Data[0].Drops; got != 32 {
			t.Errorf("%d drops, want 32: the socket's own, not the ones before it left once more", got)
		}
	})
}
