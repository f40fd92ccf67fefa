package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// A scraped is an exporter, ours or another.
type scraped struct {
	*launch.Exporter
	body   launch.Metrics // of the latest scrape
	allocs []memStats
}

// memStats are counters of an exporter's own Go heap.
type memStats struct{ bytes, mallocs float64 }

// ours starts the exporter.
func ours(t testing.TB, ns *kerneltest.NetNS, args ...string) *scraped {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sockstate_exporter") // a file that is there: the exporter starts it again
	launch.Copy(t, path)
	return start(t, ns, path, "/-/ready", args...)
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
	return start(t, ns, path, "/", args...)
}

// start starts an exporter at a path, and waits for a page.
func start(t testing.TB, ns *kerneltest.NetNS, path, page string, args ...string) *scraped {
	t.Helper()
	address := freeAddress(t, ns)
	cmd := ns.Command(t, path, append(args, "--log.level=error", "--web.listen-address="+address)...)
	return ready(t, launch.Of(t, ns, address, cmd), page)
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
	s.body = launch.Metrics(body)
	return err
}

// contender scrapes; the samples of a metric that have a label must add up to want.
func (s *scraped) contender(name string, timeWait [2]string, want, slack int) contender {
	return contender{
		name: name,
		run:  s.scrape,
		check: func() error {
			bytes, err := s.body.Sum("go_memstats_alloc_bytes_total")
			if err != nil {
				return err
			}
			mallocs, err := s.body.Sum("go_memstats_mallocs_total")
			if err != nil {
				return err
			}
			s.allocs = append(s.allocs, memStats{bytes, mallocs})
			seen, err := s.body.Sum(timeWait[0], timeWait[1])
			if err != nil {
				return err
			}
			got := int(seen)
			return saw(&got, want, slack)()
		},
		cpu:    func() (time.Duration, error) { return processCPU(s.Cmd.Process.Pid) },
		alone:  true,
		report: s.report,
	}
}

// report adds what an exporter took besides time.
func (s *scraped) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(float64(s.ProcStatus(b, "VmHWM")<<10), "peak-RSS-B")
	b.ReportMetric(float64(s.body.Series("")), "series")
	b.ReportMetric(float64(len(s.body)), "body-B")
	// The first scrapes of a benchmark warm up.
	if n := len(s.allocs) - 1; n > 0 {
		first, last := s.allocs[0], s.allocs[n]
		b.ReportMetric((last.bytes-first.bytes)/float64(n), "heap-B/op")
		b.ReportMetric((last.mallocs-first.mallocs)/float64(n), "heap-allocs/op")
	}
	s.allocs = nil
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
