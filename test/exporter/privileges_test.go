package exporter

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const nobody = 65534

// mountCommand is what the log says to do.
const mountCommand = "mount -t tracefs tracefs /sys/kernel/tracing"

// capabilities by the name that the log has.
func capabilities() map[string]uintptr {
	return map[string]uintptr{
		"CAP_BPF":              unix.CAP_BPF,
		"CAP_PERFMON":          unix.CAP_PERFMON,
		"CAP_DAC_READ_SEARCH":  unix.CAP_DAC_READ_SEARCH,
		"CAP_SYS_PTRACE":       unix.CAP_SYS_PTRACE,
		"CAP_NET_ADMIN":        unix.CAP_NET_ADMIN,
		"CAP_NET_BIND_SERVICE": unix.CAP_NET_BIND_SERVICE,
		"CAP_SETPCAP":          unix.CAP_SETPCAP,
		"CAP_SYS_ADMIN":        unix.CAP_SYS_ADMIN,
	}
}

// startAs starts the exporter as an ordinary user with exactly these capabilities.
func startAs(t *testing.T, ns *kerneltest.NetNS, caps []string, args ...string) *exporter {
	t.Helper()
	e := userCommand(t, ns, strings.Join(caps, " "), args...)
	e.Run(t)
	return e
}

// threads are the lines of /proc/PID/status that say what each thread of the exporter may do.
func (e *exporter) threads(t *testing.T) []map[string]string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", e.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var threads []map[string]string
	for _, path := range tasks {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended meanwhile
		}
		thread := make(map[string]string)
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			thread[name] = value
		}
		threads = append(threads, thread)
	}
	if len(threads) == 0 {
		t.Fatal("no threads")
	}
	return threads
}

const noCapability = "0000000000000000"

// checkKept compares what is kept, by the log and by the kernel, in every thread.
func (e *exporter) checkKept(t *testing.T, want ...string) {
	t.Helper()
	var mask uint64
	for _, name := range want {
		mask |= 1 << capabilities()[name]
	}
	for _, thread := range e.threads(t) {
		for name, value := range map[string]string{
			"CapEff": fmt.Sprintf("%016x", mask), "CapPrm": fmt.Sprintf("%016x", mask),
			"CapInh": noCapability, "CapAmb": noCapability, "NoNewPrivs": "1",
		} {
			if thread[name] != value {
				t.Errorf("a thread has %s %s, want %s: %v", name, thread[name], value, want)
			}
		}
	}
	line := fmt.Sprintf(" kept=%q", strings.Join(want, " "))
	if len(want) == 1 {
		line = " kept=" + want[0] // slog quotes what it has to
	}
	if n := strings.Count(e.Log.String(), line+"\n"); n != 1 {
		t.Errorf("%d log lines end with%s, want 1:\n%s", n, line, e.Log)
	}
	e.checkBounding(t)
}

// checkBounding compares what the log says of the bounding set with the kernel.
func (e *exporter) checkBounding(t *testing.T) {
	t.Helper()
	emptied := strings.Contains(e.Log.String(), " no_new_privs=true bounding_set_emptied=true ")
	if !emptied && !strings.Contains(e.Log.String(), " no_new_privs=true bounding_set_emptied=false ") {
		t.Errorf("the log does not say what became of the bounding set:\n%s", e.Log)
	}
	for _, thread := range e.threads(t) {
		if (thread["CapBnd"] == noCapability) != emptied {
			t.Errorf("a thread has the bounding set %s, and the log says emptied: %v", thread["CapBnd"], emptied)
		}
	}
}

// checkLog: each feature is told once, in one line, and nothing is said twice.
func (e *exporter) checkLog(t *testing.T) {
	t.Helper()
	log := e.Log.String()
	stamp := regexp.MustCompile(`^time=\S+ (level=\S+ source=\S+ msg=.*)$`)
	seen := make(map[string]bool)
	for line := range strings.Lines(log) {
		m := stamp.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Errorf("not a line of its own: %q", line)
			continue
		}
		if seen[m[1]] {
			t.Errorf("said twice: %q", line)
		}
		seen[m[1]] = true
	}
	for _, of := range []string{" feature=bind_tracing ", " feature=reuse_flags ", `msg="capabilities that`} {
		if n := strings.Count(log, of); n != 1 {
			t.Errorf("%d lines with %s, want 1:\n%s", n, of, log)
		}
	}
}

// perfNeedsNoMore skips where kprobes and tracepoints need CAP_SYS_ADMIN; fexit never does.
func perfNeedsNoMore(t *testing.T, mode string) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/perf_event_paranoid")
	if err != nil {
		t.Fatal(err)
	}
	level, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if mode != "fexit" && level > 2 {
		kerneltest.Skip(t, "kernel.perf_event_paranoid is %d: %s needs CAP_SYS_ADMIN", level, mode)
	}
}

