package collector

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestExposition(t *testing.T) {
	const golden = "testdata/exposition.prom"
	c, log := collectorOf(wholeSnapshot(t))
	got := exposition(t, c)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (-update writes it anew):\n%s", golden, firstDifference(got, want))
	}
	if got, want := log.take(), []string{overBudget}; !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d\ngot  %s\nwant %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}

func TestPromlintFindsNothing(t *testing.T) {
	c, _ := collectorOf(everyMetric(t))
	problems, err := promlint.New(bytes.NewReader(exposition(t, c))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestPromtoolFindsNothing(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	c, _ := collectorOf(everyMetric(t))
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(exposition(t, c))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

func TestMetricDefinitions(t *testing.T) {
	c, _ := collectorOf(snapshot.Snapshot{})
	seen := make(map[string]bool)
	for _, m := range c.Metrics() {
		if seen[m.Name] {
			t.Errorf("%s is defined twice", m.Name)
		}
		seen[m.Name] = true
		if !strings.HasPrefix(m.Name, "sockstate_") {
			t.Errorf("%s has not the prefix sockstate_", m.Name)
		}
		if got, want := m.Type == prometheus.CounterValue, strings.HasSuffix(m.Name, "_total"); got != want {
			t.Errorf("%s: counter is %v", m.Name, got)
		}
		if got, want := strings.HasPrefix(m.Help, "Seconds "), strings.HasSuffix(m.Name, "_seconds"); got != want {
			t.Errorf("%s: the unit is not that of the help: %q", m.Name, m.Help)
		}
	}
}

// maxHelp is the longest HELP that still fits on a line of a query editor.
const maxHelp = 120

// helpProblem is what is wrong with a HELP text, or empty. A semicolon may join two halves of
// one sentence. What follows a full stop, in parentheses too, is one thing too many.
func helpProblem(help string) string {
	switch sentence, ended := strings.CutSuffix(help, "."); {
	case help == "":
		return "is empty"
	case len(help) > maxHelp:
		return fmt.Sprintf("has %d characters, want at most %d", len(help), maxHelp)
	case !ended:
		return "does not end with a full stop"
	case strings.ContainsAny(sentence, "\n?!"), strings.Contains(sentence, ". "), strings.HasSuffix(sentence, "."):
		return "is more than one sentence"
	}
	return ""
}

func TestHelpIsOneShortSentence(t *testing.T) {
	c, _ := collectorOf(everyMetric(t))
	checked := 0
	for line := range strings.Lines(string(exposition(t, c))) {
		rest, ok := strings.CutPrefix(line, "# HELP ")
		if !ok {
			continue
		}
		name, help, _ := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
		if problem := helpProblem(help); problem != "" {
			t.Errorf("HELP of %s %s: %q", name, problem, help)
		}
		checked++
	}
	if want := len(c.Metrics()); checked != want {
		t.Errorf("%d metrics have a HELP, want %d", checked, want)
	}
}

func TestHelpProblem(t *testing.T) {
	for help, want := range map[string]string{
		"Open sockets, by port; 0 means none.": "",
		strings.Repeat("x", maxHelp-1) + ".":   "",
		strings.Repeat("x", maxHelp) + ".":     "has 121 characters, want at most 120",
		"":                                     "is empty",
		"Open sockets":                         "does not end with a full stop",
		"Open sockets. (net.ipv4.tcp_max_tw_buckets)":     "does not end with a full stop",
		"Open sockets. Absent if they cannot be counted.": "is more than one sentence",
		"Open sockets! By port.":                          "is more than one sentence",
		"Open sockets..":                                  "is more than one sentence",
	} {
		if got := helpProblem(help); got != want {
			t.Errorf("helpProblem(%q) = %q, want %q", help, got, want)
		}
	}
}

// familyNames are the metric families in an exposition.
func familyNames(text []byte) []string {
	var names []string
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names = append(names, strings.Fields(rest)[0])
		}
	}
	return names
}

// dataFamilies are those that do not say whether a collector failed.
func dataFamilies(text []byte) []string {
	return slices.DeleteFunc(familyNames(text), func(name string) bool { return name == "sockstate_netns_collector_success" })
}

func TestDefinedIsWhatIsExposed(t *testing.T) {
	c, _ := collectorOf(everyMetric(t))
	var defined []string
	for _, m := range c.Metrics() {
		defined = append(defined, m.Name)
	}
	slices.Sort(defined)
	if exposed := familyNames(exposition(t, c)); !slices.Equal(exposed, defined) {
		t.Errorf("exposed %q\ndefined %q", exposed, defined)
	}
}

func TestReferenceHasEveryMetric(t *testing.T) {
	const reference = "../docs/metrics.md"
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := collectorOf(everyMetric(t))
	for _, name := range familyNames(exposition(t, c)) {
		if !bytes.Contains(text, []byte("\n| `"+name+"` |")) {
			t.Errorf("%s has no row for %s", reference, name)
		}
	}
}

// values are the samples of one metric in an exposition, by what stands in braces.
func values(text []byte, metric string) map[string]string {
	out := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, metric); ok && strings.IndexAny(rest, "{ ") == 0 {
			at := strings.LastIndex(rest, " ")
			out[strings.Trim(rest[:at], "{}")] = strings.TrimSpace(rest[at:])
		}
	}
	return out
}

