package collector

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// serve serves the metrics of a namespace over HTTP.
func serve(t *testing.T, ns *kerneltest.NetNS) *http.Client {
	t.Helper()
	taker := takerOf(t, ns, watch.Config{
		Ports:     []watch.Spec{{PortRange: sock.PortRange{First: 7, Last: 7}}},
		Listeners: true,
		MaxPorts:  512,
	})
	logger := slog.New(slog.DiscardHandler)
	return start(t, New(taker.Take, nil, logger).Handler(prometheus.NewRegistry(), logger))
}

// takerOf takes snapshots of a namespace.
func takerOf(t *testing.T, ns *kerneltest.NetNS, watched watch.Config) *snapshot.Taker {
	t.Helper()
	plan, err := watch.NewPlan(watched)
	if err != nil {
		t.Fatal(err)
	}
	taker := snapshot.New(snapshot.Config{
		Host:  &probe.Host{Config: probe.Config{NetNS: ns.FD()}},
		Watch: plan,
		Parts: snapshot.Parts{TCP: true, Listeners: true},
	})
	t.Cleanup(func() {
		if err := taker.Close(); err != nil {
			t.Error(err)
		}
	})
	return taker
}

// mix makes sockets of both families in every state that ss shows, on three ports.
func mix(t *testing.T, ns *kerneltest.NetNS) {
	t.Helper()
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	only := true
	dual := ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 8080), kerneltest.Options{})
	separate4 := ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 4840), kerneltest.Options{})
	separate6 := ns.Listen(t, netip.AddrPortFrom(netip.IPv6Unspecified(), 4840), kerneltest.Options{V6Only: &only})
	for range 3 {
		ns.Listen(t, netip.AddrPortFrom(v4, 9000), kerneltest.Options{ReusePort: true})
	}
	n := 0
	for _, state := range kerneltest.States() {
		// ss of iproute2 before 6.8 does not ask for bound-inactive ones.
		if state == kerneltest.StateListen || state == kerneltest.StateClose {
			continue
		}
		for _, p := range []struct {
			l    *kerneltest.Listener
			from netip.Addr
		}{{dual, v4}, {dual, v6}, {separate4, v4}, {separate6, v6}} {
			n++
			p.l.Peers(t, state, 1+n%5, p.from)
		}
	}
	timewait.MustMake(t, ns, timewait.Options{Count: 300, Listeners: []*kerneltest.Listener{separate4}})
}

// ssStates are the names of ss for the names of the metrics.
var ssStates = map[string]string{
	"ESTAB": "established", "SYN-SENT": "syn_sent", "SYN-RECV": "syn_recv", "FIN-WAIT-1": "fin_wait1",
	"FIN-WAIT-2": "fin_wait2", "TIME-WAIT": "time_wait", "UNCONN": "close", "CLOSE-WAIT": "close_wait",
	"LAST-ACK": "last_ack", "LISTEN": "listen", "CLOSING": "closing",
}

// countBySS makes the samples of sockstate_tcp_sockets, but those that are 0, from ss -tan.
func countBySS(t *testing.T, ns *kerneltest.NetNS, watched []string) map[string]float64 {
	t.Helper()
	ss := kerneltest.RequireCommand(t, "ss")
	counts := make(map[string]float64)
	for family, flag := range map[string]string{"ipv4": "-4", "ipv6": "-6"} {
		for line := range strings.Lines(ns.Output(t, ss, "-H", flag, "-tan")) {
			fields := strings.Fields(line) // state, two queues, local, remote
			if len(fields) < 5 || ssStates[fields[0]] == "" {
				t.Fatalf("ss says %q", line)
			}
			port := fields[3][strings.LastIndex(fields[3], ":")+1:]
			if slices.Contains(watched, port) {
				counts[fmt.Sprintf(`sockstate_tcp_sockets{family="%s", port="%s", state="%s"}`, family, port, ssStates[fields[0]])]++
			}
		}
	}
	return counts
}