func TestCapabilitiesOfEachFeature(t *testing.T) {
	ns := kerneltest.New(t)
	root := startTracing(t, ns)
	mode := featureOf(t, root, "bind_tracing").mode
	perfNeedsNoMore(t, mode)
	if f := featureOf(t, root, "reuse_flags"); f != (feature{true, "bpf", ""}) {
		kerneltest.Skip(t, "flags are read as %+v here", f)
	}
	root.Stop()
	ns.Listen(t, loopback(4840), kerneltest.Options{ReuseAddr: true})
	family := flagRows([][4]string{{"127.0.0.1", "4840", "1", "0"}})

	traced, denied := feature{true, mode, ""}, feature{false, "", "tracefs_denied"}
	if mode != "tracepoint" {
		denied = traced // needs no tracefs
	}
	byBPF := feature{true, "bpf", ""}
	byPidfd := func(reason string) feature { return feature{true, "pidfd", reason} }
	for _, tt := range []struct {
		caps         string
		binds, flags feature
		known        bool // the flags of another user's listener
		kept         string
	}{
		{"CAP_BPF CAP_PERFMON CAP_DAC_READ_SEARCH", traced, byBPF, true, ""},
		{"CAP_PERFMON CAP_DAC_READ_SEARCH", feature{false, "", "cap_bpf"}, byPidfd("cap_bpf"), false, "CAP_DAC_READ_SEARCH"},
		{"CAP_BPF CAP_DAC_READ_SEARCH", feature{false, "", "cap_perfmon"}, byPidfd("cap_perfmon"), false, "CAP_DAC_READ_SEARCH"},
		{"CAP_BPF CAP_PERFMON", denied, byBPF, true, ""},
		{"CAP_SYS_PTRACE CAP_DAC_READ_SEARCH", feature{false, "", "cap_bpf"}, byPidfd("cap_bpf"), true, "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"},
		{"CAP_SYS_PTRACE", feature{false, "", "cap_bpf"}, byPidfd("cap_bpf"), false, "CAP_SYS_PTRACE"},
		{"", feature{false, "", "cap_bpf"}, byPidfd("cap_bpf"), false, ""},
	} {
		t.Run(tt.caps, func(t *testing.T) {
			e := startAs(t, ns, strings.Fields(tt.caps), "--watch.exclude=10048", "--no-collector.owner")
			if got := featureOf(t, e, "bind_tracing"); got != tt.binds {
				t.Errorf("bind_tracing is %+v, want %+v", got, tt.binds)
			}
			if got := featureOf(t, e, "reuse_flags"); got != tt.flags {
				t.Errorf("reuse_flags is %+v, want %+v", got, tt.flags)
			}
			for row, value := range flagsOf(t, e) {
				if family[row] != value {
					t.Errorf("%s is %v, want %v", row, value, family[row])
				}
			}
			if got := len(flagsOf(t, e)); got != 2 && tt.known || got != 0 && !tt.known {
				t.Errorf("%d rows of flags, known is to be %v", got, tt.known)
			}
			e.checkKept(t, strings.Fields(tt.kept)...)
			e.checkLog(t)
			if want := "reason=" + tt.binds.reason + " err="; !tt.binds.works && !strings.Contains(e.Log.String(), want) {
				t.Errorf("the log does not say %s:\n%s", want, e.Log)
			}
			metrics := e.Get(t, "/metrics")
			wantLines(t, metrics,
				`sockstate_tcp_sockets{family="ipv4",port="4840",state="listen"} 1`,
				`sockstate_tcp_listener_accept_queue{address="127.0.0.1",family="ipv4",port="4840"} 0`,
				`sockstate_netns_listen_drops_total 0`,
			)
			if regexp.MustCompile(`sockstate_scrape_collector_success\{collector="\w+"\} 0`).MatchString(metrics) {
				t.Errorf("a collector fails:\n%s", e.Log)
			}
			if traces := strings.Contains(metrics, "\nsockstate_bind_events_lost_total "); traces != tt.binds.works {
				t.Errorf("metrics of binds are there: %v, want %v", traces, tt.binds.works)
			}
		})
	}
}

// What was attached with privileges counts on without.
func TestTracesWithoutAnyCapabilityOnceItRuns(t *testing.T) {
	ns := kerneltest.New(t)
	e := startTracing(t, ns, "--no-collector.owner")
	e.checkKept(t)
	e.checkLog(t)
	c := call{"ipv4", "udp"}
	for n := range 3 {
		before := failedCalls(t, e)
		if err := ns.Run(func() error { return c.bind(c.foreign(boundPort), nil) }); err == nil {
			t.Fatal("bind to an address of another host succeeded")
		}
		checkGrown(t, before, failedCalls(t, e), map[string]float64{c.series("", strconv.Itoa(boundPort), "EADDRNOTAVAIL"): 1})
		// A port that comes to be watched later on.
		ns.Listen(t, loopback(uint16(9000+n)), kerneltest.Options{ReusePort: true})
		if got := flagsOf(t, e); len(got) < 2*(n+1) && featureOf(t, e, "reuse_flags").mode == "bpf" {
			t.Errorf("flags %v, want those of %d listeners", got, n+1)
		}
	}
}

