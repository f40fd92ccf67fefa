package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bpftest"
	"sockstate_exporter/internal/kerneltest"
)

func TestKilledAtAnyMomentLeavesNothing(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	all := make(bpftest.Loaded)
	kills, began := 0, time.Now()
	for ; kills < 10 || soaking() && time.Since(began) < loadTime(t); kills++ {
		e := prepare(t, ns, 10048)
		e.Start(t)
		time.Sleep(time.Duration(rand.Int64N(int64(400 * time.Millisecond))))
		pid := e.Cmd.Process.Pid
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the exporter stands still", func() string {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if _, after, _ := strings.Cut(string(stat), ") "); err != nil || !strings.HasPrefix(after, "T") {
				return fmt.Sprintf("%s, %v", stat, err)
			}
			return ""
		})
		all.Add(t, pid)
		e.Stop()
		e.Client.CloseIdleConnections()
	}
	if len(all) == 0 {
		t.Fatal("the exporter never had loaded anything")
	}
	eventually(t, "all is gone", func() string { return strings.Join(all.Left(t), ", ") })
	t.Logf("killed %d times, with %d programs, maps and links", kills, len(all))

	e := start(t, ns, 10048, fmt.Sprintf("--watch.port=%d", takenPort))
	s := e.scrape(t)
	checkCounts(t, ns, []*exporter{e}, 1)
	for _, feature := range []string{"bind_tracing", "reuse_flags"} {
		if n := s.sum(t, "sockstate_feature_available", `feature="`+feature+`"`); n != 1 {
			t.Errorf("the next one has %s %v, want 1\n%s", feature, n, e.Log)
		}
	}
}

// takenPort is one that every bind of checkCounts fails at.
const takenPort = 4840

// checkCounts fails to bind n times more, and wants each exporter to have counted all of them.
func checkCounts(t *testing.T, ns *kerneltest.NetNS, exporters []*exporter, n int) {
	t.Helper()
	labels := []string{`netns=""`, `errno="EADDRINUSE"`, fmt.Sprintf(`port="%d"`, takenPort), `family="ipv4"`, `protocol="tcp"`}
	before := make([]float64, len(exporters))
	for i, e := range exporters {
		before[i] = e.failures(t, labels)
	}
	taken := netip.AddrPortFrom(netip.IPv4Unspecified(), takenPort)
	holder, err := ns.OpenListener(taken, kerneltest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	for range n {
		if s, err := ns.OpenBound(taken, kerneltest.Options{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind: %v, %v, want %v", s, err, unix.EADDRINUSE)
		}
	}
	for i, e := range exporters {
		eventually(t, "failed binds are counted", func() string {
			if got := e.failures(t, labels) - before[i]; got != float64(n) {
				return fmt.Sprintf("%v by the exporter on %s, want %d", got, e.Address, n)
			}
			return ""
		})
	}
}

func (e *exporter) failures(t *testing.T, labels []string) float64 {
	t.Helper()
	return e.scrape(t).sum(t, "sockstate_bind_failures_total", labels...)
}

func TestTwoExportersDoNotDisturbEachOther(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	watch := fmt.Sprintf("--watch.port=%d", takenPort)
	both := []*exporter{start(t, ns, 10048, watch), start(t, ns, 10049, watch)}
	checkCounts(t, ns, both, 500)
	for _, e := range both {
		s := e.scrape(t)
		for _, port := range []string{`port="10048"`, `port="10049"`} {
			if n := s.sum(t, "sockstate_tcp_listener_reuseaddr", port); n != 1 {
				t.Errorf("the exporter on %s sees SO_REUSEADDR of %s as %v, want 1", e.Address, port, n)
			}
		}
	}
	both[0].Stop()
	checkCounts(t, ns, both[1:], 500)
	both[0] = start(t, ns, 10048, watch)
	checkCounts(t, ns, both, 500)
}
