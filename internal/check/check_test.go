package check

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/words"
)

// An answer is what a test compares of a report.Answer.
type answer struct {
	Outcome  report.Outcome
	Until    report.Until
	Blockers string
}

func answerOf(a *report.Answer) answer {
	var blockers []string
	for _, b := range a.Blockers {
		text := words.Plural(b.Sockets, "socket") + " in " + strings.ToUpper(b.State)
		if b.State == "close" {
			text = words.Plural(b.Sockets, "socket") + " bound but not listening"
		}
		if b.ReuseAddr != bindrule.FlagUnknown {
			text += " " + diagnosis.ReuseAddr(b.ReuseAddr)
		}
		blockers = append(blockers, text)
	}
	return answer{a.Outcome, a.Until, strings.Join(blockers, ", ")}
}

var free = answer{Outcome: report.Free, Until: report.UntilNow}

func wantAnswer(t *testing.T, what string, got *report.Answer, want answer) {
	t.Helper()
	if answerOf(got) != want {
		t.Errorf("%s: %+v, want %+v", what, answerOf(got), want)
	}
}

// requireFlags skips where the flags of sockets in TIME_WAIT cannot be read.
func requireFlags(t *testing.T) {
	t.Helper()
	kerneltest.RequireRoot(t)
	opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF}) })
}

func TestFreePortExitsWith0(t *testing.T) {
	ns := kerneltest.New(t)
	judged := check(t, ns, ExitFree, "4840")
	for i := range judged.Ports[0].Binds {
		wantAnswer(t, "without", &judged.Ports[0].Binds[i].Without, free)
		wantAnswer(t, "with", &judged.Ports[0].Binds[i].With, free)
	}
	wantTrue(t, ns, judged)
}

func TestTimeWaitWithoutTheFlagBlocksEveryServer(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 3, Ports: []uint16{port}})
	judged := check(t, ns, ExitBlocked, "4840")
	want := answer{report.Blocked, report.UntilTime, "3 sockets in TIME_WAIT without SO_REUSEADDR"}
	wantAnswer(t, "without", &judged.Ports[0].Binds[0].Without, want)
	wantAnswer(t, "with", &judged.Ports[0].Binds[0].With, want)
	wantTrue(t, ns, judged)
	check(t, ns, ExitBlocked, "--reuseaddr", "4840")
}

func TestTimeWaitWithTheFlagBlocksServersWithoutIt(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 3, Ports: []uint16{port}, Options: kerneltest.Options{ReuseAddr: true}})
	judged := check(t, ns, ExitBlocked, "4840")
	wantAnswer(t, "without", &judged.Ports[0].Binds[0].Without, answer{report.Blocked, report.UntilTime, "3 sockets in TIME_WAIT with SO_REUSEADDR"})
	wantAnswer(t, "with", &judged.Ports[0].Binds[0].With, free)
	wantTrue(t, ns, judged)
	check(t, ns, ExitFree, "--reuseaddr", "4840")
}

func TestSecondsAreThoseOfTheKernelsTimer(t *testing.T) {
	ns := kerneltest.New(t)
	before := time.Now()
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}})
	judged := check(t, ns, ExitBlocked, "4840")
	elapsed := time.Since(before).Seconds()
	seconds := judged.Ports[0].Binds[0].Without.BlockedSeconds
	// TCP_TIMEWAIT_LEN, less what went by; the timer wheel may add an eighth.
	if seconds == nil || *seconds < 60-elapsed || *seconds > 68 {
		t.Errorf("blocked for %v s, want 60 less at most %v", seconds, elapsed)
	}
}

