package bench

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

const (
	// timeWaitLives is TCP_TIMEWAIT_LEN, less the time that the kernel's timer may be early.
	timeWaitLives = 59 * time.Second

	// attempts at making the sockets, and at a run while all of them live.
	attempts = 3

	// runTimeout bounds one run of a contender.
	runTimeout = 30 * time.Second
)

// timeWaits keeps TIME_WAIT sockets there, in a namespace that has no others.
type timeWaits struct {
	ns   *kerneltest.NetNS
	opts timewait.Options
	made time.Time // when the first of them was
}

// newNetNS is a namespace. The kernel takes the sockets of an older one away a while after it
// is gone, and until then they stand in the table that everybody walks.
func newNetNS(t testing.TB, sockets int) *kerneltest.NetNS {
	t.Helper()
	if sockets > 10_000 {
		time.Sleep(3 * time.Second)
	}
	return kerneltest.New(t)
}

func (w *timeWaits) count(t testing.TB) int {
	t.Helper()
	n, err := w.ns.TimeWaitCount()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ensure makes the sockets, unless all of them live for long enough yet.
func (w *timeWaits) ensure(t testing.TB, enough time.Duration) {
	t.Helper()
	if w.count(t) == w.opts.Count && time.Since(w.made)+enough < timeWaitLives {
		return
	}
	for attempt := 1; ; attempt++ {
		// A connection between the same addresses and ports would take over an old socket.
		for w.count(t) > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		w.made = time.Now()
		err := timewait.Make(w.ns, w.opts)
		if err == nil {
			debug.FreeOSMemory() // what making them took
			return
		}
		if attempt == attempts {
			t.Fatal(err)
		}
		t.Logf("trying again: %v", err)
	}
}

// A sample is one run of a contender.
type sample struct{ wall, cpu time.Duration }

// measure runs a contender once, while all sockets live.
func (w *timeWaits) measure(t testing.TB, c contender) sample {
	t.Helper()
	var took time.Duration
	for range attempts {
		w.ensure(t, max(2*took, time.Second))
		s, err := c.measure(t.Context())
		took = s.wall
		switch {
		case w.count(t) != w.opts.Count: // some went meanwhile
		case err != nil:
			t.Fatalf("%s: %v", c.name, err)
		default:
			return s
		}
	}
	t.Fatalf("%s: could not keep %d TIME_WAIT sockets for %v", c.name, w.opts.Count, took)
	return sample{}
}

func (c contender) measure(ctx context.Context) (s sample, err error) {
	runtime.GC() // nobody pays for the garbage of the one before
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	before, err := c.cpu()
	if err != nil {
		return s, err
	}
	start := time.Now()
	if err := c.run(ctx); err != nil {
		return s, err
	}
	s.wall = time.Since(start)
	after, err := c.cpu()
	if err != nil {
		return s, err
	}
	s.cpu = after - before
	return s, c.check()
}

// bench is a benchmark of each contender.
func (w *timeWaits) bench(b *testing.B, contenders []contender) {
	b.Helper()
	for _, c := range contenders {
		b.Run("by="+c.name, func(b *testing.B) {
			b.StopTimer()
			w.measure(b, c) // warms up
			var sum sample
			for range b.N {
				s := w.measure(b, c)
				sum.wall, sum.cpu = sum.wall+s.wall, sum.cpu+s.cpu
			}
			b.ReportMetric(float64(sum.wall)/float64(b.N), "ns/op")
			b.ReportMetric(float64(sum.cpu)/float64(b.N), "cpu-ns/op")
			if c.report != nil {
				c.report(b)
			}
		})
	}
}

// A usual host: its sockets are the listeners, both ends of the connections, and those in
// TIME_WAIT.
const (
	hostListeners   = 100
	hostConnections = 250
	hostTimeWait    = 1000 - hostListeners - 2*hostConnections
)

// usualHost opens the listeners and connections.
func usualHost(t testing.TB) *timeWaits {
	t.Helper()
	ns := newNetNS(t, 0)
	var listeners []*kerneltest.Listener
	for i, port := range everyOther(hostListeners) {
		l := ns.Listen(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), kerneltest.Options{})
		share := hostConnections*(i+1)/hostListeners - hostConnections*i/hostListeners
		l.Peers(t, kerneltest.StateEstablished, share, netip.AddrFrom4([4]byte{127, 0, 0, 2}))
		listeners = append(listeners, l)
	}
	return &timeWaits{ns: ns, opts: timewait.Options{Listeners: listeners, Count: hostTimeWait}}
}

const firstPort = 12000

// everyOther are n ports, of which no two are adjacent: those would be one range to the filter.
func everyOther(n int) []uint16 {
	ports := make([]uint16, n)
	for i := range ports {
		ports[i] = uint16(firstPort + 2*i)
	}
	return ports
}

func watchPorts(ports []uint16) []string {
	var args []string
	for _, p := range ports {
		args = append(args, fmt.Sprintf("--watch.port=%d", p))
	}
	return args
}