func TestMissingPartsCostTheirOwnMetricsOnly(t *testing.T) {
	const (
		tcp      = "sockstate_tcp_sockets sockstate_tcp_time_wait_remaining_seconds"
		listener = "sockstate_tcp_port_split sockstate_tcp_port_shared sockstate_tcp_listener_info sockstate_tcp_listener_sockets sockstate_tcp_listener_accept_queue " +
			"sockstate_tcp_listener_accept_queue_limit sockstate_tcp_listener_accept_queue_ratio sockstate_tcp_listener_drops_total sockstate_tcp_listener_groups_dropped"
		netns = "sockstate_netns_time_wait_sockets sockstate_netns_time_wait_limit sockstate_netns_time_wait_overflows_total " +
			"sockstate_netns_listen_overflows_total sockstate_netns_listen_drops_total sockstate_netns_ephemeral_ports_limit " +
			"sockstate_tcp_memory_bytes sockstate_tcp_memory_pressure_bytes sockstate_tcp_memory_limit_bytes sockstate_tcp_orphans sockstate_tcp_orphans_limit"
		watched = "sockstate_watched_port_info sockstate_watched_ports sockstate_watched_ports_limit sockstate_watched_ports_dropped"
		reuse   = "sockstate_tcp_listener_reuseaddr sockstate_tcp_listener_reuseport sockstate_tcp_port_unreserved"
		bind    = "sockstate_bind_failures_total sockstate_listen_failures_total sockstate_bind_conflicts_total sockstate_bind_failing sockstate_bind_last_failure_timestamp_seconds " +
			"sockstate_bind_events_lost_total sockstate_bind_failures_unattributed_total sockstate_vsock_bind_failures_total sockstate_bind_tracer_missed_runs_total " +
			"sockstate_bind_tracer_slots_used sockstate_bind_tracer_slots_limit sockstate_bind_tracer_slots_lacking sockstate_connect_failures_total"
		restart = "sockstate_tcp_bind_blockers sockstate_tcp_bind_blocked_seconds sockstate_tcp_restart_blocked_seconds sockstate_tcp_restart_info"
		feature = "sockstate_feature_available"

		ofUDP     = "sockstate_udp_sockets sockstate_udp_receive_queue_bytes sockstate_udp_drops_total sockstate_udp_listener_info sockstate_udp_port_shared sockstate_udp_restart_blocked sockstate_udp_port_split"
		remote    = "sockstate_tcp_remote_sockets"
		ephemeral = "sockstate_netns_ephemeral_ports_used"

		namespaces = "sockstate_netns_info sockstate_watched_namespaces sockstate_watched_namespaces_dropped sockstate_namespaces_unreadable_processes"
	)
	lacking := fmt.Errorf("dump: %w", &netlinkdiag.ModuleError{Module: "tcp_diag", Err: unix.ENOENT})
	for _, tt := range []struct {
		name    string
		change  func(*snapshot.Snapshot)
		missing string            // metrics
		success map[string]string // collectors, tcp listener stack watch reuse bind restart netns udp remote ephemeral connect
		feature string
	}{
		{"nothing", func(*snapshot.Snapshot) {}, "", success("111111111111"), "1"},
		{"tcp", func(s *snapshot.Snapshot) {
			s.TCP.Err = errBroken // what there is of it is not to be shown
		}, tcp, success("011111111111"), "1"},
		{"listeners", func(s *snapshot.Snapshot) {
			s.Listeners.Err = errBroken
		}, listener, success("101111111111"), "1"},
		{"reuse flags", func(s *snapshot.Snapshot) {
			s.Reuse.Err = errBroken
		}, reuse, success("111101111111"), "1"},
		{"verdicts", func(s *snapshot.Snapshot) {
			s.Verdicts.Err = errBroken
		}, restart, success("111111011111"), "1"},
		{"failed binds", func(s *snapshot.Snapshot) {
			s.Binds.Err = errBroken
		}, bind, success("111110111110"), "1"},
		{"stack", func(s *snapshot.Snapshot) {
			s.Stack = snapshot.Part[stack.Stats]{Err: errBroken}
		}, netns, success("110111111111"), "1"},
		{"part of the stack", func(s *snapshot.Snapshot) {
			s.Stack.Err = errBroken
			s.Stack.Data.ListenDrops.OK = false
		}, "sockstate_netns_listen_drops_total", success("110111111111"), "1"},
		{"dump of listeners", func(s *snapshot.Snapshot) {
			s.Watch.Err = errBroken // the set is still there
			s.TCP = snapshot.Part[[]ports.PortSockets]{Err: errBroken}
			s.Listeners = snapshot.Part[[]ports.Group]{Err: errBroken}
			s.Reuse = snapshot.Part[[]uint16]{Err: errBroken}
			s.Verdicts = snapshot.Part[[]verdict.Port]{Err: errBroken}
		}, strings.Join([]string{tcp, listener, reuse, restart, feature}, " "), success("001001011111"), ""},
		{"the kernel's module", func(s *snapshot.Snapshot) {
			s.Watch.Err = lacking
			s.TCP = snapshot.Part[[]ports.PortSockets]{Err: lacking}
			s.Listeners = snapshot.Part[[]ports.Group]{Err: lacking}
			s.Reuse = snapshot.Part[[]uint16]{Err: lacking}
			s.Verdicts = snapshot.Part[[]verdict.Port]{Err: lacking}
		}, strings.Join([]string{tcp, listener, reuse, restart}, " "), success("001001011111"), "0"},
		{"everything, for lack of time", func(s *snapshot.Snapshot) {
			*s = snapshot.Snapshot{
				Namespace: snapshot.Namespace{
					Watch:     snapshot.Part[watch.Set]{Err: errScrapeTimeout},
					TCP:       snapshot.Part[[]ports.PortSockets]{Err: errScrapeTimeout},
					Listeners: snapshot.Part[[]ports.Group]{Err: errScrapeTimeout},
					Reuse:     snapshot.Part[[]uint16]{Err: errScrapeTimeout},
					Verdicts:  snapshot.Part[[]verdict.Port]{Err: errScrapeTimeout},
					Remote:    snapshot.Part[[]ports.RemotePort]{Err: errScrapeTimeout},
					Ephemeral: snapshot.Part[ports.Ephemeral]{Err: errScrapeTimeout},
					UDP:       snapshot.Part[ports.UDP]{Err: errScrapeTimeout},
					UDPPorts:  snapshot.Part[[]udp.Port]{Err: errScrapeTimeout},
					Stack:     snapshot.Part[stack.Stats]{Err: errScrapeTimeout},
				},
				Discovery: snapshot.Part[snapshot.Discovery]{Err: errScrapeTimeout},
				Binds:     snapshot.Part[failures.Binds]{Err: errScrapeTimeout},
			}
		}, strings.Join([]string{tcp, listener, reuse, restart, bind, netns, watched, namespaces, ofUDP, remote, ephemeral, feature}, " "), success("000000000000"), ""},
		{"what is switched off", func(s *snapshot.Snapshot) {
			s.TCP = snapshot.Part[[]ports.PortSockets]{Err: snapshot.ErrOff}
			s.Listeners = snapshot.Part[[]ports.Group]{Err: snapshot.ErrOff}
			s.Stack = snapshot.Part[stack.Stats]{Err: snapshot.ErrOff}
			s.Reuse = snapshot.Part[[]uint16]{Err: snapshot.ErrOff}
			s.Verdicts = snapshot.Part[[]verdict.Port]{Err: snapshot.ErrOff}
			s.Binds = snapshot.Part[failures.Binds]{Err: snapshot.ErrOff}
			s.Discovery = snapshot.Part[snapshot.Discovery]{Err: snapshot.ErrOff}
			s.Remote = snapshot.Part[[]ports.RemotePort]{Err: snapshot.ErrOff}
			s.Ephemeral = snapshot.Part[ports.Ephemeral]{Err: snapshot.ErrOff}
			s.UDP = snapshot.Part[ports.UDP]{Err: snapshot.ErrOff}
			s.UDPPorts = snapshot.Part[[]udp.Port]{Err: snapshot.ErrOff}
		}, strings.Join([]string{tcp, listener, reuse, restart, bind, netns, namespaces, ofUDP, remote, ephemeral}, " "), map[string]string{`collector="watch"`: "1"}, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := wholeSnapshot(t)
			all, _ := collectorOf(s)
			want := familyNames(exposition(t, all))
			missing := strings.Fields(tt.missing)
			want = slices.DeleteFunc(want, func(name string) bool { return slices.Contains(missing, name) })

			tt.change(&s)
			c, _ := collectorOf(s)
			text := exposition(t, c)
			if got := dataFamilies(text); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if got := values(text, "sockstate_scrape_collector_success"); !maps.Equal(got, tt.success) {
				t.Errorf("success %v, want %v", got, tt.success)
			}
			var feature string
			for _, v := range values(text, "sockstate_feature_available") {
				feature = v
			}
			if feature != tt.feature {
				t.Errorf("feature sock_diag is %q, want %q", feature, tt.feature)
			}
		})
	}
}

