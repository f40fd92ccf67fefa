package bindbucket_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

const port = 4840

var (
	v4any = netip.MustParseAddr("0.0.0.0")
	v4lo  = netip.MustParseAddr("127.0.0.1")
	v6any = netip.MustParseAddr("::")
	v6lo  = netip.MustParseAddr("::1")
)

// on returns the sockets on the port in some states.
func on(t *testing.T, r *bindbucket.Reader, ns *kerneltest.NetNS, states ...sock.State) []bindbucket.Socket {
	t.Helper()
	got, err := r.Read(ns.FD(), []uint16{port})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Missed) > 0 {
		t.Errorf("missed %v", got.Missed)
	}
	return slices.DeleteFunc(got.Sockets, func(s bindbucket.Socket) bool { return !slices.Contains(states, s.State) })
}

func TestSocketsOfEveryStateHaveTheirFlags(t *testing.T) {
	r := newReader(t)
	for _, addr := range []struct {
		name               string
		listen, from, want netip.Addr
	}{
		{"ipv4", v4any, v4lo, v4lo},
		{"ipv6", v6any, v6lo, v6lo},
		{"mapped", v6any, v4lo, netip.MustParseAddr("::ffff:127.0.0.1")},
	} {
		for _, state := range kerneltest.States() {
			// A request is in no bind bucket.
			if state == kerneltest.StateListen || state == kerneltest.StateSynRecv {
				continue
			}
			for _, flags := range []sock.ReuseFlags{{}, {ReuseAddr: true}, {ReusePort: true}, {ReuseAddr: true, ReusePort: true}} {
				t.Run(fmt.Sprintf("%s/%v/%+v", addr.name, state, flags), func(t *testing.T) {
					ns := kerneltest.New(t)
					l := ns.Listen(t, netip.AddrPortFrom(addr.listen, port), kerneltest.Options{ReuseAddr: flags.ReuseAddr, ReusePort: flags.ReusePort})
					l.Peers(t, state, 2, addr.from)

					got := on(t, r, ns, sock.State(state))
					if len(got) != 2 {
						t.Fatalf("%d sockets, want 2: %+v", len(got), got)
					}
					for _, s := range got {
						timeWait := state == kerneltest.StateTimeWait
						if s.Port != port || s.ReuseFlags != flags || (s.Kind == sock.KindTimeWait) != timeWait || (s.Expires > 0) != timeWait || s.Expires > time.Minute {
							t.Errorf("%+v, want flags %+v", s, flags)
						}
						if state != kerneltest.StateClose && s.Addr != addr.want {
							t.Errorf("address %v, want %v", s.Addr, addr.want)
						}
					}
				})
			}
		}
	}
}

// Connections in SYN_RECV are in no bind bucket. Their listener counts them.
func TestListenerHasRequests(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v6any, port), kerneltest.Options{}).Peers(t, kerneltest.StateSynRecv, 1, v4lo)
	ns.Listen(t, netip.AddrPortFrom(v6any, port+1), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 1, v4lo)
	for _, tt := range []struct {
		ports []uint16
		want  bool
	}{{[]uint16{port}, true}, {[]uint16{port + 1}, false}, {[]uint16{port, port + 1}, true}, {nil, false}} {
		got, err := r.Read(ns.FD(), tt.ports)
		if err != nil {
			t.Fatal(err)
		}
		if got.Requests != tt.want {
			t.Errorf("ports %v: requests %t, want %t", tt.ports, got.Requests, tt.want)
		}
		got.Free()
	}
}

// Listeners are found by the cookie that sock_diag shows.
func TestListenersAreThoseOfSockDiag(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{ReuseAddr: true})
	ns.Listen(t, netip.AddrPortFrom(v6lo, port), kerneltest.Options{})
	conn, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := make(map[uint64]bool) // SO_REUSEADDR by cookie
	for s, err := range conn.Dump(t.Context(), netlinkdiag.Request{States: netlinkdiag.States(sock.StateListen)}) {
		if err != nil {
			t.Fatal(err)
		}
		want[s.Cookie] = s.Family == sock.FamilyIPv4
	}
	got := on(t, r, ns, sock.StateListen)
	if len(got) != 2 || len(want) != 2 {
		t.Fatalf("%d listeners, sock_diag has %d", len(got), len(want))
	}
	for _, s := range got {
		if reuse, ok := want[s.Cookie]; !ok || reuse != s.ReuseAddr {
			t.Errorf("listener %+v, sock_diag has %v", s, want)
		}
	}
}

