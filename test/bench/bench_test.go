package bench

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// busyPort has all the sockets.
const busyPort = 4840

// Where exporters count TIME_WAIT sockets.
var (
	ourCount      = [2]string{"sockstate_tcp_sockets", `state="time_wait"`}
	tcpstatCount  = [2]string{"node_tcp_connection_states", `state="time_wait"`}
	sockstatCount = [2]string{"node_sockstat_TCP_tw", ""}
)

// readers are all who read the sockets of one port.
func readers(t testing.TB, ns *kerneltest.NetNS, n int) []contender {
	t.Helper()
	const v4, v6 = netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6
	const theirs, all = withoutBoundInactive, netlinkdiag.AllStates
	watched := watchPorts([]uint16{busyPort})
	out := []contender{
		bare(t, ns, "floor", n, perFamily(v4, theirs), perFamily(v6, theirs)),
		bare(t, ns, "floor-with-bound-inactive", n, perFamily(v4, all), perFamily(v6, all)),
		bare(t, ns, "floor-in-one-walk", n, bothFamilies(all)),
		dumpPorts(t, ns, "netlinkdiag", watchSet(t, []uint16{busyPort}), false, n),
		ours(t, ns, append(onlyTCP(), watched...)...).contender("tcp", ourCount, n, 0),
		ours(t, ns, append(onlyTCP("reuse"), watched...)...).contender("tcp-and-reuse", ourCount, n, 0),
		ours(t, ns, watched...).contender("everything", ourCount, n, 0),
		mdlayher(t, ns, n),
		socketDiagTCP(t, ns, n),
	}
	return append(out, others(t, ns, n)...)
}

// others are programs that may be installed.
func others(t testing.TB, ns *kerneltest.NetNS, n int) []contender {
	t.Helper()
	out := ss(t, ns)
	if e := nodeExporter(t, ns, "--collector.disable-defaults", "--collector.tcpstat"); e != nil {
		out = append(out, e.contender("node_exporter-tcpstat", tcpstatCount, n, 0))
	}
	return out
}

// BenchmarkSockets is about the number of sockets, all of one port.
func BenchmarkSockets(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			ns := newNetNS(b, n)
			w := &timeWaits{ns: ns, opts: timewait.Options{Ports: []uint16{busyPort}, Count: n}}
			w.bench(b, readers(b, ns, n))
		})
	}
}

// BenchmarkPorts is about the number of watched ports, and whether the kernel filters.
// 4,600 ports are close to what it takes as a filter (netlinkdiag.ErrFilterTooLarge).
func BenchmarkPorts(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		for _, over := range []struct {
			made    int
			watched []int
		}{
			{512, []int{1, 16, 128, 512, 4600}},
			{16, []int{4, 16}},
		} {
			b.Run(fmt.Sprintf("n=%d/ports=%d", n, over.made), func(b *testing.B) {
				ns := newNetNS(b, n)
				w := &timeWaits{ns: ns, opts: timewait.Options{Ports: everyOther(over.made), Count: n}}
				for _, watched := range over.watched {
					b.Run(fmt.Sprintf("watched=%d", watched), func(b *testing.B) {
						w.bench(b, portReaders(b, ns, watched, n*min(watched, over.made)/over.made))
					})
				}
			})
		}
	}
}

// portReaders ask for the sockets of some ports.
func portReaders(t testing.TB, ns *kerneltest.NetNS, watched, want int) []contender {
	t.Helper()
	ports := everyOther(watched)
	args := append(onlyTCP(), "--no-watch.listeners", fmt.Sprintf("--watch.max-ports=%d", watched))
	return []contender{
		dumpPorts(t, ns, "kernel-filter", watchSet(t, ports), true, want),
		dumpPorts(t, ns, "own-filter", watchSet(t, ports), false, want),
		ours(t, ns, append(args, watchPorts(ports)...)...).contender("tcp", ourCount, want, watched),
	}
}

func watchSet(t testing.TB, numbers []uint16) watch.Set {
	t.Helper()
	cfg := watch.Config{MaxPorts: len(numbers)}
	for _, p := range numbers {
		cfg.Ports = append(cfg.Ports, watch.Spec{PortRange: sock.PortRange{First: p, Last: p}})
	}
	w, err := watch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w.Update(time.Now(), nil)
}

// BenchmarkHost is a usual host: 100 listeners, 1,000 sockets.
func BenchmarkHost(b *testing.B) {
	w := usualHost(b)
	w.bench(b, append([]contender{
		ours(b, w.ns).contender("everything", ourCount, hostTimeWait, 0),
		ours(b, w.ns, onlyTCP()...).contender("tcp", ourCount, hostTimeWait, 0),
	}, others(b, w.ns, hostTimeWait)...))
}

// BenchmarkBeside compares the exporter with node_exporter, both with their defaults, on a usual
// host.
func BenchmarkBeside(b *testing.B) {
	w := usualHost(b)
	theirs := nodeExporter(b, w.ns)
	if theirs == nil {
		kerneltest.Skip(b, "needs node_exporter")
	}
	us := ours(b, w.ns)
	w.compare(b, us, us.contender("ours", ourCount, hostTimeWait, 0), theirs, theirs.contender("theirs", sockstatCount, hostTimeWait, 0))
}

