package check

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/check/args"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/words"
)

// answers runs the command twice, for people and for programs, and wants the same exit status.
func answers(t *testing.T, ns *kerneltest.NetNS, code int, args ...string) (first string, p *report.PortReport) {
	t.Helper()
	r := run(t, command(t, ns, args...))
	if r.code != code || r.stderr != "" {
		t.Errorf("%v: exit status %d, error %q, want %d\n%s", args, r.code, r.stderr, code, r.stdout)
	}
	first, _, _ = strings.Cut(r.stdout, "\n")
	return first, &check(t, ns, code, args...).Ports[0]
}

// whoIs is how the first line calls a process of these tests.
func whoIs(o *report.Owner) string {
	if place := o.Place(); place != "" {
		return fmt.Sprintf("%s (%s)", words.Name(o.Process), place)
	}
	return o.String()
}

func TestListenerThatCouldRestart(t *testing.T) {
	ns := kerneltest.New(t)
	startServer(t, ns, "opcua-server") // without SO_REUSEADDR, on 127.0.0.1
	ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4841"), kerneltest.Options{})
	first, p := answers(t, ns, ExitBlocked, "4841")
	if want := "4841: in use by " + whoIs(p.Listeners[0].Owner) + "; a restart would work"; first != want {
		t.Errorf("first line %q, want %q", first, want)
	}
	if !p.InUse || p.Restart == nil || *p.Restart != report.Free || p.Outcome != report.Blocked {
		t.Errorf("in use %v, restart %v, outcome %s; want true, free, blocked", p.InUse, p.Restart, p.Outcome)
	}
	first, p = answers(t, ns, ExitFree, "--restart", "4841")
	if !strings.HasSuffix(first, "; a restart would work") || p.Outcome != report.Free {
		t.Errorf("first line %q, outcome %s, want that a restart would work", first, p.Outcome)
	}
}

func TestListenerThatCouldNotRestart(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(any4), kerneltest.Options{})
	timewait.MustMake(t, ns, timewait.Options{Count: 2, Listeners: []*kerneltest.Listener{l}, Client: lo4})
	for _, args := range [][]string{{"4840"}, {"--restart", "4840"}, {"--restart", "--reuseaddr", "4840"}} {
		first, p := answers(t, ns, ExitBlocked, args...)
		if want := "; a restart would fail: 2 sockets in TIME_WAIT without SO_REUSEADDR, for "; !strings.Contains(first, want) {
			t.Errorf("%v: first line %q, want %q in it", args, first, want)
		}
		if p.Restart == nil || *p.Restart != report.Blocked {
			t.Errorf("%v: restart %v, want blocked", args, p.Restart)
		}
	}
}

func TestRestartOfNothingIsANewBind(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}, Options: kerneltest.Options{ReuseAddr: true}})
	for _, tt := range []struct {
		args string
		code int
	}{{"--restart 4840", ExitBlocked}, {"--restart --reuseaddr 4840", ExitFree}, {"--restart 4841", ExitFree}} {
		if _, p := answers(t, ns, tt.code, strings.Fields(tt.args)...); p.InUse || p.Restart != nil {
			t.Errorf("%s: in use %v, restart %v, want no listener", tt.args, p.InUse, p.Restart)
		}
	}
}