func TestListenerBlocksAndItsRestartIsToldBeside(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, at(any4), kerneltest.Options{ReuseAddr: true})
	judged := check(t, ns, ExitBlocked, "4840")
	p := &judged.Ports[0]
	if len(p.Listeners) != 1 || p.Listeners[0].Address != any4 || p.Listeners[0].ReuseAddr != bindrule.Yes ||
		p.Listeners[0].UID == nil || int(*p.Listeners[0].UID) != os.Geteuid() {
		t.Fatalf("listeners %+v, want one on 0.0.0.0 with SO_REUSEADDR of uid %d", p.Listeners, os.Geteuid())
	}
	wantAnswer(t, "restart", &p.Listeners[0].Restart, free)
	wantAnswer(t, "without", &p.Binds[0].Without, answer{report.Blocked, report.UntilClosed, "1 socket in LISTEN with SO_REUSEADDR"})
	wantTrue(t, ns, judged)
}

func TestRestartOfAListenerMeetsItsOldConnections(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(any4), kerneltest.Options{})
	timewait.MustMake(t, ns, timewait.Options{Count: 2, Listeners: []*kerneltest.Listener{l}, Client: lo4})
	judged := check(t, ns, ExitBlocked, "4840")
	wantAnswer(t, "restart", &judged.Ports[0].Listeners[0].Restart, answer{report.Blocked, report.UntilTime, "2 sockets in TIME_WAIT without SO_REUSEADDR"})
}

func TestCloseWaitBlocksUntilItIsClosed(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(lo4), kerneltest.Options{})
	l.Peers(t, kerneltest.StateCloseWait, 2, lo4)
	l.Close()
	judged := check(t, ns, ExitBlocked, "4840")
	wantAnswer(t, "without", &judged.Ports[0].Binds[0].Without, answer{report.Blocked, report.UntilClosed, "2 sockets in CLOSE_WAIT without SO_REUSEADDR"})
	wantTrue(t, ns, judged)
}

// The flags of a socket that is only bound are in the kernel's bind buckets, and nowhere else.
func TestBoundSocketBlocks(t *testing.T) {
	buckets, err := bindbucket.New(nil)
	if err != nil && hidesBound() {
		kerneltest.Skip(t, "this kernel does not show bound sockets")
	}
	bound, with, exit := "1 socket bound but not listening", answer{report.Unknown, report.UntilUnknown, "1 socket bound but not listening"}, ExitError
	if err == nil {
		_ = buckets.Close()
		bound += " without SO_REUSEADDR"
		with, exit = answer{report.Blocked, report.UntilClosed, bound}, ExitBlocked
	}
	ns := kerneltest.New(t)
	ns.Bind(t, at(any4), kerneltest.Options{})
	judged := check(t, ns, ExitBlocked, "4840")
	wantAnswer(t, "without", &judged.Ports[0].Binds[0].Without, answer{report.Blocked, report.UntilClosed, bound})
	wantAnswer(t, "with", &judged.Ports[0].Binds[0].With, with)
	wantTrue(t, ns, judged)
	check(t, ns, exit, "--reuseaddr", "4840")
}

func TestHalfOfADualStackServerThatFailedIsNamed(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}})

	before := check(t, ns, ExitBlocked, "4840")
	if strings.Contains(strings.Join(before.Ports[0].Advice, ""), "IPv6 half") {
		t.Errorf("advice %q tells of a half that nobody knows of", before.Ports[0].Advice)
	}
	half := before.Ports[0].Binds[2]
	if half.Address != any6 || half.V6Only != bindrule.Yes {
		t.Fatalf("third bind is %+v, want :: with IPV6_V6ONLY", half)
	}
	wantAnswer(t, ":: alone", &half.Without, free)
	wantTrue(t, ns, before)

	yes := true
	ns.Listen(t, at(any6), kerneltest.Options{V6Only: &yes})
	after := check(t, ns, ExitBlocked, "4840")
	wantAdvice(t, after, "only IPv6 is served")
	wantAnswer(t, "IPv4", &after.Ports[0].Binds[0].Without, answer{report.Blocked, report.UntilTime, "1 socket in TIME_WAIT without SO_REUSEADDR"})
	wantTrue(t, ns, after)
}

