package exporter

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/tracers"
	"sockstate_exporter/test/launch"
)

const (
	// boundPort is watched. No other test asks for it: they may run at the same time, and
	// the tracer sees the whole host.
	boundPort = 2743
	// unwatchedPort is not, and excluded: otherwise it would be watched once a bind to it has failed.
	unwatchedPort = 2744
	// lowPort is watched, and privileged.
	lowPort = 443
)

// samples are those of some metric families, by everything that stands before the value.
func samples(t *testing.T, e *exporter, families ...string) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for line := range strings.Lines(e.Get(t, "/metrics")) {
		for _, family := range families {
			if !strings.HasPrefix(line, family+"{") && !strings.HasPrefix(line, family+" ") {
				continue
			}
			at := strings.LastIndexByte(line, ' ')
			v, err := strconv.ParseFloat(strings.TrimSpace(line[at+1:]), 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			out[line[:at]] = v
		}
	}
	return out
}

// failedCalls are the counters of failed calls in the exporter's own network namespace, and of
// boundPort in others.
func failedCalls(t *testing.T, e *exporter) map[string]float64 {
	t.Helper()
	all := samples(t, e, "sockstate_bind_failures_total", "sockstate_listen_failures_total")
	maps.DeleteFunc(all, func(name string, _ float64) bool {
		return strings.Contains(name, `netns="other"`) && !strings.Contains(name, fmt.Sprintf(`port="%d"`, boundPort))
	})
	return all
}

// grown is by how much the samples rose.
func grown(before, after map[string]float64) map[string]float64 {
	diff := make(map[string]float64)
	for name, v := range after {
		if v != before[name] {
			diff[name] = v - before[name]
		}
	}
	for name, v := range before {
		if _, there := after[name]; !there && v != 0 { // the zeros of a family are there until the other one is used
			diff[name] = -v
		}
	}
	return diff
}

func checkGrown(t *testing.T, before, after, want map[string]float64) {
	t.Helper()
	if got := grown(before, after); !maps.Equal(got, want) {
		t.Errorf("rose by %v, want %v", got, want)
	}
}

// startTracing starts an exporter that watches boundPort and lowPort, and traces binds.
func startTracing(t *testing.T, ns *kerneltest.NetNS, args ...string) *exporter {
	t.Helper()
	kerneltest.RequireRoot(t)
	flags := []string{fmt.Sprintf("--watch.port=%d", boundPort), fmt.Sprintf("--watch.port=%d", lowPort)}
	for _, port := range []int{unwatchedPort, lowPort + 1} {
		flags = append(flags, fmt.Sprintf("--watch.exclude=%d", port), fmt.Sprintf("--watch.exclude=%d/udp", port))
	}
	e := start(t, ns, append(flags, args...)...)
	if f := featureOf(t, e, "bind_tracing"); !f.works {
		kerneltest.Skip(t, "binds are not traced here: %s\n%s", f.reason, e.Log)
	}
	return e
}

// A feature is a row of sockstate_feature_available.
type feature struct {
	works        bool
	mode, reason string
}

func featureOf(t *testing.T, e *exporter, name string) feature {
	t.Helper()
	for series, value := range samples(t, e, "sockstate_feature_available") {
		if !strings.Contains(series, `{feature="`+name+`"`) {
			continue
		}
		f := feature{works: value == 1}
		for label, value := range map[string]*string{"mode": &f.mode, "reason": &f.reason} {
			if _, rest, ok := strings.Cut(series, ","+label+`="`); ok {
				*value, _, _ = strings.Cut(rest, `"`)
			}
		}
		return f
	}
	t.Fatalf("no feature %s\n%s", name, e.Log)
	return feature{}
}

// A call is one that fails.
type call struct {
	family, protocol string // as in the labels
}

