package exporter

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// These tests hold the exporter to its budget of series, with every collector on.

var (
	allIPv4 = netip.IPv4Unspecified()
	allIPv6 = netip.IPv6Unspecified()
)

// reused is a listener as servers open it.
func reused() kerneltest.Options { return kerneltest.Options{ReuseAddr: true} }

func v6only() kerneltest.Options {
	only := true
	return kerneltest.Options{ReuseAddr: true, V6Only: &only}
}

// everything starts the exporter, and requires that every collector works.
func everything(t *testing.T, ns *kerneltest.NetNS, args ...string) *exporter {
	t.Helper()
	e := start(t, ns, append(args, "--watch.exclude=10048")...)
	for _, feature := range []string{"bind_tracing", "reuse_flags"} {
		if !featureOf(t, e, feature).works {
			kerneltest.Skip(t, "%s does not work here", feature)
		}
	}
	return e
}

// seriesWhere are the series of the exporter's own metrics for which keep is true.
func seriesWhere(metrics string, keep func(string) bool) []string {
	var out []string
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "sockstate_") && keep(line) {
			out = append(out, sampleValue.ReplaceAllString(strings.TrimSpace(line), ""))
		}
	}
	return out
}

// onPort are those of a port. Binds that other tests make on this host fail elsewhere.
func onPort(port uint16) func(string) bool {
	label := fmt.Sprintf(`port="%d"`, port)
	return func(line string) bool { return strings.Contains(line, label) && !elsewhere(line) }
}

func elsewhere(line string) bool { return strings.Contains(line, `netns="other"`) }

func here(line string) bool { return !elsewhere(line) }

func all(string) bool { return true }

// withinBudget checks the number of series, and logs it.
func withinBudget(t *testing.T, what string, got []string, budget int) {
	t.Helper()
	t.Logf("%s: %d series, at most %d", what, len(got), budget)
	if len(got) > budget || len(got) == 0 {
		t.Errorf("%s has %d series, want 1 to %d:\n%s", what, len(got), budget, strings.Join(got[:min(len(got), 100)], "\n"))
	}
}

func TestBudgetOfATCPPortAtRest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		budget int
		listen func(*testing.T, *kerneltest.NetNS)
	}{
		{"0.0.0.0", 20, func(t *testing.T, ns *kerneltest.NetNS) {
			ns.Listen(t, netip.AddrPortFrom(allIPv4, 4840), kerneltest.Options{})
		}},
		{"0.0.0.0 with SO_REUSEADDR", 20, func(t *testing.T, ns *kerneltest.NetNS) {
			ns.Listen(t, netip.AddrPortFrom(allIPv4, 4840), reused())
		}},
		{":: for both families", 20, func(t *testing.T, ns *kerneltest.NetNS) {
			ns.Listen(t, netip.AddrPortFrom(allIPv6, 4840), reused())
		}},
		{"0.0.0.0 and ::", 32, func(t *testing.T, ns *kerneltest.NetNS) {
			ns.Listen(t, netip.AddrPortFrom(allIPv4, 4840), reused())
			ns.Listen(t, netip.AddrPortFrom(allIPv6, 4840), v6only())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			tt.listen(t, ns)
			e := everything(t, ns)
			withinBudget(t, "a TCP port on "+tt.name, seriesWhere(e.Get(t, "/metrics"), onPort(4840)), tt.budget)
		})
	}
}

func TestBudgetOfAnIdleUDPPort(t *testing.T) {
	for _, addr := range []netip.Addr{allIPv4, allIPv6} {
		ns := kerneltest.New(t)
		ns.ListenUDP(t, netip.AddrPortFrom(addr, 514), kerneltest.Options{})
		e := everything(t, ns)
		withinBudget(t, "an idle UDP port on "+addr.String(), seriesWhere(e.Get(t, "/metrics"), onPort(514)), 6)
	}
}

// Somebody else has the port, and shares it with a third program.
func TestBudgetOfAUDPPortInTrouble(t *testing.T) {
	ns := kerneltest.New(t)
	ns.ListenUDP(t, netip.AddrPortFrom(allIPv4, 514), kerneltest.Options{ReuseAddr: true})
	e := everything(t, ns)
	e.Get(t, "/metrics")
	for range 3 {
		failUDP(t, ns, netip.AddrPortFrom(allIPv4, 514))
	}
	var got []string
	eventually(t, "the failure is explained", func() bool {
		got = seriesWhere(e.Get(t, "/metrics"), onPort(514))
		return slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "sockstate_bind_conflicts_total{") })
	})
	for _, name := range []string{"sockstate_bind_failing{", "sockstate_bind_last_failure_timestamp_seconds{", "sockstate_udp_listener_info{"} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, name) }) {
			t.Errorf("no series %s in %q", name, got)
		}
	}
	withinBudget(t, "a UDP port in trouble", got, 10)
}

