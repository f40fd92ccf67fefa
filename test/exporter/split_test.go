package exporter

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// splitPort is watched while something listens. No other test asks for it.
const splitPort = 2745

// splitSeries are those of a metric, by missing half.
func splitSeries(t *testing.T, e *exporter, metric string) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for name, v := range samples(t, e, metric) {
		missing := ""
		if _, after, ok := strings.Cut(name, `missing="`); ok {
			missing, _, _ = strings.Cut(after, `"`)
		}
		out[missing] = v
	}
	return out
}

func waitSplit(t *testing.T, e *exporter, what string, want map[string]float64, meanwhile func()) {
	t.Helper()
	waitSplitOf(t, e, "sockstate_tcp_port_split", what, want, meanwhile)
}

func waitSplitOf(t *testing.T, e *exporter, metric, what string, want map[string]float64, meanwhile func()) {
	t.Helper()
	var got map[string]float64
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		meanwhile()
		if got = splitSeries(t, e, metric); maps.Equal(got, want) {
			return
		}
	}
	t.Fatalf("%s: got %v, want %v", what, got, want)
}

// A splitRow is what /ports says of the port.
type splitRow struct {
	Problems []string
	Split    *struct{ Code, Sentence string }
	Advice   []string
}

func splitPage(t *testing.T, e *exporter) splitRow {
	t.Helper()
	var page struct{ Ports []splitRow }
	if err := json.Unmarshal([]byte(e.Get(t, "/ports?format=json&port="+strconv.Itoa(splitPort))), &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Ports) != 1 {
		t.Fatalf("%d ports, want 1", len(page.Ports))
	}
	return page.Ports[0]
}

func wantSplit(t *testing.T, e *exporter, sentences ...string) {
	t.Helper()
	row := splitPage(t, e)
	if row.Split == nil || row.Split.Code != "split_port" || !slices.Contains(row.Problems, "split") {
		t.Fatalf("/ports: split %v, problems %v", row.Split, row.Problems)
	}
	for _, s := range sentences {
		if !strings.Contains(row.Split.Sentence, s) || !slices.ContainsFunc(row.Advice, func(a string) bool { return strings.Contains(a, s) }) {
			t.Errorf("/ports: %q, advice %q; want %q in both", row.Split.Sentence, row.Advice, s)
		}
	}
}

func TestAServerWithoutItsIPv4HalfIsSplitUntilItIsHealed(t *testing.T) {
	ns := kerneltest.New(t)
	e := startTracing(t, ns)
	addr := netip.AddrPortFrom(allIPv4, splitPort)
	blocker := ns.Bind(t, addr, kerneltest.Options{})
	ns.Listen(t, netip.AddrPortFrom(allIPv6, splitPort), v6only())
	fails := func() {
		if s, err := ns.OpenBound(addr, kerneltest.Options{}); !errors.Is(err, unix.EADDRINUSE) {
			s.Close()
			t.Fatalf("bind: %v, want EADDRINUSE", err)
		}
	}
	waitSplit(t, e, "a bind for IPv4 fails", map[string]float64{"ipv4": 1}, fails)
	wantSplit(t, e, "only IPv6 is served, by ", fmt.Sprintf("(pid %d", os.Getpid()), "; a bind for IPv4 failed, and nothing listens on it")
	blocker.Close()
	waitSplit(t, e, "nobody tries any more", map[string]float64{"ipv4": 1}, func() {})
	l := ns.Listen(t, addr, reused())
	waitSplit(t, e, "the half is there", map[string]float64{"ipv4": 0}, func() {})
	if row := splitPage(t, e); row.Split != nil || slices.Contains(row.Problems, "split") {
		t.Errorf("/ports: split %v, problems %v, want none", row.Split, row.Problems)
	}
	l.Close()
	waitSplit(t, e, "the half goes by itself", map[string]float64{"ipv4": 0}, func() {})
}

func TestHalvesOfDifferentProcessesAreSplit(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	e := start(t, ns, "--no-collector.bind")
	l := ns.Listen(t, netip.AddrPortFrom(allIPv4, splitPort), reused())
	other := launch.InRole(t, ns, "listen", "::", strconv.Itoa(splitPort), "1", "0")
	opened(t, other)
	for name := range samples(t, e, "sockstate_tcp_listener_info") {
		if strings.Contains(name, `unit="`) {
			kerneltest.Skip(t, "the processes of this test are in one unit: %s", name)
		}
	}
	waitSplit(t, e, "two processes", map[string]float64{"": 1}, func() {})
	wantSplit(t, e, "IPv4 is served by ", ", and IPv6 by ", fmt.Sprintf("(pid %d", os.Getpid()), fmt.Sprintf("(pid %d", other.Process.Pid))
	l.Close()
	waitSplit(t, e, "one is gone", map[string]float64{"": 0}, func() {})
}

// A client has the port of a UDP server on IPv4, and the server goes on with IPv6.
func TestAUDPServerWithoutItsIPv4HalfIsSplit(t *testing.T) {
	ns := kerneltest.New(t)
	e := startTracing(t, ns, "--watch.port="+strconv.Itoa(splitPort)+"/udp")
	client := ns.DialUDP(t, netip.AddrPortFrom(loopback(0).Addr(), splitPort), loopback(9), kerneltest.Options{})
	ns.ListenUDP(t, netip.AddrPortFrom(allIPv6, splitPort), v6only())
	e.Get(t, "/metrics")
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: splitPort}); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind: %v, want EADDRINUSE", err)
		}
	})
	const metric = "sockstate_udp_port_split"
	waitSplitOf(t, e, metric, "a bind for IPv4 fails", map[string]float64{"ipv4": 1}, func() {})
	wantSplit(t, e, "only IPv6 is served, by ", fmt.Sprintf("(pid %d", os.Getpid()), "; a bind for IPv4 failed, and nothing listens on it")
	client.Close()
	ns.ListenUDP(t, netip.AddrPortFrom(allIPv4, splitPort), kerneltest.Options{})
	waitSplitOf(t, e, metric, "the half is there", map[string]float64{"ipv4": 0}, func() {})
}
