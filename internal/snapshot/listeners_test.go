package snapshot

import (
	"math"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/netlinkdiag"
)

func queue(s netlinkdiag.Socket, length, limit uint32) netlinkdiag.Socket {
	s.RQueue, s.WQueue = length, limit
	return s
}

func v6only(s netlinkdiag.Socket) netlinkdiag.Socket {
	s.V6Only = true
	return s
}

func TestGroups(t *testing.T) {
	key := func(s netlinkdiag.Socket) GroupKey { return newListener(&s).key }
	onDevice := func(s netlinkdiag.Socket, ifindex uint32) netlinkdiag.Socket {
		s.Ifindex = ifindex
		return s
	}
	a4, b4 := listening("127.0.0.1:80", 1), listening("127.0.0.1:80", 2)
	any4, any6, mapped := listening("0.0.0.0:80", 3), listening("[::]:80", 4), listening("[::ffff:127.0.0.1]:80", 5)
	other := listening("127.0.0.1:79", 6)
	withoutMem := b4
	withoutMem.HasMem = false

	for _, tt := range []struct {
		name    string
		sockets []netlinkdiag.Socket
		want    []Group
	}{
		{"none", nil, nil},
		{"queue sums and the fullest ratio",
			[]netlinkdiag.Socket{queue(a4, 1, 10), queue(b4, 6, 5), queue(any4, 1, 2)},
			[]Group{
				{GroupKey: key(any4), V6Only: false, Sockets: 1, Queue: 1, QueueLimit: 2, QueueRatio: 0.5, DropsKnown: true},
				{GroupKey: key(a4), V6Only: false, Sockets: 2, Queue: 7, QueueLimit: 15, QueueRatio: 1.2, DropsKnown: true},
			}},
		{"limit of 0 counts as 1",
			[]netlinkdiag.Socket{queue(a4, 1, 0), queue(other, 0, 0)},
			[]Group{
				{GroupKey: key(other), Sockets: 1, DropsKnown: true},
				{GroupKey: key(a4), Sockets: 1, Queue: 1, QueueRatio: 1, DropsKnown: true},
			}},
		{"sums beyond 32 bits",
			[]netlinkdiag.Socket{queue(a4, math.MaxUint32, math.MaxUint32), queue(b4, math.MaxUint32, math.MaxUint32)},
			[]Group{{GroupKey: key(a4), Sockets: 2, Queue: 2 * math.MaxUint32, QueueLimit: 2 * math.MaxUint32, QueueRatio: 1, DropsKnown: true}}},
		{"one group for each port, family, address and device, in that order",
			[]netlinkdiag.Socket{onDevice(any6, 2), mapped, any6, a4, onDevice(a4, 3), any4, onDevice(a4, 2), other},
			[]Group{
				{GroupKey: key(other), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(any4), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(a4), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(onDevice(a4, 2)), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(onDevice(a4, 3)), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(any6), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(onDevice(any6, 2)), Sockets: 1, QueueLimit: 128, DropsKnown: true},
				{GroupKey: key(mapped), Sockets: 1, QueueLimit: 128, DropsKnown: true},
			}},
		{"v6only where every socket is",
			[]netlinkdiag.Socket{v6only(any6), v6only(any6), mapped, v6only(mapped)},
			[]Group{
				{GroupKey: key(any6), V6Only: true, Sockets: 2, QueueLimit: 256, DropsKnown: true},
				{GroupKey: key(mapped), V6Only: false, Sockets: 2, QueueLimit: 256, DropsKnown: true},
			}},
		{"drops unknown where one socket does not say",
			[]netlinkdiag.Socket{a4, withoutMem},
			[]Group{{GroupKey: key(a4), Sockets: 2, QueueLimit: 256, DropsKnown: false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var listeners []listener
			for _, s := range tt.sockets {
				listeners = append(listeners, newListener(&s))
			}
			if got := groups(listeners); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

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
					sockets = append(sockets, withDrops(listening(address, cookie), drops))
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
	f := newFake(withDrops(listening("0.0.0.0:80", 1), 1), withDrops(listening("[::]:80", 2), 2), withDrops(listening("127.0.0.1:80", 3), 4))
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
		old := withDrops(listening("0.0.0.0:80", 1), 30)
		f := newFake(old)
		taker := newTaker(t, f.config(), discovering())
		whole(t, taker)

		f.set()
		time.Sleep(retention + time.Second)
		whole(t, taker)
		if n := len(taker.host.own.drops.groups); n != 0 {
			t.Errorf("%d groups are remembered, want none", n)
		}
		f.set(withDrops(listening("0.0.0.0:80", 2), 1))
		if s := whole(t, taker); s.Listeners.Data[0].Drops != 1 {
			t.Errorf("%d drops, want 1: those of the new group", s.Listeners.Data[0].Drops)
		}
	})
}

// Port 90 listens all the time, but is not watched while 80 takes its place.
func TestDropsOfAListenerOutsideTheBudgetForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := ports.Config{Listeners: true, Retention: retention, MaxPorts: 1}
		f := newFake(withDrops(listening("0.0.0.0:90", 1), 30))
		taker := newTaker(t, f.config(), cfg)
		whole(t, taker)

		f.set(listening("0.0.0.0:80", 2), withDrops(listening("0.0.0.0:90", 1), 31))
		s := whole(t, taker)
		checkWatched(t, &s, 80)

		f.set(withDrops(listening("0.0.0.0:90", 1), 32))
		time.Sleep(retention)
		s = whole(t, taker)
		checkWatched(t, &s, 90)
		if got := s.Listeners.Data[0].Drops; got != 32 {
			t.Errorf("%d drops, want 32: the socket's own, not the ones before it left once more", got)
		}
	})
}