func wantAdvice(t *testing.T, judged *report.Report, want string) {
	t.Helper()
	for _, a := range judged.Ports[0].Advice {
		if strings.Contains(a, want) {
			return
		}
	}
	t.Errorf("advice %q, want %q in one", judged.Ports[0].Advice, want)
}

func TestAddressAloneIsJudged(t *testing.T) {
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}})
	wantTrue(t, ns, check(t, ns, ExitFree, "--address=127.0.0.2", "--address=::1", "4840"))
	wantTrue(t, ns, check(t, ns, ExitBlocked, "--address=127.0.0.2", "--address=127.0.0.1", "4840"))
	wantTrue(t, ns, check(t, ns, ExitBlocked, "--address=::ffff:127.0.0.1", "4840"))
}

func TestSeveralPortsAreOneAnswer(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(lo4, 4841), kerneltest.Options{})
	judged := check(t, ns, ExitBlocked, "4842", "4840-4841", "4842")
	var got []string
	for _, p := range judged.Ports {
		got = append(got, fmt.Sprintf("%d %s", p.Port, p.Outcome))
	}
	if want := "4840 free, 4841 blocked, 4842 free"; strings.Join(got, ", ") != want {
		t.Errorf("ports %s, want %s", strings.Join(got, ", "), want)
	}
	check(t, ns, ExitFree, "4842", "4840")
}

func TestOrdinaryUserIsToldWhatWasNotSeen(t *testing.T) {
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}, Options: kerneltest.Options{ReuseAddr: true}})
	nobody := func(args ...string) *kerneltest.Cmd {
		cmd := command(t, ns, args...)
		asNobody(t, cmd)
		return cmd
	}

	judged := reportOf(t, run(t, nobody("--json", "4840")), ExitBlocked)
	const there = "1 socket in TIME_WAIT"
	wantAnswer(t, "without", &judged.Ports[0].Binds[0].Without, answer{report.Blocked, report.UntilTime, there})
	with := &judged.Ports[0].Binds[0].With
	wantAnswer(t, "with", with, answer{report.Unknown, report.UntilUnknown, there})
	if with.BlockedSeconds != nil || with.AtMostSeconds == nil {
		t.Errorf("blocked for %v s, at most %v; want unknown, and a bound", with.BlockedSeconds, with.AtMostSeconds)
	}
	want := []string{
		"SO_REUSEADDR of sockets that do not listen, TIME_WAIT too: needs CAP_BPF",
		"SO_REUSEADDR of listeners: needs CAP_SYS_PTRACE for the listeners of other users' processes",
		"SO_REUSEADDR of listeners: needs CAP_DAC_READ_SEARCH to list other users' descriptors",
	}
	if hidesBound() {
		want = append(want, "sockets that are bound and do not listen: Linux shows them from 6.8 on")
	}
	if strings.Join(judged.Unseen, "\n") != strings.Join(want, "\n") {
		t.Errorf("unseen %q, want %q", judged.Unseen, want)
	}
	reportOf(t, run(t, nobody("--json", "--reuseaddr", "4840")), ExitError)
	reportOf(t, run(t, nobody("--json", "--reuseaddr", "4841")), ExitFree)
}

func TestOrdinaryUserIsToldWhoseOwnersWereNotSeen(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, at(lo4), kerneltest.Options{})
	cmd := command(t, ns, "--json", "4840")
	asNobody(t, cmd)
	judged := reportOf(t, run(t, cmd), ExitBlocked)
	if of := judged.Ports[0].Listeners[0].Owner; of != nil {
		t.Errorf("owner %v, want none", of)
	}
	wantAdvice(t, judged, fmt.Sprintf("a process of uid %d listens on 127.0.0.1:4840. Not all processes could be looked into; `ss -Htlnp 'sport = :4840'`, as root on the host, may name it.", os.Geteuid()))
	for _, want := range []string{
		"socket owners: needs CAP_SYS_PTRACE for the sockets of other users' processes",
		"socket owners: needs CAP_DAC_READ_SEARCH to list other users' descriptors, and for the cgroup of a process that ended",
	} {
		if !slices.Contains(judged.Unseen, want) {
			t.Errorf("unseen %q, want %q among it", judged.Unseen, want)
		}
	}
}