// success of the collectors, in the order of their names in there.
func success(of string) map[string]string {
	out := make(map[string]string)
	for i, name := range []string{"tcp", "listener", "stack", "watch", "reuse", "bind", "restart", "netns", "udp", "remote", "ephemeral", "connect"} {
		out[`collector="`+name+`"`] = of[i : i+1]
	}
	return out
}

func TestMissingModuleIsNamed(t *testing.T) {
	s := wholeSnapshot(t)
	s.Watch.Err = fmt.Errorf("dump: %w", &netlinkdiag.ModuleError{Module: "tcp_diag", Err: unix.ENOENT})
	c, _ := collectorOf(s)
	got := values(exposition(t, c), "sockstate_feature_available")
	want := map[string]string{`feature="sock_diag",reason="no module tcp_diag"`: "0"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDropsThatAreNotKnownAreAbsent(t *testing.T) {
	c, _ := collectorOf(wholeSnapshot(t))
	text := exposition(t, c)
	const label = `address="::ffff:192.0.2.1"`
	for metric, want := range map[string]int{"sockstate_tcp_listener_accept_queue": 1, "sockstate_tcp_listener_drops_total": 0} {
		n := 0
		for labels := range values(text, metric) {
			if strings.HasPrefix(labels, label) {
				n++
			}
		}
		if n != want {
			t.Errorf("%d samples of %s with %s, want %d", n, metric, label, want)
		}
	}
}

func TestHostileDeviceNames(t *testing.T) {
	s := wholeSnapshot(t)
	c, _ := collectorOf(s)
	text := exposition(t, c)
	if !utf8.Valid(text) {
		t.Error("the exposition is not valid UTF-8")
	}
	if got, want := len(values(text, "sockstate_tcp_listener_info")), len(s.Listeners.Data); got != want {
		t.Errorf("%d groups are exposed, want %d: two names became one", got, want)
	}
	for line := range strings.Lines(string(text)) {
		if n := utf8.RuneCountInString(line); n > 500 {
			t.Errorf("a line of %d characters: %.100s...", n, line)
		}
	}
}

func TestFailureIsLoggedOncePerReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s snapshot.Snapshot
		log := new(logbook)
		c := New(func(context.Context) snapshot.Snapshot { return s }, nil, newLogger(log))
		broken := func(err error) func() { return func() { s.TCP.Err = err } }
		for i, step := range []struct {
			change func()
			want   []string
		}{
			{func() {}, nil},
			{broken(errBroken), []string{`WARN collector failed collector=tcp err=netlink is broken`}},
			{func() {}, nil},
			{broken(errors.New(errBroken.Error())), nil}, // the same reason
			{broken(errOther), []string{`WARN collector failed collector=tcp err=netlink is broken in another way`}},
			{func() { s.Stack.Err = errBroken }, []string{`WARN collector failed collector=stack err=netlink is broken`}},
			{func() {}, nil},
			{broken(nil), []string{`INFO collector works again collector=tcp`}},
			{func() {}, nil},
			{broken(errBroken), []string{`WARN collector failed collector=tcp err=netlink is broken`}},
			// Nobody waits for that scrape any more: it says nothing, and changes nothing.
			{broken(context.Canceled), nil},
			{broken(errBroken), nil},
			{broken(fmt.Errorf("dump: %w", context.Canceled)), nil},
			{broken(nil), []string{`INFO collector works again collector=tcp`}},
			{broken(context.Canceled), nil},
			{broken(nil), nil},
			{broken(errScrapeTimeout), []string{`WARN collector failed collector=tcp err=not ready before the scrape timeout`}},
			{broken(errShortTimeout), nil}, // so it has no say
			{broken(nil), []string{`INFO collector works again collector=tcp`}},
			{broken(errShortTimeout), nil},
			{broken(nil), nil},
			{broken(snapshot.ErrOff), nil},
		} {
			step.change()
			time.Sleep(logPause) // so that no line is left out
			for range 2 {
				exposition(t, c)
				if got := log.take(); !slices.Equal(got, step.want) {
					t.Errorf("step %d: logged %q, want %q", i, got, step.want)
				}
				step.want = nil
			}
		}
	})
}