func TestRestartIsAskedOnlyWhereSomethingListens(t *testing.T) {
	ns := kerneltest.New(t)
	ns.AddDummy(t, "d0", netip.MustParsePrefix("192.0.2.7/24"))
	ns.Listen(t, at(netip.MustParseAddr("192.0.2.7")), kerneltest.Options{})
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}})
	for _, tt := range []struct {
		args  string
		code  int
		inUse bool
	}{
		{"--restart 192.0.2.7:4840", ExitFree, true},
		{"192.0.2.7:4840", ExitBlocked, true},
		{"--restart 127.0.0.1:4840", ExitBlocked, false},
		{"127.0.0.2:4840", ExitFree, false},
		{"--restart 192.0.2.7:4840 127.0.0.1:4840", ExitBlocked, true},
		{"--restart 192.0.2.7:4840 127.0.0.2:4840", ExitFree, true},
		{"[::1]:4840", ExitFree, false},
		{"--address=127.0.0.2 4840", ExitFree, false},
		{"--address=127.0.0.2 192.0.2.7:4840", ExitBlocked, true},
		{"127.0.0.2:4840 4840", ExitBlocked, true},
	} {
		if _, p := answers(t, ns, tt.code, strings.Fields(tt.args)...); p.InUse != tt.inUse {
			t.Errorf("%s: in use %v, want %v", tt.args, p.InUse, tt.inUse)
		}
	}
}

func TestRestartThatCannotBeKnownExitsWith2(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, at(any4), kerneltest.Options{ReuseAddr: true})
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Listeners: []*kerneltest.Listener{l}, Client: lo4})
	cmd := command(t, ns, "--restart", "4840")
	asNobody(t, cmd)
	r := run(t, cmd)
	want := "4840: in use by a socket of uid 0; whether a restart would work is unknown: it depends on flags of 1 socket in TIME_WAIT, gone in "
	if r.code != ExitError || !strings.HasPrefix(r.stdout, want) || r.stderr != "" {
		t.Errorf("exit status %d, want %d and %q\n%s%s", r.code, ExitError, want, r.stdout, r.stderr)
	}
}

func TestOrdinaryUserIsToldInOneLineWhatWasNotSeen(t *testing.T) {
	ns := kerneltest.New(t)
	for p := range uint16(3) {
		ns.Listen(t, netip.AddrPortFrom(lo4, port+p), kerneltest.Options{})
	}
	for args, want := range map[string]int{"4840 4841-4842": 1, "4843": 0} {
		cmd := command(t, ns, strings.Fields(args)...)
		asNobody(t, cmd)
		text := run(t, cmd).stdout
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if n := strings.Count(text, "not seen"); n != want && !hidesBound() || n > 0 && !strings.HasPrefix(lines[len(lines)-1], "not seen: ") {
			t.Errorf("check %s: said %d times what was not seen, want %d, as the last line:\n%s", args, n, want, text)
		}
	}
}

func TestServerWithReusePortBindsBesideItsOwnUsersServer(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	ns.Listen(t, at(any4), kerneltest.Options{ReusePort: true})
	ns.Listen(t, netip.MustParseAddrPort("0.0.0.0:4841"), kerneltest.Options{})
	first, _ := answers(t, ns, ExitFree, "--reuseport", "4840")
	if !strings.HasSuffix(first, "; another socket with SO_REUSEPORT: free") {
		t.Errorf("first line %q", first)
	}
	answers(t, ns, ExitBlocked, "--reuseport", "4841")
	answers(t, ns, ExitBlocked, "4840")
	s, err := ns.OpenBound(at(any4), kerneltest.Options{ReusePort: true})
	if err != nil {
		t.Fatalf("bind beside it: %v", err)
	}
	_ = s.Close()
}