func scrapeOf(t *testing.T, client *http.Client) map[string]float64 {
	t.Helper()
	res, err := client.Do(request(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return samples(t, res)
}

func TestKernelSocketsAreAsSSCountsThem(t *testing.T) {
	ns := kerneltest.New(t)
	mix(t, ns)
	all := scrapeOf(t, serve(t, ns))

	got := make(map[string]float64)
	for name, v := range all {
		if strings.HasPrefix(name, "sockstate_tcp_sockets{") {
			got[name] = v
		}
	}
	watched := []string{"7", "4840", "8080", "9000"}
	zeros := 0
	maps.DeleteFunc(got, func(_ string, v float64) bool {
		if v == 0 {
			zeros++
		}
		return v == 0
	})
	if want := 2*3 + 3; zeros != want {
		t.Errorf("%d samples are 0, want %d: three states of port 7, which has no socket, in both families, and of port 9000, which only listens", zeros, want)
	}
	want := countBySS(t, ns, watched)
	if kinds := 3*10 + 1; len(want) != kinds { // all states three times, and the listeners of 9000
		t.Fatalf("ss counts sockets of %d kinds, want %d: %v", len(want), kinds, want)
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s is %v, ss counts %v", name, got[name], want[name])
		}
		delete(got, name)
	}
	for name, v := range got {
		t.Errorf("%s is %v, ss counts none", name, v)
	}
	for _, name := range []string{"tcp", "listener", "watch"} {
		if all[`sockstate_scrape_collector_success{collector="`+name+`"}`] != 1 {
			t.Errorf("collector %s failed", name)
		}
	}
}

func TestKernelConcurrentScrapes(t *testing.T) {
	ns := kerneltest.New(t)
	mix(t, ns)
	client := serve(t, ns)
	const sample = `sockstate_tcp_sockets{family="ipv4",port="4840",state="listen"} 1`
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for n := range 10 {
				r := request(t.Context(), t)
				hurried := (i+n)%3 == 0
				if hurried {
					r.Header.Set(timeoutHeader, "0.001")
				}
				body, err := body(client.Do(r))
				if err != nil {
					t.Error(err)
					return
				}
				if !hurried && !strings.Contains(body, sample) {
					t.Errorf("no %s in an answer of %d bytes", sample, len(body))
				}
			}
		})
	}
	wg.Wait()
}

// body is that of an answer with status 200.
func body(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", res.Status)
	}
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func TestKernelHostileDevice(t *testing.T) {
	ns := kerneltest.New(t)
	for i, name := range []string{"\xff\xfe", "\xfe\xff"} {
		ns.AddDummy(t, name, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 32))
		ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 4840), kerneltest.Options{Device: name})
	}
	devices := make(map[string]bool)
	for name := range scrapeOf(t, serve(t, ns)) {
		if _, rest, ok := strings.Cut(name, `sockstate_tcp_listener_info{address="0.0.0.0", family="ipv4", interface="`); ok {
			device, _, _ := strings.Cut(rest, `"`)
			devices[device] = true
		}
	}
	if len(devices) != 2 {
		t.Errorf("devices %v, want two", devices)
	}
	for device := range devices {
		if !strings.HasPrefix(device, "\uFFFD\uFFFD#") {
			t.Errorf("device %q, want two replacement characters and the index", device)
		}
	}
}

// A socket stays bound to the index of a device that is gone. Another device may be called what the
// index is shown as.
func TestKernelDeviceThatIsGone(t *testing.T) {
	ns := kerneltest.New(t)
	port := netip.AddrPortFrom(netip.IPv4Unspecified(), 4840)
	ns.AddDummy(t, "gone")
	ns.Listen(t, port, kerneltest.Options{Device: "gone", Backlog: 16})
	like := fmt.Sprintf("if%d", ns.DeleteLink(t, "gone"))
	ns.AddDummy(t, like)
	ns.Listen(t, port, kerneltest.Options{Device: like, Backlog: 99})

	limits := make(map[string]float64)
	for name, limit := range scrapeOf(t, serve(t, ns)) {
		if _, rest, ok := strings.Cut(name, `sockstate_tcp_listener_accept_queue_limit{address="0.0.0.0", family="ipv4", interface="`); ok {
			device, _, _ := strings.Cut(rest, `"`)
			limits[device] = limit
		}
	}
	if len(limits) != 2 || limits[like] != 16 {
		t.Errorf("limits %v, want 16 for %s and another one", limits, like)
	}
	for device, limit := range limits {
		if device != like && (limit != 99 || !strings.HasPrefix(device, like+"#")) {
			t.Errorf("device %s has limit %v, want 99 for %s# and its index", device, limit, like)
		}
	}
}