func TestBadCommandLineExitsWith2AndSaysWhatWouldBeRight(t *testing.T) {
	ns := kerneltest.New(t)
	for _, tt := range []struct{ args, want string }{
		{"", `no port given, want one or more, such as 4840 (try --help)`},
		{"--json", `no port given, want one or more, such as 4840 (try --help)`},
		{"0", `"0": port "0" is out of range, want 1 to 65535 (try --help)`},
		{"65536", `"65536": port "65536" is out of range, want 1 to 65535 (try --help)`},
		{"4840 80-70", `"80-70": range "80-70" is reversed, want "70-80" (try --help)`},
		{"0-80", `"0-80": range "0-80": port "0" is out of range, want 1 to 65535 (try --help)`},
		{"80- 4840", `"80-": range "80-": port "" is not a number, want 1 to 65535 (try --help)`},
		{"1-2-3", `"1-2-3": want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"80,443", `"80,443": want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{":8080", `":8080": want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"*:8080", `"*:8080": "*" is not an IP address, and names are not looked up; want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"localhost", `"localhost": no TCP or UDP service of that name in /etc/services; want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"localhost:80", `"localhost:80": "localhost" is not an IP address, and names are not looked up; want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"127.0.0.1", `"127.0.0.1": an address without a port, want 127.0.0.1:8080, or --address=127.0.0.1 and a port (try --help)`},
		{"::1", `"::1": an address without a port, want [::1]:8080, or --address=::1 and a port (try --help)`},
		{"[::1]", `"[::1]": want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"[127.0.0.1]:80", `"[127.0.0.1]:80": want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"127.0.0.1:", `"127.0.0.1:": want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"127.0.0.1:0", `"127.0.0.1:0": port "0" is out of range, want 1 to 65535 (try --help)`},
		{"192.0.2.1:80", "\"192.0.2.1:80\": not an address of this host, so bind() answers EADDRNOTAVAIL; `ip address` lists those that are (try --help)"},
		{"[fe80::1]:80", `"[fe80::1]:80": a link-local address needs its interface, such as fe80::1%eth0 (try --help)`},
		{"53/sctp", `"53/sctp": want /tcp or /udp behind the port; want a port (4840), a range (8000-8010), a service (http), or an address with a port (127.0.0.1:8080, [::1]:8080), each with or without a protocol (53/udp), or the path of a Unix socket (/run/app.sock, ./app.sock, @abstract) (try --help)`},
		{"--wait 30s", `"30s": to wait for so long, write --wait=30s (try --help)`},
		{"--wait=30 80", `--wait=30: want a duration such as 30s or 2m, or --wait alone (try --help)`},
		{"--wait=-1s 80", `--wait=-1s: want a duration such as 30s or 2m, or --wait alone (try --help)`},
		{"--address=localhost 80", "--address=localhost: want an IP address without port or name, such as :: or 127.0.0.1 (try --help)"},
		{"--address=192.0.2.1 80", "--address=192.0.2.1: not an address of this host, so bind() answers EADDRNOTAVAIL; `ip address` lists those that are (try --help)"},
		{"--address=fe80::1 80", "--address=fe80::1: a link-local address needs its interface, such as fe80::1%eth0 (try --help)"},
		{"--address=fe80::1%nope 80", `--address=fe80::1%nope: no interface "nope" on this host (try --help)`},
		{"--address=::1%lo 80", "--address=::1%lo: only a link-local address has an interface, want ::1 (try --help)"},
		{"--netns=nope 80", "--netns=nope: no network namespace of that name in /run/netns (`ip netns` lists them), and no such pod (NAMESPACE/POD) or container that this user may look at (try --help)"},
		{"--netns=/proc/self/status 80", "--netns=/proc/self/status: /proc/self/status is not a network namespace (try --help)"},
		{"--netns=/nope/nope 80", "--netns=/nope/nope: open network namespace: open /nope/nope: no such file or directory (try --help)"},
		{"--nonsense 80", "unknown long flag '--nonsense' (try --help)"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			var code int
			ns.Do(t, func() { code = Run(t.Context(), strings.Fields(tt.args), &stdout, &stderr) })
			if want := "sockstate_exporter check: error: " + tt.want + "\n"; code != ExitError || stderr.String() != want {
				t.Errorf("exit status %d, error\n%swant %d,\n%s", code, stderr.String(), ExitError, want)
			}
			if stdout.Len() > 0 {
				t.Errorf("wrote %q to standard output, want nothing", stdout.String())
			}
		})
	}
}

func TestHelpExitsWith0(t *testing.T) {
	var stdout bytes.Buffer
	if code := Run(t.Context(), []string{"--help"}, &stdout, io.Discard); code != 0 || !strings.Contains(stdout.String(), "Exit status:") {
		t.Errorf("exit status %d, help\n%s", code, stdout.String())
	}
}

func TestNoAnswerFromTheKernelExitsWith2(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("interrupted"))
	var stdout, stderr bytes.Buffer
	code := Run(ctx, []string{"4840"}, &stdout, &stderr)
	if want := "sockstate_exporter check: error: look at the sockets: interrupted\n"; code != ExitError || stderr.String() != want || stdout.Len() > 0 {
		t.Errorf("exit status %d, wrote %q, error %q; want %d, nothing, %q", code, stdout.String(), stderr.String(), ExitError, want)
	}
}

func TestReportThatCannotBeWrittenExitsWith2(t *testing.T) {
	ns := kerneltest.New(t)
	cmd := command(t, ns, "4840")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = full, &stderr
	_ = cmd.Run()
	const want = "sockstate_exporter check: error: write report: write /dev/stdout: no space left on device\n"
	if code := cmd.ProcessState.ExitCode(); code != ExitError || stderr.String() != want {
		t.Errorf("exit status %d, error %q; want %d, %q", code, stderr.String(), ExitError, want)
	}
}

func TestColourIsForTerminals(t *testing.T) {
	ns := kerneltest.New(t)
	for _, tt := range []struct {
		name     string
		terminal bool
		env      string
		want     bool
	}{
		{"terminal", true, "TERM=xterm", true},
		{"terminal and NO_COLOR", true, "NO_COLOR=1", false},
		{"dumb terminal", true, "TERM=dumb", false},
		{"pipe", false, "TERM=xterm", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := command(t, ns, "4840")
			cmd.Env = append(cmd.Env, "NO_COLOR=", "TERM=xterm", tt.env)
			var text string
			if tt.terminal {
				text = onTerminal(t, cmd)
			} else {
				text = run(t, cmd).stdout
			}
			if !strings.Contains(text, "free") || strings.Contains(text, "\x1b[") != tt.want {
				t.Errorf("wrote %q, want colours: %v", text, tt.want)
			}
		})
	}
}

// onTerminal runs the command on a terminal of its own and returns what it wrote.
func onTerminal(t *testing.T, cmd *kerneltest.Cmd) string {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		kerneltest.Skip(t, "needs a terminal: %v", err)
	}
	defer terminal.Close()
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		kerneltest.Skip(t, "needs a terminal: %v", err)
	}
	cmd.Stdout, cmd.Stderr = side, side
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	side.Close()
	// The report is far smaller than a terminal's buffer; a read after the last close is EIO.
	text, _ := io.ReadAll(terminal)
	return string(text)
}