// Binds count as failing until one works.
func TestUDPPortFailsUntilABindWorks(t *testing.T) {
	ns := kerneltest.New(t)
	e := everything(t, ns)
	e.Get(t, "/metrics")
	holder := ns.ListenUDP(t, netip.AddrPortFrom(allIPv4, 514), kerneltest.Options{})
	failing := func(is string) func() bool {
		return func() bool {
			return strings.Contains(e.Get(t, "/metrics"), `sockstate_bind_failing{family="ipv4",port="514",protocol="udp"} `+is+"\n")
		}
	}
	eventually(t, "binds fail", func() bool {
		failUDP(t, ns, netip.AddrPortFrom(allIPv4, 514)) // an event may be lost while other tests make calls fail in a loop
		return failing("1")()
	})
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	ns.ListenUDP(t, netip.AddrPortFrom(allIPv4, 514), kerneltest.Options{})
	eventually(t, "binds do not fail any more", failing("0"))
}

func failUDP(t *testing.T, ns *kerneltest.NetNS, addr netip.AddrPort) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(kerneltest.Family(addr.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Bind(fd, kerneltest.Sockaddr(addr)); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind: %v, want EADDRINUSE", err)
		}
	})
}

func TestBudgetOfANamespace(t *testing.T) {
	dir := pinDir(t)
	own, blue := kerneltest.New(t), kerneltest.New(t)
	pin(t, blue, dir, "blue")
	blue.Listen(t, netip.AddrPortFrom(allIPv4, 4840), reused())
	e := everything(t, own, "--netns="+dir+"/*")
	metrics := e.Get(t, "/metrics")
	ofBlue := func(ports bool) func(string) bool {
		return func(line string) bool {
			return strings.Contains(line, `netns="blue"`) && strings.Contains(line, `port="`) == ports
		}
	}
	withinBudget(t, "a watched namespace, without its ports", seriesWhere(metrics, ofBlue(false)), 6)
	withinBudget(t, "its port", seriesWhere(metrics, ofBlue(true)), 20)
}

// hostOf100 has 100 listeners that set SO_REUSEADDR, and 1,000 sockets with them: 600 connections,
// and 300 in TIME_WAIT. These have the options of earlier.
func hostOf100(t *testing.T, ns *kerneltest.NetNS, earlier kerneltest.Options) {
	t.Helper()
	var listeners []*kerneltest.Listener
	for i := range uint16(100) {
		listeners = append(listeners, ns.Listen(t, loopback(12000+2*i), earlier))
	}
	timewait.MustMake(t, ns, timewait.Options{Listeners: listeners, Count: 300})
	for _, l := range listeners {
		// Beside TIME_WAIT sockets without the flag, nobody can bind.
		if err := unix.SetsockoptInt(l.FD(), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			t.Fatal(err)
		}
		l.Peers(t, kerneltest.StateEstablished, 6, loopback(0).Addr())
	}
}

func TestBudgetOfAUsualHost(t *testing.T) {
	for _, tt := range []struct {
		name    string
		earlier kerneltest.Options
		budget  int
	}{
		{"TIME_WAIT with SO_REUSEADDR", reused(), 2000},
		{"TIME_WAIT without SO_REUSEADDR", kerneltest.Options{}, 2500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			hostOf100(t, ns, tt.earlier)
			e := everything(t, ns)
			metrics := e.Get(t, "/metrics")
			withinBudget(t, "100 listeners and 1,000 sockets, "+tt.name, seriesWhere(metrics, here), tt.budget)
			t.Logf("%d bytes", len(metrics))
			if limit := tt.budget * 100; len(metrics) > limit {
				t.Errorf("%d bytes, want at most %d", len(metrics), limit)
			}
			if n := len(seriesWhere(metrics, func(l string) bool {
				return strings.HasPrefix(l, "sockstate_tcp_time_wait_remaining_seconds{") && !strings.HasSuffix(l, " 0\n")
			})); n < 100 {
				t.Errorf("TIME_WAIT on %d ports, want 100", n)
			}
		})
	}
}