// The snapshots decide which series there are: a scraper that came later has the same.
func TestKernelSeriesOfAPortThroughItsLife(t *testing.T) {
	ns := kerneltest.New(t)
	taker := takerOf(t, ns, watch.Config{Listeners: true, MaxPorts: 512}) // no retention
	first := New(taker.Take, nil, slog.New(slog.DiscardHandler))
	scrape := func(when string, want ...string) {
		t.Helper()
		// As after a restart of the scraper.
		second := New(taker.Take, nil, slog.New(slog.DiscardHandler))
		for name, c := range map[string]*Collector{"first": first, "second": second} {
			text := exposition(t, c)
			got := slices.Concat(
				slices.Collect(maps.Keys(values(text, "sockstate_tcp_sockets"))),
				slices.Collect(maps.Keys(values(text, "sockstate_tcp_listener_sockets"))),
			)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s scraper:\ngot  %q\nwant %q", when, name, got, want)
			}
		}
	}
	states := func(family string, states ...string) (rows []string) {
		for _, state := range append(states, "close_wait", "established", "listen", "time_wait") {
			rows = append(rows, `family="`+family+`",port="4840",state="`+state+`"`)
		}
		return rows
	}
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:4840"), netip.MustParseAddrPort("[::1]:4840")
	shared := []string{`address="127.0.0.1",family="ipv4",port="4840"`}

	l := ns.Listen(t, v4, kerneltest.Options{ReusePort: true})
	scrape("with a listener", states("ipv4")...)
	peer := l.Peers(t, kerneltest.StateLastAck, 1, v4.Addr())[0]
	scrape("with a socket in LAST_ACK", states("ipv4", "last_ack")...)
	_ = peer.Close()
	scrape("when it is gone", states("ipv4", "last_ack")...)
	worker := ns.Listen(t, v4, kerneltest.Options{ReusePort: true})
	scrape("with a second listener", slices.Concat(states("ipv4", "last_ack"), shared)...)
	_ = worker.Close()
	scrape("when it is gone", slices.Concat(states("ipv4", "last_ack"), shared)...)
	l6 := ns.Listen(t, v6, kerneltest.Options{})
	both := slices.Concat(states("ipv4", "last_ack"), states("ipv6"))
	scrape("with a listener of the other family", slices.Concat(both, shared)...)
	_ = l6.Close()
	scrape("when that is gone", slices.Concat(both, shared)...)
	_ = l.Close()
	scrape("when the port is not watched any more")
	ns.Listen(t, v4, kerneltest.Options{ReusePort: true})
	scrape("when it is watched again", states("ipv4")...)
}

// An exporter starts before, or without, what it watches.
func TestKernelEmptyNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	got := scrapeOf(t, serve(t, ns))
	n := 0
	for name, v := range got {
		if strings.HasPrefix(name, "sockstate_tcp_sockets{") || strings.HasPrefix(name, "sockstate_tcp_time_wait_remaining_seconds{") {
			n++
			if v != 0 {
				t.Errorf("%s is %v, want 0", name, v)
			}
		}
	}
	if want := 2 * 3; n != want {
		t.Errorf("%d samples of port 7, want %d", n, want)
	}
	if took := got[`sockstate_scrape_collector_duration_seconds{collector="tcp"}`]; took <= 0 {
		t.Errorf("duration of tcp is %v s", took)
	}
}