// Whoever makes a part fail, with whatever text, makes some lines and no flood. In the end the log
// says how the part is.
func TestFailuresThatComeAndGoAreLoggedAtABoundedRate(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  func(i int) error
	}{
		{"comes and goes", func(i int) error { return map[int]error{0: errBroken}[i%2] }},
		{"two reasons", func(i int) error { return map[int]error{0: errBroken, 1: errOther}[i%2] }},
		{"another text each time", func(i int) error { return fmt.Errorf("netns user-%d: %w", i, errBroken) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s snapshot.Snapshot
				log := new(logbook)
				c := New(func(context.Context) snapshot.Snapshot { return s }, nil, newLogger(log))
				scrape := func(tcp error) []string {
					s.TCP.Err = tcp
					rendered(t, c)
					return log.take()
				}
				lines := 0
				const scrapes = 1000
				for i := range scrapes {
					lines += len(scrape(tt.err(i)))
					time.Sleep(logPause / 100)
				}
				if most := logBurst + scrapes/100; lines > most || lines < logBurst {
					t.Errorf("%d lines of %d scrapes, want %d at most", lines, scrapes, most)
				}
				if len(c.states) > len(c.renderers) {
					t.Errorf("%d states are remembered for %d collectors", len(c.states), len(c.renderers))
				}
				time.Sleep(logPause)
				scrape(errors.New("the last"))
				time.Sleep(logPause)
				scrape(errors.New("the last"))
				time.Sleep(logPause)
				got := scrape(nil)
				if len(got) != 1 || !strings.HasPrefix(got[0], "INFO collector works again collector=tcp") {
					t.Errorf("logged %q in the end, want that it works", got)
				}
			})
		})
	}
}