func TestOwnersOfOtherUsersNeedTwoCapabilities(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(4840), kerneltest.Options{})
	for _, tt := range []struct {
		caps, kept   string
		mode, reason string
		known        bool
	}{
		{"CAP_BPF CAP_PERFMON", "", "bpf", "cap_sys_ptrace", true},
		{"CAP_DAC_READ_SEARCH CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE", "procfs", "cap_bpf", true},
		{"CAP_DAC_READ_SEARCH", "CAP_DAC_READ_SEARCH", "procfs", "cap_sys_ptrace", false},
		{"CAP_SYS_PTRACE", "CAP_SYS_PTRACE", "procfs", "cap_dac_read_search", false},
		{"", "", "procfs", "cap_sys_ptrace", false},
	} {
		t.Run(tt.caps, func(t *testing.T) {
			e := startAs(t, ns, strings.Fields(tt.caps), withoutPrivileges()...)
			if got, want := featureOf(t, e, "owners"), (feature{true, tt.mode, tt.reason}); got != want {
				t.Errorf("owners is %+v, want %+v", got, want)
			}
			e.checkKept(t, strings.Fields(tt.kept)...)
			process := ""
			if tt.known {
				process = processName(t)
			}
			// Its own listener it always knows, once it has looked.
			eventually(t, "owner of port 10048 is known", func() bool { return ownerOf(t, e, 10048) != "" })
			if got := ownerOf(t, e, 4840); got != process {
				t.Errorf("port 4840 is of %q, want %q", got, process)
			}
		})
	}
}

// ownerOf is the process that listens on a port of 127.0.0.1, or listened there last. It is empty if
// nobody is known.
func ownerOf(t *testing.T, e *exporter, port uint16) string {
	t.Helper()
	row := fmt.Sprintf(`sockstate_tcp_(?:listener|restart)_info\{address="127.0.0.1",family="ipv4",port="%d"(?:,process="([^"]*)")?`, port)
	m := regexp.MustCompile(row).FindStringSubmatch(e.Get(t, "/metrics"))
	if m == nil {
		t.Fatalf("no row of port %d", port)
	}
	return m[1]
}

// processName is what this process is called.
func processName(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(name), "\n")
}

// The port is open before its privilege is given up.
func TestServesOnAPrivilegedPortWithoutItsCapability(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	e := startAs(t, ns, []string{"CAP_NET_BIND_SERVICE"}, withoutPrivileges("--web.listen-address=127.0.0.1:443", "--no-collector.owner")...)
	e.checkKept(t)
	for range 3 {
		resp, err := e.Client.Get("http://127.0.0.1:443/-/healthy")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("status %s", resp.Status)
		}
	}
}

func TestKeepsNoMoreThanItsFlagsNeed(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	all := slices.Sorted(maps.Keys(capabilities()))
	for _, tt := range []struct {
		args, kept string
	}{
		{"--no-collector.owner", ""},
		{"--collector.owner", "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"},
		{"--no-collector.owner --netns=sockstate-nope", "CAP_SYS_ADMIN"},
		{"--no-collector.owner --netns=/nope/nope", "CAP_DAC_READ_SEARCH CAP_SYS_ADMIN"},
		{"--no-collector.owner --netns=sockstate-nope*", "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE CAP_SYS_ADMIN"},
		{"--no-collector.owner --netns.processes", "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE CAP_SYS_ADMIN"},
		{"--collector.owner --netns.processes", "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE CAP_SYS_ADMIN"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			e := startAs(t, ns, all, withoutPrivileges(strings.Fields(tt.args)...)...)
			e.checkKept(t, strings.Fields(tt.kept)...)
			e.Stop()
		})
	}
}

// The bounding set is only for who may change it.
func TestBoundingSetIsEmptiedWhereThatIsAllowed(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	for _, tt := range []struct {
		caps, said string
	}{
		{"", " bounding_set_emptied=false "},
		{"CAP_NET_ADMIN", " bounding_set_emptied=false "},
		{"CAP_SETPCAP", " bounding_set_emptied=true "},
	} {
		t.Run(tt.caps, func(t *testing.T) {
			e := startAs(t, ns, strings.Fields(tt.caps), withoutPrivileges("--no-collector.owner")...)
			e.checkKept(t)
			if !strings.Contains(e.Log.String(), tt.said) {
				t.Errorf("the log lacks %q:\n%s", tt.said, e.Log)
			}
		})
	}
}

func TestMissingTracefsIsAReasonAndSaysWhatToMount(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	e := command(t, ns)
	e.inRole("notracefs")
	e.Cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	e.Run(t)
	switch got := featureOf(t, e, "bind_tracing"); got {
	case feature{true, "fexit", ""}, feature{true, "kprobe", ""}:
		return // they need none
	case feature{false, "", "no_tracefs"}:
	default:
		t.Errorf("bind_tracing is %+v, want no_tracefs", got)
	}
	e.checkLog(t)
	for line := range strings.Lines(e.Log.String()) {
		if strings.Contains(line, "failed binds are") && !strings.Contains(line, mountCommand) {
			t.Errorf("the log does not say what to mount: %s", line)
		}
	}
	if f := featureOf(t, e, "reuse_flags"); !f.works {
		t.Errorf("reuse_flags is %+v", f)
	}
}
