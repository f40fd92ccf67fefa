package check

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/reporttest"
)

// A waiting is a command that waits.
type waiting struct {
	cmd    *kerneltest.Cmd
	said   *bufio.Reader // its standard error
	stdout bytes.Buffer
}

// startWaiting starts the command, and returns when it has said what it waits for.
func startWaiting(t *testing.T, ns *kerneltest.NetNS, args ...string) (w *waiting, first string) {
	t.Helper()
	w = &waiting{cmd: command(t, ns, args...)}
	w.cmd.Stdout = &w.stdout
	stderr, err := w.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.said = bufio.NewReader(stderr)
	first, err = w.said.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return w, first
}

// end waits for the end of the command, and returns what it said since.
func (w *waiting) end(t *testing.T) (code int, said string) {
	t.Helper()
	rest, err := io.ReadAll(w.said)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := w.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return w.cmd.ProcessState.ExitCode(), string(rest)
}

func TestWaitsUntilTheListenerIsClosed(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(any4), kerneltest.Options{})
	w, first := startWaiting(t, ns, "--wait", "4840")
	if !strings.HasPrefix(first, "waiting: 4840: in use by ") || strings.Contains(first, "restart") {
		t.Errorf("said %q, want who listens", first)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if code, said := w.end(t); code != ExitFree || said != "" || w.stdout.String() != "4840: free\n" {
		t.Errorf("exit status %d, then said %q and wrote %q; want %d, nothing, and that the port is free", code, said, w.stdout.String(), ExitFree)
	}
}

// An orphan in FIN_WAIT2 has the timer of TIME_WAIT, and its length can be set.
func TestWaitsUntilTheKernelsTimerEnds(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_fin_timeout", "6")
	l := ns.Listen(t, at(any4), kerneltest.Options{})
	for _, p := range l.Peers(t, kerneltest.StateFinWait2, 3, lo4) {
		if err := p.Local.Orphan(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w, first := startWaiting(t, ns, "--wait=10m", "--json", "4840")
	if !strings.HasPrefix(first, "waiting: 4840: blocked by 3 sockets in FIN_WAIT2") {
		t.Errorf("said %q, want what blocks", first)
	}
	code, said := w.end(t)
	s, err := ns.OpenBound(at(any4), kerneltest.Options{})
	if err != nil {
		t.Errorf("bind after it has ended: %v", err)
	} else {
		_ = s.Close()
	}
	if code != ExitFree || said != "" || !strings.Contains(w.stdout.String(), `"outcome": "free"`) {
		t.Errorf("exit status %d, then said %q, want %d and nothing; wrote\n%s", code, said, ExitFree, w.stdout.String())
	}
}

func TestWaitsForARestart(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(lo4), kerneltest.Options{})
	peers := l.Peers(t, kerneltest.StateEstablished, 1, lo4)
	w, first := startWaiting(t, ns, "--wait", "--restart", "4840")
	if !strings.Contains(first, "; a restart would fail: 1 connection of the server is open (1 ESTABLISHED, peer 127.0.0.1:") {
		t.Errorf("said %q, want what blocks a restart", first)
	}
	for _, p := range peers {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if code, _ := w.end(t); code != ExitFree || !strings.HasSuffix(strings.SplitN(w.stdout.String(), "\n", 2)[0], "; a restart would work") {
		t.Errorf("exit status %d, want %d\n%s", code, ExitFree, w.stdout.String())
	}
}

func TestWaitThatIsOverExitsWith1(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, at(any4), kerneltest.Options{})
	for _, limit := range []string{"--wait=0s", "--wait=1500ms"} {
		r := run(t, command(t, ns, limit, "4840", "4841"))
		if r.code != ExitBlocked || !strings.HasPrefix(r.stdout, "4840: in use by ") || strings.Count(r.stderr, "\n") > 1 {
			t.Errorf("%s: exit status %d, want %d, the report, and a line at most on standard error\n%s%s", limit, r.code, ExitBlocked, r.stdout, r.stderr)
		}
	}
}

// An answer that cannot be known does not become known by waiting.
func TestWaitEndsAtOnceIfTheAnswerCannotBeKnown(t *testing.T) {
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}, Options: kerneltest.Options{ReuseAddr: true}})
	cmd := command(t, ns, "--wait", "--reuseaddr", "4840")
	asNobody(t, cmd)
	r := run(t, cmd)
	if r.code != ExitError || !strings.HasPrefix(r.stdout, "4840: unknown: ") || r.stderr != "" {
		t.Errorf("exit status %d, want %d and that it is unknown\n%s%s", r.code, ExitError, r.stdout, r.stderr)
	}
}

func TestSignalEndsAWaitAtOnce(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, at(any4), kerneltest.Options{})
	for signal, want := range map[syscall.Signal]string{
		syscall.SIGTERM: "sockstate_exporter check: error: stopped while it waited: terminated signal received\n",
		syscall.SIGINT:  "sockstate_exporter check: error: stopped while it waited: interrupt signal received\n",
	} {
		w, _ := startWaiting(t, ns, "--wait", "4840")
		if err := w.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if code, said := w.end(t); code != ExitError || said != want || w.stdout.Len() > 0 {
			t.Errorf("%v: exit status %d, said %q, wrote %q; want %d, %q, nothing", signal, code, said, w.stdout.String(), ExitError, want)
		}
	}
}

func TestNumbersAndSecondsAreNothingNewToSay(t *testing.T) {
	w := &waiter{opts: new(options)}
	reason := func(sockets ...bindrule.Socket) string {
		r, err := report.New(reporttest.SnapshotOf(sockets), report.Query{})
		if err != nil {
			t.Fatal(err)
		}
		return w.reasonOf(&judgement{ports: r})
	}
	before := reason(reporttest.TimeWait(lo4, 5, bindrule.No, left))
	if after := reason(reporttest.TimeWait(lo4, 4, bindrule.No, left/2)); before == "" || after != before {
		t.Errorf("reason %q, then %q, want the same", before, after)
	}
	if other := reason(reporttest.TimeWait(lo4, 4, bindrule.Yes, left/2)); other == before {
		t.Errorf("reason %q for other sockets, too", other)
	}
	if other := reason(reporttest.Listener(netip.IPv4Unspecified(), false, bindrule.No)); other == before {
		t.Errorf("reason %q for a listener, too", other)
	}
}
