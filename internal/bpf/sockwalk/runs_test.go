package sockwalk

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/linux"
)

// Nothing else runs on a CPU during a run. So a walk is many short ones.

const testPort = 4840

var local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), testPort)

// countedWalker is a Walker whose runs the kernel counts.
func countedWalker(t *testing.T, opts Options) *Walker {
	t.Helper()
	kerneltest.RequireRoot(t)
	w, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	counting, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		kerneltest.Skip(t, "the kernel does not count runs: %v", err)
	}
	t.Cleanup(func() { _ = counting.Close() })
	return w
}

// runsOf returns how many runs a walk takes.
func runsOf(t *testing.T, w *Walker, walk func()) uint64 {
	t.Helper()
	read := func() *ebpf.ProgramStats {
		stats, err := w.programs.objs.Walk.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return stats
	}
	before := read()
	walk()
	after := read()
	runs := after.RunCount - before.RunCount
	t.Logf("%d runs, %v each", runs, (after.Runtime-before.Runtime)/time.Duration(max(runs, 1)))
	return runs
}

// countRuns walks, and returns how many runs that took.
func countRuns(t *testing.T, w *Walker, req Request) (runs uint64, result *Result) {
	t.Helper()
	runs = runsOf(t, w, func() {
		var err error
		if result, err = w.Walk(t.Context(), req, func(*Group) {}); err != nil {
			t.Fatal(err)
		}
	})
	return runs, result
}

func watching(t *testing.T, ns *kerneltest.NetNS) Namespace {
	t.Helper()
	out := Namespace{Inode: uint32(ns.Inode()), Watched: []uint16{testPort}, Bound: true}
	ns.Do(t, func() {
		var err error
		if out.Cookie, err = linux.NetNSCookie(); err != nil {
			t.Error(err)
		}
	})
	return out
}

// A bucket that a run has not read to its end is left to the next one, which counts its sockets anew.
func TestRunsAreBounded(t *testing.T) {
	f := fabricate(t)
	const each = fabricatedSockets / fabricatedBuckets
	for bucket := range fabricatedBuckets {
		var sockets []int
		for i := range each {
			sockets = append(sockets, bucket*each+i)
		}
		f.chain(bucket, sockets...)
	}
	if runs := runsOf(t, f.w, func() { f.check(fabricatedBuckets * each) }); runs < 2 {
		t.Errorf("%d runs for %d sockets", runs, fabricatedBuckets*each)
	}
}

// listenBehindConnection makes a connection that has many listeners behind it in the list of the bind
// bucket, and returns once they are there.
func listenBehindConnection(t *testing.T, ns *kerneltest.NetNS, server *kerneltest.Listener, listeners int) {
	t.Helper()
	shared := kerneltest.Options{ReuseAddr: true, ReusePort: true}
	for range listeners {
		ns.Listen(t, local, shared)
	}
	s := ns.Bind(t, local, shared)
	if err := unix.Connect(s.FD(), kerneltest.Sockaddr(server.Addr())); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	if err := kerneltest.WaitFor(s.FD(), unix.POLLOUT); err != nil {
		t.Fatal(err)
	}
}

func newServer(t *testing.T, ns *kerneltest.NetNS, port uint16) *kerneltest.Listener {
	t.Helper()
	return ns.Listen(t, netip.AddrPortFrom(local.Addr(), port), kerneltest.Options{})
}

func TestRunsThatFollowListsAreBounded(t *testing.T) {
	w := countedWalker(t, Options{Steps: 1 << 20})
	var req Request
	for range 5 {
		ns := kerneltest.New(t)
		listenBehindConnection(t, ns, newServer(t, ns, testPort+1), 1000)
		req.Namespaces = append(req.Namespaces, watching(t, ns))
	}
	runs, result := countRuns(t, w, req)
	for i, all := range result.Bound {
		if !all {
			t.Errorf("namespace %d: not all were found", i)
		}
	}
	if runs < 2 {
		t.Errorf("%d runs followed 5,000 sockets", runs)
	}
}

// Any user can open listeners behind each of their connections. The walk does not follow all of them.
func TestListenersBehindConnectionsTakeRoom(t *testing.T) {
	w := countedWalker(t, Options{})
	ns, other := kerneltest.New(t), kerneltest.New(t)
	for i := range uint16(3) {
		listenBehindConnection(t, ns, newServer(t, ns, testPort+1+i), 800)
	}
	listenBehindConnection(t, other, newServer(t, other, testPort+1), 10)
	_, result := countRuns(t, w, Request{Namespaces: []Namespace{watching(t, ns), watching(t, other)}})
	if result.Bound[0] || !result.Bound[1] {
		t.Errorf("all found: %v, want only in the second", result.Bound)
	}
}

// Nor are very many listeners followed that have no connection behind them.
func TestManyListenersTakeRoom(t *testing.T) {
	w := countedWalker(t, Options{})
	ns, other := kerneltest.New(t), kerneltest.New(t)
	for range 8200 {
		ns.Listen(t, local, kerneltest.Options{ReusePort: true})
	}
	other.Listen(t, local, kerneltest.Options{ReusePort: true})
	_, result := countRuns(t, w, Request{Namespaces: []Namespace{watching(t, ns), watching(t, other)}})
	if result.Bound[0] || !result.Bound[1] {
		t.Errorf("all found: %v, want only in the second", result.Bound)
	}
}