func (c call) socket() (int, error) {
	family, typ := unix.AF_INET, unix.SOCK_STREAM
	if c.family == "ipv6" {
		family = unix.AF_INET6
	}
	if c.protocol == "udp" {
		typ = unix.SOCK_DGRAM
	}
	return unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
}

func (c call) addr(v4, v6 string, port uint16) unix.Sockaddr {
	if c.family == "ipv6" {
		return &unix.SockaddrInet6{Addr: netip.MustParseAddr(v6).As16(), Port: int(port)}
	}
	return &unix.SockaddrInet4{Addr: netip.MustParseAddr(v4).As4(), Port: int(port)}
}

func (c call) local(port uint16) unix.Sockaddr   { return c.addr("127.0.0.1", "::1", port) }
func (c call) foreign(port uint16) unix.Sockaddr { return c.addr("192.0.2.1", "2001:db8::1", port) }

func (c call) series(netns, port, errno string) string {
	if netns != "" {
		netns = `,netns="` + netns + `"`
	}
	return fmt.Sprintf(`sockstate_bind_failures_total{errno="%s",family="%s"%s,port="%s",protocol="%s"}`,
		errno, c.family, netns, port, c.protocol)
}

// ways are the ways for bind(2) to fail, in a thread that is thrown away.
func ways() map[unix.Errno]func(call, uint16) error {
	return map[unix.Errno]func(call, uint16) error{
		unix.EADDRINUSE: func(c call, port uint16) error {
			first, err := c.socket()
			if err != nil {
				return err
			}
			defer unix.Close(first)
			if err := unix.Bind(first, c.local(port)); err != nil {
				return fmt.Errorf("the first bind: %w", err)
			}
			return c.bind(c.local(port), nil)
		},
		unix.EADDRNOTAVAIL: func(c call, port uint16) error { return c.bind(c.foreign(port), nil) },
		unix.EINVAL: func(c call, port uint16) error {
			return c.bind(c.local(port), func(fd int) error { return unix.Bind(fd, c.local(0)) })
		},
		unix.EACCES: func(c call, port uint16) error {
			return c.bind(c.local(port), func(int) error {
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var none [2]unix.CapUserData
				return unix.Capset(&header, &none[0])
			})
		},
	}
}

// bind is the call: prepare runs before it.
func (c call) bind(addr unix.Sockaddr, prepare func(fd int) error) error {
	fd, err := c.socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if prepare != nil {
		if err := prepare(fd); err != nil {
			return err
		}
	}
	return unix.Bind(fd, addr)
}

func calls() []call {
	return []call{{"ipv4", "tcp"}, {"ipv6", "tcp"}, {"ipv4", "udp"}, {"ipv6", "udp"}}
}