func TestWhatIsNamedAsItWasAskedFor(t *testing.T) {
	ns := kerneltest.New(t)
	for args, want := range map[string]string{
		"4840":                     "4840: free\n",
		"http":                     "80 (http): free\n",
		"HTTP":                     "80 (HTTP): free\n",
		"127.0.0.1:4840":           "127.0.0.1:4840: free\n",
		"127.0.0.1:http":           "127.0.0.1:80 (http): free\n",
		"[::1]:4840":               "[::1]:4840: free\n",
		"[::ffff:127.0.0.1]:4840":  "[::ffff:127.0.0.1]:4840: free\n",
		"0.0.0.0:4840 [::]:4840":   "4840: free\n",
		"4840 127.0.0.1:4840":      "4840: free\n",
		"--address=::1 4840":       "[::1]:4840: free\n",
		"4840-4842":                "4840-4842: 3 of 3 ports are free\n",
		"4841 4840-4842":           "4840-4842: 3 of 3 ports are free\n4841: free\n",
		"127.0.0.1:4840-4841":      "4840-4841: 2 of 2 ports are free\n",
		"4842 4840 4842":           "4840: free\n4842: free\n",
		"1-65535":                  "1-65535: 65535 of 65535 ports are free\n",
		"--wait 4840":              "4840: free\n",
		"--wait=1ms 4840":          "4840: free\n",
		"-- 4840":                  "4840: free\n",
		"--restart --reuseport 80": "80: free\n",
	} {
		r := run(t, command(t, ns, strings.Fields(args)...))
		if r.code != ExitFree || r.stdout != want || r.stderr != "" {
			t.Errorf("check %s: exit status %d, wrote %q and %q, want %q", args, r.code, r.stdout, r.stderr, want)
		}
	}
}

// A service may have another port on this host than elsewhere.
func TestServiceIsThatOfTheHost(t *testing.T) {
	services, err := os.ReadFile("/etc/services")
	if err != nil {
		kerneltest.Skip(t, "needs /etc/services: %v", err)
	}
	known := make(map[string]bool) // the first line with a name counts
	for line := range strings.Lines(string(services)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasSuffix(fields[1], "/tcp") || known[fields[0]] {
			continue
		}
		for _, name := range slices.Delete(fields, 1, 2) {
			known[name] = true
		}
		target, err := args.Parse(fields[0])
		if want := strings.TrimSuffix(strings.Fields(line)[1], "/tcp"); err != nil || strconv.Itoa(int(target.First)) != want || target.First != target.Last {
			t.Errorf("service %s: %v, %v, want port %s", fields[0], target.PortRange, err, want)
		}
	}
}

// Nothing is in the way, but a server with the privileges of the user who asks fails all the same.
func TestFreePortThatNeedsAPrivilege(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_unprivileged_port_start", "4841")
	const want = "; a server with the privileges of this command fails with EACCES: port 4840 is below net.ipv4.ip_unprivileged_port_start (4841)"
	for _, args := range []string{"4840", "4841"} {
		cmd := command(t, ns, args)
		asNobody(t, cmd)
		r := run(t, cmd)
		if r.code != ExitFree || strings.Contains(r.stdout, want) != (args == "4840") {
			t.Errorf("exit status %d, want 0, and %t for %q:\n%s", r.code, args == "4840", want, r.stdout)
		}
	}
	if first, _ := answers(t, ns, ExitFree, "4840"); first != "4840: free" {
		t.Errorf("root is told %q", first)
	}
}

// The command asks whether an address is one of the host's. A bind() that fails would count.
func TestCommandMakesNoBindFail(t *testing.T) {
	kerneltest.RequireRoot(t)
	tracer := opener.OrSkip(t, func() (*bindtrace.Tracer, error) { return bindtrace.New(bindtrace.Options{}) })
	ns := kerneltest.New(t)
	ns.Do(t, func() {
		for _, args := range []string{"--address=192.0.2.1 80", "192.0.2.1:80", "[2001:db8::1]:80", "127.0.0.1:80", "--wait=1ms 80"} {
			Run(t.Context(), strings.Fields(args), io.Discard, io.Discard)
		}
	})
	last := netip.MustParseAddrPort("192.0.2.99:4840")
	if s, err := ns.OpenBound(last, kerneltest.Options{}); err == nil {
		t.Fatalf("bound %v", s.Addr())
	}
	for {
		var e bindtrace.Event
		if err := tracer.Read(time.Now().Add(time.Minute), &e); err != nil {
			t.Fatal(err)
		}
		if e.Netns != uint32(ns.Inode()) {
			continue
		}
		if e.Addr == last.Addr() {
			return
		}
		t.Errorf("bind to %v port %d failed", e.Addr, e.Port)
	}
}