func TestBudgetOfANodeWith110Namespaces(t *testing.T) {
	const namespaces, portsEach = 110, 5
	dir := pinDir(t)
	for i := range namespaces {
		ns := kerneltest.New(t)
		pin(t, ns, dir, fmt.Sprintf("pod%d", i))
		for port := range uint16(portsEach) {
			ns.Listen(t, netip.AddrPortFrom(allIPv6, 8000+port), reused())
		}
	}
	e := everything(t, kerneltest.New(t), "--netns="+dir+"/*")
	metrics := e.Get(t, "/metrics")
	wantLines(t, metrics, fmt.Sprintf("sockstate_watched_ports %d", namespaces*portsEach), "sockstate_watched_ports_dropped 0")
	withinBudget(t, "110 namespaces with 550 ports", seriesWhere(metrics, here), 10_000)
}

// The metric is what an operator has to find out where the series come from.
func TestExpositionSeriesAddUp(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(4840), reused())
	e := everything(t, ns, "--watch.remote-port=5432")
	metrics := e.Get(t, "/metrics")
	sum := 0.0
	for _, n := range values(t, metrics, "sockstate_exposition_series") {
		sum += n
	}
	if want := len(seriesWhere(metrics, all)); int(sum) != want {
		t.Errorf("sockstate_exposition_series adds up to %v, the scrape has %d", sum, want)
	}
}

// The reference says what a port costs in each collector.
func TestReferenceSaysWhatAPortCosts(t *testing.T) {
	rows := make(map[string][]string)
	for line := range strings.Lines(string(reference(t))) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); strings.HasPrefix(line, "| `") && len(cells) == 5 {
			rows[strings.Trim(cells[0], "|` ")] = cells[1:]
		}
	}
	for column, what := range []string{"TCP port", "TCP port with traffic", "UDP port"} {
		got := addedSeries(t, func(ns *kerneltest.NetNS) {
			if what == "UDP port" {
				ns.ListenUDP(t, netip.AddrPortFrom(allIPv4, 514), kerneltest.Options{})
				return
			}
			l := ns.Listen(t, netip.AddrPortFrom(allIPv4, 4840), reused())
			if what == "TCP port with traffic" {
				connections(t, l)
			}
		})
		for collector, cells := range rows {
			if want := strings.Trim(cells[column], "| "); strconv.Itoa(got[collector]) != want {
				t.Errorf("a %s costs %d series of %s, the reference says %s", what, got[collector], collector, want)
			}
			delete(got, collector)
		}
		if len(got) > 0 {
			t.Errorf("a %s costs series that are not in the reference: %v", what, got)
		}
	}
}

func reference(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// connections brings one connection of the listener into every state that a server's have.
func connections(t *testing.T, l *kerneltest.Listener) {
	t.Helper()
	for _, state := range kerneltest.States() {
		switch state {
		case kerneltest.StateListen, kerneltest.StateClose, kerneltest.StateSynSent:
		default:
			l.Peers(t, state, 1, loopback(0).Addr())
		}
	}
}

// addedSeries is how many series each collector has more when the sockets are there. Failed binds
// elsewhere on the host, and clients of the test, are left out.
func addedSeries(t *testing.T, open func(*kerneltest.NetNS)) map[string]int {
	t.Helper()
	ns := kerneltest.New(t)
	e := everything(t, ns)
	count := func() map[string]int {
		metrics := e.Get(t, "/metrics")
		n := make(map[string]int)
		for collector, series := range values(t, metrics, "sockstate_exposition_series") {
			n[collector] = int(series)
		}
		n["bind"] -= len(seriesWhere(metrics, func(line string) bool {
			return strings.Contains(line, `netns="other"`) || strings.Contains(line, `port="other"`) || strings.Contains(line, `port="0"`)
		}))
		delete(n, "ephemeral")
		return n
	}
	before := count()
	open(ns)
	after := count()
	for collector := range after {
		after[collector] -= before[collector]
	}
	maps.DeleteFunc(after, func(_ string, n int) bool { return n == 0 })
	return after
}

// values are the samples of a metric with one label, by its value.
func values(t *testing.T, metrics, metric string) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, metric+"{")
		if !ok {
			continue
		}
		_, rest, _ = strings.Cut(rest, `"`)
		value, number, _ := strings.Cut(rest, `"} `)
		var n float64
		if _, err := fmt.Sscan(number, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out[value] = n
	}
	return out
}
