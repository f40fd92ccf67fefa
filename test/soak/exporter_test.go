package soak

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// patience is how long a condition may take to come true on a machine that has much else to do.
const patience = launch.Patience

// An exporter is a running process in a namespace.
type exporter struct {
	*launch.Exporter
	ns *kerneltest.NetNS
}

// prepare prepares an exporter whose output is shown when the test fails.
func prepare(t *testing.T, ns *kerneltest.NetNS, port int, args ...string) *exporter {
	t.Helper()
	kerneltest.RequireRoot(t)
	e := &exporter{launch.At(t, ns, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), args...), ns}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the exporter on %s wrote:\n%s", e.Address, tail(e.Log.String(), 4000))
		}
	})
	return e
}

// start starts the exporter and waits until it is ready.
func start(t *testing.T, ns *kerneltest.NetNS, port int, args ...string) *exporter {
	t.Helper()
	e := prepare(t, ns, port, args...)
	e.Run(t)
	return e
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// eventually waits until a condition holds, and fails the test with what is missing.
func eventually(t *testing.T, what string, holds func() (missing string)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		missing := holds()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, patience, missing)
		}
	}
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// A scrape is what /metrics said.
type scrape string

// scrape is one that must succeed, in all its parts.
func (e *exporter) scrape(t *testing.T) scrape {
	t.Helper()
	s := scrape(e.Get(t, "/metrics"))
	collectors := 0
	for line := range launch.Metrics(s).Samples("sockstate_scrape_collector_success") {
		if collectors++; !strings.HasSuffix(line, " 1") {
			t.Fatalf("scrape: %s", line)
		}
	}
	if collectors < 5 {
		t.Fatalf("scrape: %d collectors succeeded:\n%.2000s", collectors, s)
	}
	return s
}

// sum adds up the samples of a metric that have all the labels; there must be one.
func (s scrape) sum(t *testing.T, metric string, labels ...string) float64 {
	t.Helper()
	sum, err := launch.Metrics(s).Sum(metric, labels...)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// series are how many samples of this exporter's own there are.
func (s scrape) series() int { return launch.Metrics(s).Series("sockstate_") }

// valid has promtool look at it.
func (s scrape) valid(t *testing.T) {
	t.Helper()
	promtool := kerneltest.RequireCommand(t, "promtool")
	ns := kerneltest.New(t)
	cmd := ns.Command(t, promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(string(s))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%.4000s", err, out)
	}
}

// A usage is what the exporter's process holds at a moment.
type usage struct {
	rss         int // bytes
	descriptors int
	threads     int
	goroutines  int
	cpu         time.Duration
}

// usage looks at the process, with what it said of itself.
func (e *exporter) usage(t *testing.T, said scrape) usage {
	t.Helper()
	u := usage{
		goroutines:  int(said.sum(t, "go_goroutines")),
		rss:         e.ProcStatus(t, "VmRSS") << 10,
		descriptors: e.Descriptors(t),
		threads:     e.ProcStatus(t, "Threads"),
	}
	u.cpu = time.Duration(said.sum(t, "process_cpu_seconds_total") * float64(time.Second))
	return u
}

func (u usage) String() string {
	return fmt.Sprintf("RSS %.1f MiB, %d descriptors, %d threads, %d goroutines",
		float64(u.rss)/(1<<20), u.descriptors, u.threads, u.goroutines)
}

// most is the most of each.
func most(usages []usage) usage {
	var m usage
	for _, u := range usages {
		m.rss, m.descriptors = max(m.rss, u.rss), max(m.descriptors, u.descriptors)
		m.threads, m.goroutines = max(m.threads, u.threads), max(m.goroutines, u.goroutines)
	}
	return m
}

// checkFlat compares the last third of a load with its first.
func checkFlat(t *testing.T, usages []usage) {
	t.Helper()
	n := len(usages) / 3
	if n == 0 {
		t.Fatalf("%d scrapes, too few to compare", len(usages))
	}
	first, last := most(usages[:n]), most(usages[len(usages)-n:])
	t.Logf("first third: %v; last: %v", first, last)
	if last.rss > first.rss*5/4+16*mib || last.descriptors > first.descriptors+8 ||
		last.threads > first.threads+16 || last.goroutines > first.goroutines+16 {
		t.Errorf("in the first third of the load %v, in the last %v", first, last)
	}
}

// logCPU reports what the load cost, and holds it to a ratio where it lasts long enough for one.
func logCPU(t *testing.T, took time.Duration, usages []usage, limit float64) {
	t.Helper()
	cpu := (usages[len(usages)-1].cpu - usages[0].cpu).Seconds() / took.Seconds()
	t.Logf("%d scrapes in %.0f s, %.3f CPU seconds a second", len(usages), took.Seconds(), cpu)
	if soaking() && cpu > limit {
		t.Errorf("takes %.3f CPU seconds a second, want %.2f at most", cpu, limit)
	}
}