// Each failed call is one more on exactly one series: that of the port that was asked for.
func TestFailedCalls(t *testing.T) {
	ns := kerneltest.New(t)
	e := startTracing(t, ns)
	t.Run("each way to fail", func(t *testing.T) {
		before := failedCalls(t, e)
		for errno, fail := range ways() {
			name := unix.ErrnoName(errno)
			for _, c := range calls() {
				watched, unwatched := uint16(boundPort), uint16(unwatchedPort)
				if errno == unix.EACCES {
					watched, unwatched = lowPort, lowPort+1
				}
				for label, port := range map[string]uint16{strconv.Itoa(int(watched)): watched, "other": unwatched} {
					t.Run(fmt.Sprintf("%s %s %s %s", name, c.protocol, c.family, label), func(t *testing.T) {
						got := ns.Run(func() error { return fail(c, port) })
						if !errors.Is(got, errno) {
							t.Fatalf("bind: %v, want %v", got, errno)
						}
						after := failedCalls(t, e)
						checkGrown(t, before, after, map[string]float64{c.series("", label, name): 1})
						before = after
					})
				}
			}
		}
		for _, metric := range []string{"sockstate_bind_failures_unattributed_total", "sockstate_bind_events_lost_total"} {
			if got := samples(t, e, metric); len(got) != 1 {
				t.Errorf("%d samples of %s, want 1", len(got), metric)
			}
		}
	})
	t.Run("any port", func(t *testing.T) {
		before := failedCalls(t, e)
		c := call{"ipv4", "tcp"}
		if err := ns.Run(func() error { return c.bind(c.foreign(0), nil) }); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatal(err)
		}
		checkGrown(t, before, failedCalls(t, e), map[string]float64{c.series("", "0", "EADDRNOTAVAIL"): 1})
	})
	t.Run("success", func(t *testing.T) {
		before := failedCalls(t, e)
		for _, c := range calls() {
			if err := ns.Run(func() error { return c.bind(c.local(boundPort), nil) }); err != nil {
				t.Fatal(err)
			}
		}
		checkGrown(t, before, failedCalls(t, e), map[string]float64{})
	})
	t.Run("another namespace", func(t *testing.T) {
		before := failedCalls(t, e)
		elsewhere := kerneltest.New(t)
		c := call{"ipv6", "udp"}
		if err := elsewhere.Run(func() error { return c.bind(c.foreign(boundPort), nil) }); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatal(err)
		}
		checkGrown(t, before, failedCalls(t, e), map[string]float64{c.series("other", strconv.Itoa(boundPort), "EADDRNOTAVAIL"): 1})
	})
	// Two sockets may be bound with SO_REUSEADDR; the second one to listen loses.
	t.Run("listen", func(t *testing.T) {
		before := failedCalls(t, e)
		addr := loopback(boundPort)
		reuse := kerneltest.Options{ReuseAddr: true}
		first, second := ns.Bind(t, addr, reuse), ns.Bind(t, addr, reuse)
		if err := unix.Listen(first.FD(), 1); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(second.FD(), 1); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("listen: %v, want %v", err, unix.EADDRINUSE)
		}
		checkGrown(t, before, failedCalls(t, e), map[string]float64{
			fmt.Sprintf(`sockstate_listen_failures_total{errno="EADDRINUSE",family="ipv4",port="%d",protocol="tcp"}`, boundPort): 1,
		})
	})
}

func TestZerosAreThereBeforeTheFirstFailure(t *testing.T) {
	e := startTracing(t, kerneltest.New(t), "--no-watch.listeners")
	want := make(map[string]float64)
	for _, port := range []int{boundPort, lowPort} {
		for _, family := range []string{"ipv4", "ipv6"} {
			want[call{family, "tcp"}.series("", strconv.Itoa(port), "EADDRINUSE")] = 0
		}
	}
	if got := failedCalls(t, e); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// failingIn are the series of the gauge that belong to the test's network namespace.
func failingIn(t *testing.T, e *exporter) map[string]float64 {
	t.Helper()
	return samples(t, e, "sockstate_bind_failing")
}

// A bind fails until one works, and beside a healthy server until that server is gone.
func TestABindFailsUntilOneWorks(t *testing.T) {
	ns := kerneltest.New(t)
	e := startTracing(t, ns)
	series := fmt.Sprintf(`sockstate_bind_failing{family="ipv4",port="%d",protocol="tcp"}`, boundPort)
	addr := loopback(boundPort)
	if got := failingIn(t, e); len(got) > 0 {
		t.Errorf("before the first failure: %v, want no series", got)
	}
	wait := func(what string, want float64, meanwhile func()) {
		t.Helper()
		var got map[string]float64
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			meanwhile()
			if got = failingIn(t, e); got[series] == want && len(got) == 1 {
				return
			}
		}
		t.Fatalf("%s: got %v, want %s %v", what, got, series, want)
	}
	nothing := func() {}
	fails := func() {
		if s, err := ns.OpenBound(addr, kerneltest.Options{}); !errors.Is(err, unix.EADDRINUSE) {
			s.Close()
			t.Fatalf("bind: %v, want EADDRINUSE", err)
		}
	}
	blocker := ns.Bind(t, addr, kerneltest.Options{})
	wait("while another socket is bound", 1, fails) // details are lost while others fill the ring
	blocker.Close()
	wait("nobody has tried since", 1, nothing)
	server := ns.Listen(t, addr, kerneltest.Options{})
	wait("a bind has worked", 0, nothing)
	wait("a second copy is started", 1, fails)
	wait("the first one is still there", 1, nothing)
	server.Close()
	wait("the first one was stopped", 0, nothing)
}

