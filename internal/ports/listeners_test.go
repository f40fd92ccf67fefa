package ports

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

const retention = 10 * time.Minute

func listenerOf(s netlinkdiag.Socket) Listener { return NewListener(&s) }

func queue(s netlinkdiag.Socket, length, limit uint32) netlinkdiag.Socket {
	s.RQueue, s.WQueue = length, limit
	return s
}

func v6only(s netlinkdiag.Socket) netlinkdiag.Socket {
	s.V6Only = true
	return s
}

func withCookie(s netlinkdiag.Socket, cookie uint64) netlinkdiag.Socket {
	s.Cookie = cookie
	return s
}

func withUID(s netlinkdiag.Socket, uid uint32) netlinkdiag.Socket {
	s.UID = uid
	return s
}

func TestGroups(t *testing.T) {
	root := bindrule.UIDOf(0)
	key := func(s netlinkdiag.Socket) GroupKey { return listenerOf(s).GroupKey }
	onDevice := func(s netlinkdiag.Socket, ifindex uint32) netlinkdiag.Socket {
		s.Ifindex = ifindex
		return s
	}
	a4, b4 := diagtest.Listening("127.0.0.1:80", 1), diagtest.Listening("127.0.0.1:80", 2)
	any4, any6, mapped := diagtest.Listening("0.0.0.0:80", 3), diagtest.Listening("[::]:80", 4), diagtest.Listening("[::ffff:127.0.0.1]:80", 5)
	other := diagtest.Listening("127.0.0.1:79", 6)
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
				{GroupKey: key(any4), V6Only: false, Sockets: 1, Queue: 1, QueueLimit: 2, QueueRatio: 0.5, UID: root, Cookies: 3, DropsKnown: true},
				{GroupKey: key(a4), V6Only: false, Sockets: 2, Queue: 7, QueueLimit: 15, QueueRatio: 1.2, UID: root, Cookies: 3, DropsKnown: true},
			}},
		{"limit of 0 counts as 1",
			[]netlinkdiag.Socket{queue(a4, 1, 0), queue(other, 0, 0)},
			[]Group{
				{GroupKey: key(other), Sockets: 1, UID: root, Cookies: 6, DropsKnown: true},
				{GroupKey: key(a4), Sockets: 1, Queue: 1, QueueRatio: 1, UID: root, Cookies: 1, DropsKnown: true},
			}},
		{"sums beyond 32 bits",
			[]netlinkdiag.Socket{queue(a4, math.MaxUint32, math.MaxUint32), queue(b4, math.MaxUint32, math.MaxUint32)},
			[]Group{{GroupKey: key(a4), Sockets: 2, Queue: 2 * math.MaxUint32, QueueLimit: 2 * math.MaxUint32, QueueRatio: 1, UID: root, Cookies: 3, DropsKnown: true}}},
		{"one group for each port, family, address and device, in that order",
			[]netlinkdiag.Socket{onDevice(any6, 2), mapped, any6, a4, onDevice(a4, 3), any4, onDevice(a4, 2), other},
			[]Group{
				{GroupKey: key(other), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 6, DropsKnown: true},
				{GroupKey: key(any4), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 3, DropsKnown: true},
				{GroupKey: key(a4), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 1, DropsKnown: true},
				{GroupKey: key(onDevice(a4, 2)), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 1, DropsKnown: true},
				{GroupKey: key(onDevice(a4, 3)), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 1, DropsKnown: true},
				{GroupKey: key(any6), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 4, DropsKnown: true},
				{GroupKey: key(onDevice(any6, 2)), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 4, DropsKnown: true},
				{GroupKey: key(mapped), Sockets: 1, QueueLimit: 128, UID: root, Cookies: 5, DropsKnown: true},
			}},
		{"v6only where every socket is",
			[]netlinkdiag.Socket{v6only(any6), withCookie(v6only(any6), 7), mapped, withCookie(v6only(mapped), 8)},
			[]Group{
				{GroupKey: key(any6), V6Only: true, Sockets: 2, QueueLimit: 256, UID: root, Cookies: 4 ^ 7, DropsKnown: true},
				{GroupKey: key(mapped), V6Only: false, Sockets: 2, QueueLimit: 256, UID: root, Cookies: 5 ^ 8, DropsKnown: true},
			}},
		{"drops unknown where one socket does not say",
			[]netlinkdiag.Socket{a4, withoutMem},
			[]Group{{GroupKey: key(a4), Sockets: 2, QueueLimit: 256, UID: root, Cookies: 3, DropsKnown: false}}},
		{"the user of all, or of none",
			[]netlinkdiag.Socket{withUID(a4, 7), withUID(b4, 7), withUID(any4, 7), withUID(withCookie(any4, 9), 8)},
			[]Group{
				{GroupKey: key(any4), Sockets: 2, QueueLimit: 256, Cookies: 3 ^ 9, DropsKnown: true},
				{GroupKey: key(a4), Sockets: 2, QueueLimit: 256, UID: bindrule.UIDOf(7), Cookies: 3, DropsKnown: true},
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var listeners []Listener
			for _, s := range tt.sockets {
				listeners = append(listeners, NewListener(&s))
			}
			sortListeners(listeners)
			if got := Groups(listeners); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// crowd returns n listeners on as many addresses of 127.1.0.0/16.
func crowd(n int, port uint16) []netlinkdiag.Socket {
	var out []netlinkdiag.Socket
	for i := range n {
		out = append(out, diagtest.Listening(fmt.Sprintf("127.1.%d.%d:%d", i/256, i%256, port), uint64(port)<<32|uint64(i)))
	}
	return out
}

// takeDump takes a whole dump of these sockets.
func (c *DropCounter) takeDump(now time.Time, sockets ...Listener) {
	c.Begin(now)
	for i := range sockets {
		c.Add(&sockets[i])
	}
	c.End()
}

func TestDropsOfListenersThatGoAreBounded(t *testing.T) {
	c := NewDropCounter(retention)
	now := time.Unix(1_700_000_000, 0)
	server := diagtest.Listening("192.0.2.1:80", 1)
	for i := range 10 * maxGone / 1000 {
		now = now.Add(time.Millisecond)
		stay := []Listener{NewListener(&server)}
		stay[0].Drops = uint32(i + 1)
		for _, s := range crowd(1000, uint16(1000+i)) {
			stay = append(stay, NewListener(&s))
			stay[len(stay)-1].Drops = 1
		}
		c.takeDump(now, stay...)
	}
	if got := len(c.groups); got > maxGone+1001 {
		t.Errorf("%d groups are remembered, want %d at most", got, maxGone+1001)
	}
	if got, want := c.Total(listenerOf(server).GroupKey), uint64(10*maxGone/1000); got != want {
		t.Errorf("%d drops at the listener that stays, want %d", got, want)
	}
}

func TestImportantGroupsComeFirst(t *testing.T) {
	addresses := []string{"0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "::1", "::ffff:192.0.2.1", "127.0.0.2", "::ffff:127.0.0.2"}
	var keys []GroupKey
	for _, a := range addresses {
		addr := netip.MustParseAddr(a)
		keys = append(keys, GroupKey{Port: 80, Family: sock.FamilyOf(addr), Address: addr})
	}
	shuffled := slices.Clone(keys)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, ByRank)
	if !slices.Equal(shuffled, keys) {
		t.Errorf("in the order\n%v, want\n%v", shuffled, keys)
	}
}
