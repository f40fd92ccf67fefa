package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// A scraped is an exporter, ours or another.
type scraped struct {
	*launch.Exporter
	body   string // of the latest scrape
	allocs []memStats
}

// memStats are counters of an exporter's own Go heap.
type memStats struct{ bytes, mallocs float64 }

// ours starts the exporter.
func ours(t testing.TB, ns *kerneltest.NetNS, args ...string) *scraped {
	t.Helper()
	return ready(t, launch.At(t, ns, freeAddress(t, ns), append(args, "--log.level=error")...), "/-/ready")
}

// nodeExporter starts node_exporter, or returns nil where it is not installed.
func nodeExporter(t testing.TB, ns *kerneltest.NetNS, args ...string) *scraped {
	t.Helper()
	path, err := exec.LookPath("node_exporter")
	if err != nil {
		gopath, _ := exec.Command("go", "env", "GOPATH").Output()
		path, err = exec.LookPath(filepath.Join(strings.TrimSpace(string(gopath)), "bin", "node_exporter"))
	}
	if err != nil {
		t.Logf("without node_exporter: %v (go install github.com/prometheus/node_exporter@v1.12.1)", err)
		return nil
	}
	address := freeAddress(t, ns)
	cmd := ns.Command(t, path, append(args, "--log.level=error", "--web.listen-address="+address)...)
	return ready(t, launch.Of(t, ns, address, cmd), "/")
}

func ready(t testing.TB, e *launch.Exporter, page string) *scraped {
	t.Helper()
	e.RunUntil(t, page)
	return &scraped{Exporter: e}
}

// freeAddress is one that nothing listens on.
func freeAddress(t testing.TB, ns *kerneltest.NetNS) string {
	t.Helper()
	var address string
	ns.Do(t, func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		address = l.Addr().String()
		l.Close()
	})
	return address
}

// scrape does what Prometheus does: a connection that is kept, gzip, all of the body.
func (s *scraped) scrape(ctx context.Context) error {
	status, body, err := launch.Get(ctx, s.Client, "http://"+s.Address+"/metrics")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %.200s", status, body)
	}
	s.body = body
	return err
}

// contender scrapes; the samples must sum up to want.
func (s *scraped) contender(name string, timeWait samples, want, slack int) contender {
	return contender{
		name: name,
		run:  s.scrape,
		check: func() error {
			bytes, err := s.sum(samples{"go_memstats_alloc_bytes_total", ""})
			if err != nil {
				return err
			}
			mallocs, err := s.sum(samples{"go_memstats_mallocs_total", ""})
			if err != nil {
				return err
			}
			s.allocs = append(s.allocs, memStats{bytes, mallocs})
			seen, err := s.sum(timeWait)
			if err != nil {
				return err
			}
			got := int(seen)
			return saw(&got, want, slack)()
		},
		cpu:    func() (time.Duration, error) { return processCPU(s.Cmd.Process.Pid) },
		report: s.report,
	}
}

// report adds what an exporter took besides time.
func (s *scraped) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(float64(s.peakRSS(b)), "peak-RSS-B")
	b.ReportMetric(float64(s.series()), "series")
	b.ReportMetric(float64(len(s.body)), "body-B")
	// The first scrapes of a benchmark warm up.
	if n := len(s.allocs) - 1; n > 0 {
		first, last := s.allocs[0], s.allocs[n]
		b.ReportMetric((last.bytes-first.bytes)/float64(n), "heap-B/op")
		b.ReportMetric((last.mallocs-first.mallocs)/float64(n), "heap-allocs/op")
	}
	s.allocs = nil
}

// series are the samples of the latest scrape.
func (s *scraped) series() (n int) {
	for line := range strings.Lines(s.body) {
		if !strings.HasPrefix(line, "#") {
			n++
		}
	}
	return n
}

// samples are those of a metric whose labels contain label.
type samples struct{ metric, label string }

// sum adds them up. There must be one.
func (s *scraped) sum(of samples) (float64, error) {
	sum, found := 0.0, false
	for line := range strings.Lines(s.body) {
		rest, ok := strings.CutPrefix(line, of.metric)
		if !ok || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		space := strings.LastIndexByte(rest, ' ') // label values may hold others
		if !strings.Contains(rest[:space], of.label) {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[space:]), 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", of.metric, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("no %s with %s", of.metric, of.label)
	}
	return sum, nil
}

// peakRSS is VmHWM, in bytes.
func (s *scraped) peakRSS(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no VmHWM in\n%s", text)
	return 0
}

// onlyTCP are the flags of an exporter that collects sockets by state, and with them what
// else is asked for.
func onlyTCP(and ...string) []string {
	var args []string
	for _, c := range []string{"listener", "reuse", "restart", "bind", "connect", "udp", "remote", "ephemeral", "owner", "stack"} {
		if !slices.Contains(and, c) {
			args = append(args, "--no-collector."+c)
		}
	}
	return args
}
