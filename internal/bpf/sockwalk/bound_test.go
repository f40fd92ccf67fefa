package sockwalk_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
)

// shared lets any number of sockets have the same port.
var shared = kerneltest.Options{ReuseAddr: true, ReusePort: true}

// boundSockets walks, and returns the sockets that are only bound, and whether those are all.
func boundSockets(t *testing.T, w *sockwalk.Walker, id sockwalk.Namespace) (found map[netip.AddrPort]uint64, all bool) {
	t.Helper()
	id.Bound = true
	found = make(map[netip.AddrPort]uint64)
	result, err := w.Walk(t.Context(), sockwalk.Request{Namespaces: []sockwalk.Namespace{id}}, func(g *sockwalk.Group) {
		if g.State != sock.StateClose {
			return
		}
		found[g.Local] += g.Count
		if g.Kind != sock.KindFull || !g.FlagsKnown || !g.Flags.ReuseAddr || !g.Flags.ReusePort || g.UID != 0 || g.Remote.Port() != 0 {
			t.Errorf("group %+v", *g)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, result.Bound[0]
}

// A bench has sockets of a port, and opens and closes some at random. So the sockets that are only bound
// are anywhere in the lists of the bind buckets.
type bench struct {
	t         *testing.T
	ns        *kerneltest.NetNS
	random    *rand.Rand
	addrs     []netip.Addr
	bound     []*kerneltest.Socket
	listeners []*kerneltest.Listener
	peers     []*kerneltest.Peer
	clients   int
}

func (b *bench) addr() netip.AddrPort {
	return netip.AddrPortFrom(b.addrs[b.random.IntN(len(b.addrs))], port)
}

// from is an address that no connection has come from.
func (b *bench) from() netip.Addr {
	b.clients++
	return netip.AddrFrom4([4]byte{127, 2, byte(b.clients >> 8), byte(b.clients)})
}

func (b *bench) step() {
	b.t.Helper()
	switch k := b.random.IntN(10); {
	case k < 3:
		b.bound = append(b.bound, b.ns.Bind(b.t, b.addr(), shared))
	case k == 3 && len(b.bound) > 0:
		i := b.random.IntN(len(b.bound))
		_ = b.bound[i].Close()
		b.bound = append(b.bound[:i], b.bound[i+1:]...)
	case k == 4:
		b.listeners = append(b.listeners, b.ns.Listen(b.t, b.addr(), shared))
	case k == 5 && len(b.listeners) > 0:
		i := b.random.IntN(len(b.listeners))
		_ = b.listeners[i].Close()
		b.listeners = append(b.listeners[:i], b.listeners[i+1:]...)
	case k == 6 && len(b.peers) > 0:
		i := b.random.IntN(len(b.peers))
		_ = b.peers[i].Local.Close()
		b.peers = append(b.peers[:i], b.peers[i+1:]...)
	case len(b.listeners) == 1: // with several, the kernel chooses one
		l := b.listeners[0]
		b.peers = append(b.peers, l.Peers(b.t, kerneltest.StateEstablished, 1+b.random.IntN(3), b.from())...)
	}
}

func (b *bench) want() map[netip.AddrPort]uint64 {
	want := make(map[netip.AddrPort]uint64)
	for _, s := range b.bound {
		want[s.Addr()]++
	}
	return want
}

func TestBoundSocketsAreFoundAnywhere(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for range 10 {
		ns := kerneltest.New(t)
		b := &bench{t: t, ns: ns, random: rand.New(rand.NewPCG(seed, 0)), addrs: []netip.Addr{v4lo, v4any, v6any}}
		seed++
		for range 20 {
			for range 5 {
				b.step()
			}
			found, all := boundSockets(t, w, of(t, ns, port))
			if want := b.want(); !all || fmt.Sprint(found) != fmt.Sprint(want) {
				t.Fatalf("found %v, all %v; want %v", found, all, want)
			}
		}
	}
}

func TestBoundSocketsBetweenThoseInTimeWait(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	for _, addr := range []netip.Addr{v4lo, v4any} {
		ns := kerneltest.New(t)
		local := netip.AddrPortFrom(addr, port)
		ns.Bind(t, local, shared)
		l := ns.Listen(t, local, shared)
		want := uint64(1)
		for i := range byte(3) {
			ns.Bind(t, local, shared)
			ns.Bind(t, local, shared)
			want += 2
			timewait.MustMake(t, ns, timewait.Options{Listeners: []*kerneltest.Listener{l}, Count: 300, Client: netip.AddrFrom4([4]byte{127, 3 + i, 0, 1})})
			if found, all := boundSockets(t, w, of(t, ns, port)); !all || found[local] != want {
				t.Errorf("%v: found %v, all %v; want %d", addr, found, all, want)
			}
		}
		_ = l.Close()
		if found, all := boundSockets(t, w, of(t, ns, port)); !all || found[local] != want {
			t.Errorf("%v, without a listener: found %v, all %v; want %d", addr, found, all, want)
		}
	}
}

// Connections come, and those in FIN_WAIT2 expire after a second. So those before and after the sockets that
// are only bound change all the time. A walk finds them, or says that it may not have.
func TestBoundSocketsUnderChurn(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_fin_timeout", "1")
	local := netip.AddrPortFrom(v4lo, port)
	ns.Bind(t, local, shared)
	l := ns.Listen(t, local, shared)
	var making sync.WaitGroup
	done := make(chan struct{})
	making.Go(func() {
		defer close(done)
		var clients []*kerneltest.Peer
		defer func() {
			for _, p := range clients {
				_ = p.Close()
			}
		}()
		deadline := time.Now().Add(5 * time.Second)
		for i := 0; i < 200 && time.Now().Before(deadline); i++ {
			peers, err := l.OpenPeers(kerneltest.StateEstablished, 10, netip.AddrFrom4([4]byte{127, 2, byte(i), 1}))
			clients = append(clients, peers...)
			if err != nil {
				t.Error(err)
				return
			}
			for _, p := range peers {
				_ = p.Local.Close()
			}
		}
	})
	all, walks := 0, 0
	for running := true; running && !t.Failed(); walks++ {
		select {
		case <-done:
			running = false
		default:
		}
		switch found, ok := boundSockets(t, w, of(t, ns, port)); {
		case !ok:
		case len(found) != 1 || found[local] != 1:
			t.Errorf("found %v", found)
		default:
			all++
		}
	}
	making.Wait()
	t.Logf("%d walks, %d found all", walks, all)
	if all == 0 && !t.Failed() {
		t.Error("no walk found all")
	}
}

func TestBoundSocketsOfOthers(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns, other := kerneltest.New(t), kerneltest.New(t)
	local := netip.AddrPortFrom(v4lo, port)
	ns.Bind(t, netip.AddrPortFrom(v4lo, port+1), shared)
	other.Bind(t, local, shared)
	if found, all := boundSockets(t, w, of(t, ns, port)); !all || len(found) != 0 {
		t.Errorf("found %v, all %v", found, all)
	}
	ns.Bind(t, local, shared)
	got, result := walk(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}})
	if len(got) != 0 || result.Bound[0] {
		t.Errorf("without asking for them: %v, %v", got, result.Bound)
	}
}

// Any user can open very many. The walk says that it has not found them all.
func TestTooManyBoundSockets(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns, other := kerneltest.New(t), kerneltest.New(t)
	local := netip.AddrPortFrom(v4lo, port)
	for range 2100 {
		ns.Bind(t, local, shared)
	}
	other.Bind(t, local, shared)
	if found, all := boundSockets(t, w, of(t, ns, port)); all || len(found) != 0 {
		t.Errorf("found %v, all %v", found, all)
	}
	if found, all := boundSockets(t, w, of(t, other, port)); !all || found[local] != 1 {
		t.Errorf("in another namespace: found %v, all %v", found, all)
	}
}
