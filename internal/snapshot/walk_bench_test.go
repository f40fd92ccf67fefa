package snapshot

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// BenchmarkNamespaces compares snapshots of many network namespaces, with 3 listeners and 10 connections
// each, and of the same sockets in one namespace, beside 300,000 sockets in TIME_WAIT elsewhere on the
// host. Each iteration takes one of each, so that the CPU times compare. In its first one it also takes a
// snapshot by dumps only, which takes seconds.
//
// SOCKSTATE_BENCH_NAMESPACES and SOCKSTATE_BENCH_TIMEWAIT change the numbers.
func BenchmarkNamespaces(b *testing.B) {
	namespaces, elsewhere := fromEnv(b, "SOCKSTATE_BENCH_NAMESPACES", 110), fromEnv(b, "SOCKSTATE_BENCH_TIMEWAIT", 300_000)
	walker := newWalker(b)
	own, single := kerneltest.New(b), kerneltest.New(b)
	others := make([]*kerneltest.NetNS, namespaces)
	for i := range others {
		others[i] = kerneltest.New(b)
		pod(b, others[i], 0)
		pod(b, single, i)
	}
	watched := discovering()
	watched.MaxPorts = max(watched.MaxPorts, 3*namespaces)
	many := newTaker(b, walkConfig(b, walker, own, others...), watched)
	byDumps := newTaker(b, walkConfig(b, nil, own, others...), watched)
	one := newTaker(b, walkConfig(b, walker, single), watched)
	crowd := &timeWaits{ns: kerneltest.New(b), count: elsewhere}
	for range 2 { // the ports are watched then, and it is known how many sockets there are
		one.Take(b.Context())
		many.Take(b.Context())
	}

	var walk, alone, dumps cost
	for b.Loop() {
		b.StopTimer()
		crowd.ensure(b)
		if dumps.n == 0 {
			byDumps.Take(b.Context())
			dumps.of(b, byDumps)
			crowd.ensure(b)
		}
		b.StartTimer()
		alone.of(b, one)
		walk.of(b, many)
	}
	for name, c := range map[string]*cost{"walk": &walk, "one-netns": &alone, "dumps": &dumps} {
		b.ReportMetric(c.cpu.Seconds()*1e3/float64(c.n), name+"-cpu-ms")
		b.ReportMetric(c.wall.Seconds()*1e3/float64(c.n), name+"-wall-ms")
	}
	b.ReportMetric(float64(walk.cpu)/float64(alone.cpu), "walk/one-netns-cpu")
	b.ReportMetric(float64(dumps.cpu)/float64(dumps.n)/float64(alone.cpu)*float64(alone.n), "dumps/one-netns-cpu")
}

func fromEnv(b *testing.B, name string, usual int) int {
	b.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// pod makes 3 listeners and 10 connections. In one namespace, each i has ports of its own. A process of
// its own has them open, since one process cannot have those of 1,000 pods.
func pod(b *testing.B, ns *kerneltest.NetNS, i int) {
	b.Helper()
	holder := exec.Command("cat") // ends with this process, which has the other end of its input
	stdin, err := holder.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	ns.Do(b, func() {
		for p, n := range []int{4, 3, 3} {
			files, err := listenAndConnect(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1000 + 3*i + p}, n)
			holder.ExtraFiles = append(holder.ExtraFiles, files...)
			if err != nil {
				b.Error(err)
			}
		}
	})
	err = holder.Start()
	for _, f := range holder.ExtraFiles {
		_ = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stdin.Close(); _ = holder.Wait() })
}

// listenAndConnect returns the descriptors of a listener, and of both ends of n connections to it.
func listenAndConnect(address *net.TCPAddr, n int) (files []*os.File, err error) {
	keep := func(s interface {
		File() (*os.File, error)
		Close() error
	},
	) error {
		f, err := s.File()
		files = append(files, f)
		return errors.Join(err, s.Close())
	}
	l, err := net.ListenTCP("tcp4", address)
	if err != nil {
		return nil, err
	}
	for range n {
		client, err := net.DialTCP("tcp4", nil, address)
		if err != nil {
			return files, err
		}
		server, err := l.AcceptTCP()
		if err != nil {
			return files, err
		}
		if err := errors.Join(keep(client), keep(server)); err != nil {
			return files, err
		}
	}
	return files, keep(l)
}

// A cost adds up what snapshots took.
type cost struct {
	n         int
	cpu, wall time.Duration
}

func (c *cost) of(b *testing.B, taker *Taker) {
	b.Helper()
	start, cpu := time.Now(), processCPU(b)
	s := taker.Take(b.Context())
	c.n++
	c.wall += time.Since(start)
	c.cpu += processCPU(b) - cpu
	if s.TCP.Err != nil || s.Discovery.Err != nil && taker.host.cfg.Host.Others != nil {
		b.Fatal(s.TCP.Err, s.Discovery.Err)
	}
	for i := range s.Others {
		if ns := &s.Others[i]; ns.TCP.Err != nil || len(ns.TCP.Data) != 3 {
			b.Fatalf("namespace %d has %d ports, %v; want 3", i, len(ns.TCP.Data), ns.TCP.Err)
		}
	}
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// timeWaits are sockets in TIME_WAIT, which live for a minute.
type timeWaits struct {
	ns    *kerneltest.NetNS
	count int
	made  time.Time
	batch byte
}

// ensure makes them anew where they may not live for some time yet.
func (w *timeWaits) ensure(b *testing.B) {
	b.Helper()
	if w.count == 0 || time.Since(w.made) < 30*time.Second {
		return
	}
	// Those before have to be gone: there are exactly so many.
	for n := 1; n > 0; time.Sleep(100 * time.Millisecond) {
		var err error
		if n, err = w.ns.TimeWaitCount(); err != nil {
			b.Fatal(err)
		}
	}
	w.batch++
	timewait.MustMake(b, w.ns, timewait.Options{
		Ports: []uint16{4840}, Count: w.count, Client: netip.AddrFrom4([4]byte{127, w.batch, 0, 1}),
	})
	w.made = time.Now()
}
