package probe

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A walker is a FlagReader that counts its walks.
type walker int

func (*walker) Mode() sockflags.Mode { return sockflags.ModeBPF }

func (w *walker) Read(context.Context, sockflags.Request) (*sockflags.Result, error) {
	*w++
	return new(sockflags.Result), nil
}

// buckets is a BucketReader that answers the same each time.
type buckets struct {
	result bindbucket.Result
	err    error
	asked  int // for connections
}

func (b *buckets) Read(int, []uint16) (*bindbucket.Result, error) { return &b.result, b.err }

func (b *buckets) ReadHeld(int, []uint16) (*bindbucket.Result, error) { return &b.result, b.err }

func (b *buckets) ReadConnections(int, sock.PortRange, []uint16) ([]bindbucket.Connection, error) {
	b.asked++
	return []bindbucket.Connection{{Local: netip.MustParseAddrPort("127.0.0.1:40000"), Peer: netip.MustParseAddrPort("127.0.0.1:80"), State: sock.StateEstablished}}, b.err
}

// Where there are too many connections for the bind buckets, these are left alone for a while.
func TestManyConnectionsAreNotLookedFor(t *testing.T) {
	count := func(n Namespace) (uint64, error) {
		to := ports.NewClients(nil, sock.PortRange{First: 32768, Last: 60999}, func(func(uint16) bool) {}, watch.Set{})
		err := n.Connections(to)
		if e := to.Ephemeral(); len(e.IPv4) > 0 {
			return e.IPv4[0], err
		}
		return 0, err
	}
	b := new(buckets)
	c := Config{Buckets: b}
	n := c.Own()
	for asked := 1; asked <= 2; asked++ {
		if got, err := count(n); got != 1 || err != nil || b.asked != asked {
			t.Errorf("%d connections, error %v, asked %d times", got, err, b.asked)
		}
	}
	b.err = errors.New("broken")
	if got, err := count(n); got != 0 || err == nil || b.asked != 3 {
		t.Errorf("%d connections, error %v, asked %d times", got, err, b.asked)
	}
	b.err = bindbucket.ErrTooMany
	if got, err := count(n); got != 0 || err == nil || b.asked != 4 {
		t.Errorf("%d connections, error %v, asked %d times", got, err, b.asked)
	}
	b.err = nil
	if got, err := count(n); got != 0 || !errors.Is(err, ErrOff) || b.asked != 4 {
		t.Errorf("%d connections, error %v, asked %d times", got, err, b.asked)
	}
	if _, err := count((&Config{}).Own()); !errors.Is(err, ErrOff) {
		t.Errorf("without bind buckets: %v", err)
	}
}

func (b *buckets) ReadBuckets(int, []uint16) (map[uint16]bindbucket.Bucket, error) {
	return b.result.Buckets, nil
}

func TestFewSocketsAreReadOutOfBuckets(t *testing.T) {
	for _, tt := range []struct {
		name    string
		buckets BucketReader
		sockets uint64
		walks   int
	}{
		{"few sockets", new(buckets), 100, 0},
		{"many sockets", new(buckets), maxBucketSockets + 1, 1},
		{"more sockets than there were", &buckets{err: bindbucket.ErrTooMany}, 100, 1},
		{"no buckets on this kernel", nil, 100, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var w walker
			c := Config{Flags: &w, Buckets: tt.buckets}
			flags, err := c.Own().Flags(t.Context(), FlagRequest{Ports: []uint16{80}, Sockets: tt.sockets})
			if err != nil || int(w) != tt.walks || flags.Bound != (tt.walks == 0) {
				t.Errorf("%d walks, bound sockets %v, %v; want %d walks", w, flags.Bound, err, tt.walks)
			}
		})
	}
}

// Sockets that bind() cannot tell apart are one, with the last timer.
func TestSocketsOfBucketsAreFolded(t *testing.T) {
	addr := netip.MustParseAddr("127.0.0.1")
	tw := bindbucket.Socket{Port: 80, Cookie: 1, Addr: addr, State: sock.StateTimeWait, Kind: sock.KindTimeWait, Expires: time.Second}
	later := tw
	later.Cookie, later.Expires = 2, 3*time.Second
	bound := bindbucket.Socket{Port: 80, Cookie: 3, Addr: addr, State: sock.StateClose, UID: 7, ReuseFlags: sock.ReuseFlags{ReuseAddr: true}}
	listener := bindbucket.Socket{Port: 80, Cookie: 4, Addr: addr, State: sock.StateListen, ReuseFlags: sock.ReuseFlags{ReusePort: true}}
	c := Config{Flags: new(walker), Buckets: &buckets{result: bindbucket.Result{
		Sockets: []bindbucket.Socket{tw, bound, later, listener},
		Buckets: map[uint16]bindbucket.Bucket{80: {FastReuse: 1, FastReusePort: -1, MappedMeetsAny: true}},
		Missed:  map[uint16]bool{81: true},
	}}}
	flags, err := c.Own().Flags(t.Context(), FlagRequest{Ports: []uint16{80, 81}})
	if err != nil {
		t.Fatal(err)
	}
	want := []PortSocket{
		{80, bindrule.Socket{Addr: addr, V6Only: bindrule.No, ReuseAddr: bindrule.No, ReusePort: bindrule.No, State: sock.StateTimeWait, Kind: sock.KindTimeWait, Count: 2, Expires: 3 * time.Second}},
		{80, bindrule.Socket{Addr: addr, V6Only: bindrule.No, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No, State: sock.StateClose, UID: bindrule.UIDOf(7), Count: 1}},
	}
	if len(flags.Sockets) != 2 || flags.Sockets[0] != want[0] || flags.Sockets[1] != want[1] {
		t.Errorf("got  %+v\nwant %+v", flags.Sockets, want)
	}
	if got := flags.Listeners[4]; len(flags.Listeners) != 1 || !got.ReusePort || got.ReuseAddr {
		t.Errorf("listeners %+v", flags.Listeners)
	}
	if b := flags.Buckets[80]; !b.Known || !b.FastReuse || b.FastReusePort != 0 || !b.MappedMeetsAny || flags.Missed[81] == 0 {
		t.Errorf("bucket %+v, missed %v", b, flags.Missed)
	}
}