var unitLabel = regexp.MustCompile(`,unit="[^"]*"`)

func TestLatestFailureSaysWhenAndByWhom(t *testing.T) {
	ns := kerneltest.New(t)
	e := startTracing(t, ns)
	c := call{"ipv4", "tcp"}
	failAs := func(name string) {
		t.Helper()
		err := as(name, func() error {
			return ns.Run(func() error { return c.bind(c.foreign(boundPort), nil) })
		})
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatal(err)
		}
	}
	const want = `sockstate_bind_last_failure_timestamp_seconds{diagnosis="address_missing",errno="EADDRNOTAVAIL",family="ipv4",port="2743",process="e` +
		"\uFFFD" + `il\"}` + "\uFFFD" + `",protocol="tcp",reuseaddr="false"}`
	began := time.Now()
	failAs("first")
	// Events are read in the background, and are lost while others fill the ring.
	var got map[string]float64
	for deadline := began.Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		failAs("e\xffil\"}\x7f")
		got = make(map[string]float64)
		for name, value := range samples(t, e, "sockstate_bind_last_failure_timestamp_seconds") {
			got[unitLabel.ReplaceAllString(name, "")] = value // whatever these tests run in
		}
		maps.DeleteFunc(got, func(name string, _ float64) bool { return strings.Contains(name, `netns="other"`) })
		if _, ok := got[want]; ok {
			break
		}
	}
	at, ok := got[want]
	if !ok || len(got) != 1 {
		t.Fatalf("got %v, want only %s", got, want)
	}
	// The kernel's clock and that of user space are told apart by adjtime, if at all.
	const slack = 0.1
	if first, last := float64(began.UnixMilli())/1000, float64(time.Now().UnixMilli())/1000; at < first-slack || at > last+slack {
		t.Errorf("at %v, want %v to %v", at, first, last)
	}
}

// failToBind is a process whose binds fail: as many as its argument says.
func failToBind(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	c := call{"ipv4", "tcp"}
	fd, err := c.socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	addr := c.foreign(boundPort)
	for range n {
		if err := unix.Bind(fd, addr); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("bind: %w, want %w", err, unix.EADDRNOTAVAIL)
		}
	}
	return nil
}

func TestStormOfFailedBindsIsCountedExactly(t *testing.T) {
	const processes, each = 5, 20_000
	ns := kerneltest.New(t)
	e := startTracing(t, ns)
	tracers.Disturb(t)
	ended := make(chan error, processes)
	for range processes {
		cmd := launch.InRole(t, ns, "fail", strconv.Itoa(each))
		go func() { ended <- cmd.Run() }()
	}
	name := call{"ipv4", "tcp"}.series("", strconv.Itoa(boundPort), "EADDRNOTAVAIL")
	last, scrapes := 0.0, 0
	for running := processes; running > 0; scrapes++ {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			running--
		default:
		}
		now := failedCalls(t, e)[name]
		if now < last {
			t.Errorf("the counter fell from %v to %v", last, now)
		}
		last = now
	}
	if got := failedCalls(t, e)[name]; got != processes*each {
		t.Errorf("counted %v, want %d; %v", got, processes*each, samples(t, e,
			"sockstate_bind_failures_unattributed_total", "sockstate_bind_tracer_missed_runs_total"))
	}
	t.Logf("%d scrapes meanwhile, %v", scrapes, samples(t, e, "sockstate_bind_events_lost_total"))
}