// The user of a socket that no process has open any more is the one that sock_diag shows: root, or
// its own.
func TestUsersAreThoseOfSockDiag(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	for _, state := range []kerneltest.State{kerneltest.StateEstablished, kerneltest.StateFinWait1, kerneltest.StateLastAck} {
		for _, p := range l.Peers(t, state, 1, v4lo) {
			if err := unix.Fchown(p.Local.FD(), 1234, 1234); err != nil {
				t.Fatal(err)
			}
			if state == kerneltest.StateEstablished {
				continue
			}
			if err := p.Local.Orphan(); err != nil {
				t.Fatal(err)
			}
		}
	}
	conn, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := make(map[sock.State]uint32)
	req := netlinkdiag.Request{Ports: netlinkdiag.PortFilter{Local: []netlinkdiag.PortRange{netlinkdiag.Port(port)}}}
	for s, err := range conn.Dump(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		want[s.State] = s.UID
	}
	got := make(map[sock.State]uint32)
	for _, s := range on(t, r, ns, sock.StateEstablished, sock.StateFinWait1, sock.StateLastAck, sock.StateListen) {
		got[s.State] = s.UID
	}
	if len(got) != 4 || got[sock.StateEstablished] != 1234 || !maps.Equal(got, want) {
		t.Errorf("users %v, sock_diag has %v", got, want)
	}
}

// The kernel chose the port where the program named none.
func TestNamedPort(t *testing.T) {
	r := newReader(t)
	opener.EachNamedPort(t, port, func(t *testing.T, ns *kerneltest.NetNS, named bool) {
		got := on(t, r, ns, sock.StateListen)
		if len(got) != 1 || got[0].NamedPort != named {
			t.Errorf("%+v, want one listener with NamedPort %t", got, named)
		}
	})
}

func TestSocketsThatAreOnlyBound(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.Bind(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{ReuseAddr: true})
	ns.Bind(t, netip.AddrPortFrom(v6any, port), kerneltest.Options{V6Only: new(true), ReusePort: true})
	got := on(t, r, ns, sock.StateClose)
	slices.SortFunc(got, func(a, b bindbucket.Socket) int { return a.Addr.Compare(b.Addr) })
	if len(got) != 2 || got[0].Addr != v4lo || !got[0].ReuseAddr || got[0].ReusePort ||
		got[1].Addr != v6any || !got[1].V6Only || !got[1].ReusePort || got[1].ReuseAddr {
		t.Errorf("got %+v", got)
	}
}

func TestOtherNamespacesAndPortsAreNotSeen(t *testing.T) {
	r := newReader(t)
	ns, other := kerneltest.New(t), kerneltest.New(t)
	other.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	ns.Listen(t, netip.AddrPortFrom(v4any, port+1), kerneltest.Options{})
	got, err := r.Read(ns.FD(), []uint16{port})
	if err != nil || len(got.Sockets)+len(got.Buckets)+len(got.Missed) > 0 {
		t.Errorf("got %+v, %v; want nothing", got, err)
	}
}

func TestManySocketsAreTooMany(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	const some = bindbucket.MaxSockets / 2
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: some})
	got, err := r.Read(ns.FD(), []uint16{port})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Sockets); n < some {
		t.Errorf("%d sockets, want %d", n, some)
	}
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port + 1}, Count: some + 1})
	if _, err := r.Read(ns.FD(), []uint16{port, port + 1}); !errors.Is(err, bindbucket.ErrTooMany) {
		t.Errorf("error %v, want %v", err, bindbucket.ErrTooMany)
	}
	if _, err := r.Read(ns.FD(), make([]uint16, bindbucket.MaxPorts+1)); !errors.Is(err, bindbucket.ErrTooMany) {
		t.Errorf("error %v, want %v", err, bindbucket.ErrTooMany)
	}
}

func TestBucketsOfManySockets(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port, port + 1}, Count: 2 * bindbucket.MaxSockets})
	got, err := r.ReadBuckets(ns.FD(), []uint16{port, port + 1, port + 2})
	// The fields of SO_REUSEPORT are what was in the kernel's memory, and not given out.
	for _, number := range []uint16{port, port + 1} {
		if b, ok := got[number]; !ok || b.FastReusePort > 0 || b.UID != 0 || b.Addr.IsValid() || b.V6Only {
			t.Errorf("port %d has %+v", number, b)
		}
	}
	if err != nil || len(got) != 2 {
		t.Errorf("got %+v, %v; want those of two ports", got, err)
	}
}

// While sockets come and go on the port, what is read is one of them, with its flags.
func TestReadDuringChurn(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v6lo, port), kerneltest.Options{ReuseAddr: true})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			var open []*kerneltest.Socket
			for i := range byte(20) {
				if s, err := ns.OpenBound(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, i}), port), kerneltest.Options{ReuseAddr: true}); err == nil {
					open = append(open, s)
				}
			}
			for _, s := range open {
				_ = s.Close()
			}
		}
	}()
	missed := 0
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		got, err := r.Read(ns.FD(), []uint16{port})
		if err != nil {
			t.Fatal(err)
		}
		missed += len(got.Missed)
		listeners := 0
		for _, s := range got.Sockets {
			if s.State == sock.StateListen {
				listeners++
			}
			if s.Port != port || !s.ReuseAddr || s.ReusePort {
				t.Fatalf("got %+v, which nobody made", s)
			}
		}
		if len(got.Missed) == 0 && listeners != 1 {
			t.Errorf("%d listeners, want 1", listeners)
		}
	}
	close(stop)
	<-done
	t.Logf("%d reads missed something", missed)
}