// The line that comes after a pause counts the changes that have none.
func TestLineCountsTheChangesThatWereLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s snapshot.Snapshot
		var out bytes.Buffer
		c := New(func(context.Context) snapshot.Snapshot { return s }, nil, slog.New(slog.NewTextHandler(&out, nil)))
		for i := range 2*10 + logBurst { // the last of them works
			s.TCP.Err = map[int]error{0: errBroken}[i%2]
			rendered(t, c)
		}
		out.Reset()
		time.Sleep(logPause)
		s.TCP.Err = errBroken
		rendered(t, c)
		if got, want := out.String(), "not_logged=20 collector=tcp err=\"netlink is broken\"\n"; !strings.HasSuffix(got, want) {
			t.Errorf("logged %q, want the end %q", got, want)
		}
	})
}

func TestDroppedPortsAreLoggedWhenTheyBegin(t *testing.T) {
	var s snapshot.Snapshot
	log := new(logbook)
	c := New(func(context.Context) snapshot.Snapshot { return s }, nil, newLogger(log))
	over := wholeSnapshot(t)
	within := wholeSnapshot(t)
	within.Watch.Data.Dropped = 0
	unknown := snapshot.Snapshot{Namespace: snapshot.Namespace{Watch: snapshot.Part[watch.Set]{Err: context.Canceled}}}
	for i, step := range []struct {
		take snapshot.Snapshot
		want []string
	}{
		{within, nil},
		{over, []string{overBudget}},
		{over, nil},
		{unknown, nil},
		{over, nil},
		{within, nil},
		{over, []string{overBudget}},
	} {
		s = step.take
		exposition(t, c)
		if got := log.take(); !slices.Equal(got, step.want) {
			t.Errorf("step %d: logged %q, want %q", i, got, step.want)
		}
	}
}