// BenchmarkAgainst compares the exporter with another build of it, which SOCKSTATE_BENCH_AGAINST
// names: an older release, or the commit before. It does so on a usual host, and on one port with many
// sockets.
func BenchmarkAgainst(b *testing.B) {
	other := os.Getenv("SOCKSTATE_BENCH_AGAINST")
	if other == "" {
		kerneltest.Skip(b, "SOCKSTATE_BENCH_AGAINST names no other exporter")
	}
	b.Run("host", func(b *testing.B) {
		w := usualHost(b)
		us, theirs := ours(b, w.ns), start(b, w.ns, other, "/-/ready")
		w.compare(b, us, us.contender("ours", ourCount, hostTimeWait, 0), theirs, theirs.contender("theirs", ourCount, hostTimeWait, 0))
	})
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			ns := newNetNS(b, n)
			w := &timeWaits{ns: ns, opts: timewait.Options{Ports: []uint16{busyPort}, Count: n}}
			us := ours(b, ns, watchPorts([]uint16{busyPort})...)
			theirs := start(b, ns, other, "/-/ready", watchPorts([]uint16{busyPort})...)
			w.compare(b, us, us.contender("ours", ourCount, n, 0), theirs, theirs.contender("theirs", ourCount, n, 0))
		})
	}
}

// BenchmarkGoals prints the ratios of docs/performance.md for very many sockets. The contenders take turns, so
// that what else the machine does hits all. SOCKSTATE_BENCH_SOCKETS changes the number of sockets.
func BenchmarkGoals(b *testing.B) {
	n := 1_000_000
	if text := os.Getenv("SOCKSTATE_BENCH_SOCKETS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	ns := newNetNS(b, n)
	w := &timeWaits{ns: ns, opts: timewait.Options{Ports: []uint16{busyPort}, Count: n}}
	v4, v6 := perFamily(netlinkdiag.FamilyIPv4, withoutBoundInactive), perFamily(netlinkdiag.FamilyIPv6, withoutBoundInactive)
	us := ours(b, ns, watchPorts([]uint16{busyPort})...)
	contenders := []contender{us.contender("ours", ourCount, n, 0), bare(b, ns, "floor", n, v4, v6)}
	if theirs := nodeExporter(b, ns, "--collector.disable-defaults", "--collector.tcpstat"); theirs != nil {
		contenders = append(contenders, theirs.contender("node_exporter", tcpstatCount, n, 0))
	}
	b.StopTimer()
	sums := w.inTurn(b, contenders)
	for i, c := range contenders[1:] {
		b.ReportMetric(float64(sums[0].wall)/float64(sums[i+1].wall), "time/"+c.name)
		b.ReportMetric(float64(sums[0].cpu)/float64(sums[i+1].cpu), "cpu/"+c.name)
	}
	b.ReportMetric(float64(us.ProcStatus(b, "VmHWM"))/1024, "peak-RSS-MiB")
	b.ReportMetric(float64(sums[0].wall)/float64(b.N), "ns/op")
}

// inTurn adds up the rounds of each contender, without a first one that warms up.
func (w *timeWaits) inTurn(b *testing.B, contenders []contender) []sample {
	b.Helper()
	sums, before := make([]sample, len(contenders)), make([]time.Duration, len(contenders))
	for i, c := range contenders {
		w.measure(b, c)
		before[i] = c.totalCPU(b)
	}
	for range b.N {
		for i, c := range contenders {
			s := w.measure(b, c)
			sums[i].wall, sums[i].cpu = sums[i].wall+s.wall, sums[i].cpu+s.cpu
		}
	}
	for i, c := range contenders {
		if c.alone {
			sums[i].cpu = c.totalCPU(b) - before[i]
		}
	}
	return sums
}

// totalCPU is what the contender has used so far, with what the latest run has left to do.
func (c contender) totalCPU(b *testing.B) time.Duration {
	b.Helper()
	time.Sleep(100 * time.Millisecond)
	total, err := c.cpu()
	if err != nil {
		b.Fatal(err)
	}
	return total
}

// compare scrapes two exporters in turn, and reports the ratios of ours to theirs.
func (w *timeWaits) compare(b *testing.B, us *scraped, ours contender, them *scraped, theirs contender) {
	b.Helper()
	b.StopTimer()
	sum := w.inTurn(b, []contender{ours, theirs})
	for unit, ratio := range map[string]float64{
		"time-ratio":     float64(sum[0].wall) / float64(sum[1].wall),
		"cpu-ratio":      float64(sum[0].cpu) / float64(sum[1].cpu),
		"peak-RSS-ratio": float64(us.ProcStatus(b, "VmHWM")) / float64(them.ProcStatus(b, "VmHWM")),
		"series-ratio":   float64(us.body.Series("")) / float64(them.body.Series("")),
		"body-ratio":     float64(len(us.body)) / float64(len(them.body)),
	} {
		b.ReportMetric(ratio, unit)
	}
	b.ReportMetric(float64(sum[0].wall)/float64(b.N), "ns/op")
}

// Every contender checks that it saw all the sockets.
func TestContendersSeeAllSockets(t *testing.T) {
	const n = 600
	ns := newNetNS(t, n)
	one := &timeWaits{ns: ns, opts: timewait.Options{Ports: []uint16{busyPort}, Count: n}}
	for _, c := range readers(t, ns, n) {
		if s := one.measure(t, c); s.wall <= 0 {
			t.Errorf("%s took %v", c.name, s.wall)
		}
	}
	ns = newNetNS(t, n)
	spread := &timeWaits{ns: ns, opts: timewait.Options{Ports: everyOther(20), Count: n}}
	for _, c := range portReaders(t, ns, 5, n/4) {
		spread.measure(t, c)
	}
	host := usualHost(t)
	host.measure(t, ours(t, host.ns).contender("everything", ourCount, hostTimeWait, 0))
}