func BenchmarkRead(b *testing.B) {
	r := newReader(b)
	ns := kerneltest.New(b)
	var ports []uint16
	for p := range uint16(100) {
		ports = append(ports, 20000+p)
	}
	timewait.MustMake(b, ns, timewait.Options{Ports: ports, Count: 1000})
	for b.Loop() {
		if _, err := r.Read(ns.FD(), ports); err != nil {
			b.Fatal(err)
		}
	}
}

// Before Linux 6.8, the first socket on a wildcard decides what v4-mapped addresses meet.
func TestMappedMeetsAny(t *testing.T) {
	mappedAny, mapped := netip.MustParseAddr("::ffff:0.0.0.0"), netip.MustParseAddr("::ffff:127.0.0.1")
	r := newReader(t)
	for _, tt := range []struct {
		sockets []netip.Addr
		want    bool
	}{
		{[]netip.Addr{v4any}, before68(t)},
		{[]netip.Addr{mappedAny}, false},
		{[]netip.Addr{v4any, mappedAny}, before68(t)},
		{[]netip.Addr{mappedAny, v4any}, false},
		{[]netip.Addr{v4lo, v6any}, true},
	} {
		ns := kerneltest.New(t)
		for _, addr := range tt.sockets {
			ns.Bind(t, netip.AddrPortFrom(addr, port), kerneltest.Options{ReuseAddr: true})
		}
		got, err := r.Read(ns.FD(), []uint16{port})
		if err != nil {
			t.Fatal(err)
		}
		if meets := got.Buckets[port].MappedMeetsAny; meets != tt.want {
			t.Errorf("%v: %v, want %v", tt.sockets, meets, tt.want)
		}
		s, err := ns.OpenBound(netip.AddrPortFrom(mapped, port), kerneltest.Options{})
		if s != nil {
			_ = s.Close()
		}
		if tt.want && !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%v: bind %v: %v, want EADDRINUSE", tt.sockets, mapped, err)
		}
		buckets, err := r.ReadBuckets(ns.FD(), []uint16{port})
		if err != nil || buckets[port].MappedMeetsAny {
			t.Errorf("%v: buckets alone say %+v, %v", tt.sockets, buckets, err)
		}
	}
}

func before68(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major < 6 || major == 6 && minor < 8
}

// Who has the sockets: their inodes, as /proc/PID/fd has them, and their peers. Nobody has those that are
// closed, or that wait in an accept queue.
func TestHeldSocketsHaveInodesAndPeers(t *testing.T) {
	r := newReader(t)
	for _, addr := range []struct{ listen, from netip.Addr }{{v4any, v4lo}, {v6any, v6lo}, {v6any, v4lo}} {
		for _, state := range []kerneltest.State{kerneltest.StateEstablished, kerneltest.StateCloseWait, kerneltest.StateTimeWait, kerneltest.StateLastAck} {
			t.Run(fmt.Sprintf("%v from %v/%v", addr.listen, addr.from, state), func(t *testing.T) {
				ns := kerneltest.New(t)
				l := ns.Listen(t, netip.AddrPortFrom(addr.listen, port), kerneltest.Options{})
				peer := l.Peers(t, state, 1, addr.from)[0]
				inode, isOpen := uint64(0), peer.Local != nil
				if isOpen {
					inode = inodeOf(t, peer.Local.FD())
				}
				held := heldIn(t, r, ns, sock.State(state))
				if len(held) != 1 || held[0].Inode != inode || held[0].Peer.Port() != peer.Addr.Port() || held[0].Peer.Addr().Unmap() != addr.from {
					t.Fatalf("got %+v, want inode %d, peer %v", held, inode, peer.Addr)
				}
				if want := !isOpen && state != kerneltest.StateTimeWait; held[0].NoProcess != want {
					t.Errorf("no process: %t, want %t", held[0].NoProcess, want)
				}
				if !isOpen {
					return
				}
				if err := peer.Local.Orphan(); err != nil {
					t.Fatal(err)
				}
				for _, h := range heldIn(t, r, ns, sock.StateLastAck) {
					if h.Inode != 0 || !h.NoProcess {
						t.Errorf("an orphan: %+v", h)
					}
				}
			})
		}
	}
}

// A connection that was not accepted belongs to no process.
func TestConnectionsInAnAcceptQueueBelongToNoProcess(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{Backlog: 4}).Queue(t, 1, v4lo)
	held := heldIn(t, r, ns, sock.StateEstablished)
	if len(held) != 1 || !held[0].NoProcess || held[0].Inode != 0 || held[0].Peer.Addr() != v4lo {
		t.Errorf("got %+v, want one that no process has", held)
	}
}

func heldIn(t *testing.T, r *bindbucket.Reader, ns *kerneltest.NetNS, state sock.State) []bindbucket.Held {
	t.Helper()
	got, err := r.ReadHeld(ns.FD(), []uint16{port})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(got.Held, func(h bindbucket.Held) bool { return h.State != state })
}

func inodeOf(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
