package exporter

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/test/launch"
)

func TestMain(m *testing.M) {
	reexec.Play(roles())
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

const address = launch.Address

// An exporter is a running process in a namespace.
type exporter struct{ *launch.Exporter }

// command prepares the exporter, listening on loopback.
func command(t *testing.T, ns *kerneltest.NetNS, args ...string) *exporter {
	t.Helper()
	e := &exporter{launch.New(t, ns, args...)}
	e.Binary = launch.Checked(t)
	return e
}

// start starts the exporter and waits until it is ready.
func start(t *testing.T, ns *kerneltest.NetNS, args ...string) *exporter {
	t.Helper()
	e := command(t, ns, args...)
	e.Run(t)
	return e
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	have := strings.Split(text, "\n")
	for _, line := range lines {
		if !slices.Contains(have, line) {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("no line %q; of that name:\n%s", line, strings.Join(grep(have, name), "\n"))
		}
	}
}

func grep(lines []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, prefix) })
}

// withoutPrivileges switches off what takes the kernel a while to set up.
func withoutPrivileges(args ...string) []string {
	return append(args, "--no-collector.bind", "--no-collector.reuse")
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func TestServesStatesAndListeners(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, loopback(4840), kerneltest.Options{Backlog: 5})
	l.Peers(t, kerneltest.StateEstablished, 3, loopback(0).Addr())
	l.Peers(t, kerneltest.StateCloseWait, 2, loopback(0).Addr())
	timewait.MustMake(t, ns, timewait.Options{Count: 20, Listeners: []*kerneltest.Listener{l}})
	e := start(t, ns, "--no-collector.owner")

	wantLines(t, e.Get(t, "/metrics"),
		`sockstate_tcp_sockets{family="ipv4",port="4840",state="established"} 3`,
		`sockstate_tcp_sockets{family="ipv4",port="4840",state="close_wait"} 2`,
		`sockstate_tcp_sockets{family="ipv4",port="4840",state="time_wait"} 20`,
		`sockstate_tcp_sockets{family="ipv4",port="4840",state="listen"} 1`,
		`sockstate_tcp_listener_info{address="127.0.0.1",family="ipv4",port="4840"} 1`,
		`sockstate_tcp_listener_accept_queue_limit{address="127.0.0.1",family="ipv4",port="4840"} 5`,
		`sockstate_netns_time_wait_sockets 20`,
		`sockstate_watched_port_info{port="4840",protocol="tcp",source="listener"} 1`,
		`sockstate_feature_available{feature="sock_diag"} 1`,
		`sockstate_scrape_collector_success{collector="tcp"} 1`,
		`sockstate_scrape_collector_success{collector="listener"} 1`,
		`sockstate_scrape_collector_success{collector="stack"} 1`,
		`sockstate_scrape_collector_success{collector="watch"} 1`,
	)
}

func TestServesPages(t *testing.T) {
	e := start(t, kerneltest.New(t), withoutPrivileges()...)
	landing := e.Get(t, "/")
	for path, holds := range map[string]string{
		"/metrics":  "sockstate_watched_ports 1\n",
		"/ports":    `<span class="port">10048</span>`,
		"/failures": "Whether binds have failed is not known",
	} {
		if !strings.Contains(landing, `href="`+path[1:]+`"`) {
			t.Errorf("landing page does not link %s:\n%s", path, landing)
		}
		if body := e.Get(t, path); !strings.Contains(body, holds) {
			t.Errorf("%s has no %q:\n%s", path, holds, body)
		}
	}
	e.Get(t, "/-/healthy")
	if status, _, err := e.TryGet("/nothing"); status != http.StatusNotFound {
		t.Errorf("GET /nothing: status %d, %v, want 404", status, err)
	}
	for _, path := range []string{"/metrics", "/ports", "/failures"} {
		resp, err := e.Client.Post("http://"+address+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d, want 405", path, resp.StatusCode)
		}
		if resp, err = e.Client.Head("http://" + address + path); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("HEAD %s: status %d, want 200", path, resp.StatusCode)
		}
	}
}

func TestLandingPageSaysWhatWorksHere(t *testing.T) {
	e := start(t, kerneltest.New(t))
	landing := e.Get(t, "/")
	for _, feature := range []string{"bind_tracing", "reuse_flags"} {
		f := featureOf(t, e, feature)
		want := "<li>" + feature + ": not available (" + f.reason + ")</li>"
		if f.works {
			want = "<li>" + feature + ": works (" + f.mode + ")</li>"
		}
		if !strings.Contains(landing, want) {
			t.Errorf("no %s in\n%s", want, landing)
		}
	}
}

// sampleValue matches what may differ between two scrapes.
var sampleValue = regexp.MustCompile(` [^ ]+$`)

func series(t *testing.T, e *exporter) []string {
	t.Helper()
	e.Run(t)
	var out []string
	for _, line := range strings.Split(e.Get(t, "/metrics"), "\n") {
		if strings.HasPrefix(line, "sockstate_") {
			out = append(out, sampleValue.ReplaceAllString(line, ""))
		}
	}
	e.Stop()
	return out
}

func TestOrdinaryUserGetsEverySeriesThatNeedsNoPrivilege(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(4840), kerneltest.Options{})

	root := series(t, command(t, ns, "--watch.exclude=10048"))
	nobody := command(t, ns, "--watch.exclude=10048")
	nobody.Cmd.Dir = "/"
	nobody.Cmd.As(65534, 65534)
	ordinary := series(t, nobody)
	// Of these families nothing, or how they work, depends on privileges.
	privileged := regexp.MustCompile(`^sockstate_(bind_|listen_|connect_|tcp_listener_reuse|tcp_listener_info|tcp_restart_info|unix_bind_|vsock_|feature_available|exposition_series)|collector="(bind|connect|unix)"`)
	root = slices.DeleteFunc(root, privileged.MatchString)
	ordinary = slices.DeleteFunc(ordinary, privileged.MatchString)
	if len(root) < 35 || !slices.Equal(root, ordinary) {
		t.Errorf("root gets %d series, an ordinary user %d:\n%s", len(root), len(ordinary), strings.Join(ordinary, "\n"))
	}
}

func TestExplicitPortsAreThereBeforeAnySocket(t *testing.T) {
	e := start(t, kerneltest.New(t), withoutPrivileges("--no-watch.listeners", "--watch.port=4840:opcua", "--watch.port=8000-8001")...)
	metrics := e.Get(t, "/metrics")
	wantLines(t, metrics,
		`sockstate_tcp_sockets{family="ipv4",port="4840",state="time_wait"} 0`,
		`sockstate_tcp_sockets{family="ipv6",port="8001",state="established"} 0`,
		`sockstate_watched_port_info{name="opcua",port="4840",protocol="tcp",source="flag"} 1`,
		`sockstate_watched_ports 3`,
	)
	if strings.Contains(metrics, `port="10048"`) {
		t.Error("watches its own listener despite --no-watch.listeners")
	}
}

func TestPortsBeyondTheBudgetAreCountedAndLoggedOnce(t *testing.T) {
	e := start(t, kerneltest.New(t), withoutPrivileges("--watch.port=1-5", "--watch.max-ports=3")...)
	e.Get(t, "/metrics")
	wantLines(t, e.Get(t, "/metrics"), `sockstate_watched_ports 3`, `sockstate_watched_ports_limit 3`, `sockstate_watched_ports_dropped 3`)
	if n := strings.Count(e.Log.String(), "--watch.max-ports"); n != 1 {
		t.Errorf("%d log lines about the budget, want 1:\n%s", n, e.Log)
	}
}

func TestCollectorSwitchedOffIsAbsent(t *testing.T) {
	e := start(t, kerneltest.New(t), "--no-collector.tcp", "--no-collector.stack", "--no-collector.listener", "--no-collector.reuse", "--no-collector.restart", "--no-collector.bind", "--no-collector.udp", "--no-collector.ephemeral")
	metrics := e.Get(t, "/metrics")
	for _, absent := range []string{
		"sockstate_tcp_", "sockstate_netns_time", "sockstate_netns_listen", "sockstate_netns_ephemeral", "sockstate_bind_", "sockstate_listen_", "sockstate_udp_", "bind_tracing", "reuse_flags",
		`collector="tcp"`, `collector="stack"`, `collector="listener"`, `collector="reuse"`, `collector="restart"`, `collector="bind"`, `collector="udp"`, `collector="remote"`, `collector="ephemeral"`,
	} {
		if strings.Contains(metrics, absent) {
			t.Errorf("serves %s", absent)
		}
	}
	wantLines(t, metrics, `sockstate_watched_ports 1`)
}

func TestCheckIsACommandWithItsExitStatus(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(4840), kerneltest.Options{})
	for port, want := range map[string]int{"4841": 0, "4840": 1, "0": 2} {
		e := command(t, ns)
		e.Cmd.Args = []string{"sockstate_exporter", "check", port}
		if got := e.Wait(t); got != want {
			t.Errorf("check %s: exit status %d, want %d\n%s", port, got, want, e.Log)
		}
	}
}

// As in an init container made from scratch: a root directory with nothing else in it, pids of its own,
// and no privileges.
func TestCheckWaitsInASandbox(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, loopback(4840), kerneltest.Options{})
	root := t.TempDir()
	launch.Copy(t, filepath.Join(root, "sockstate_exporter"))
	cmd := ns.Command(t, "/sockstate_exporter", "check", "--wait", "4840").As(65534, 65534)
	cmd.SysProcAttr.Chroot, cmd.SysProcAttr.Cloneflags, cmd.Dir = root, unix.CLONE_NEWPID, "/"
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stderr)
	if first, err := said.ReadString('\n'); err != nil || first != "waiting: 4840: in use by a socket of uid 0\n" {
		t.Errorf("said %q, %v, want what it waits for", first, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(said)
	if err := errors.Join(err, cmd.Wait()); err != nil || len(rest) > 0 || !strings.HasPrefix(stdout.String(), "4840: free\n") {
		t.Errorf("%v; then said %q and wrote %q, want that it is free", err, rest, stdout.String())
	}
}

func TestAddressInUseEndsWithWhomToAsk(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, netip.MustParseAddrPort(address), kerneltest.Options{})
	e := command(t, ns, withoutPrivileges()...)
	if status := e.Wait(t); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	want := "sockstate_exporter: error: listen tcp 127.0.0.1:10048: bind: address already in use: `ss -tanp 'sport = :10048'` shows what holds it; --web.listen-address takes another\n"
	if !strings.HasSuffix(e.Log.String(), want) {
		t.Errorf("said\n%s\nwant at its end\n%s", e.Log, want)
	}
}

func TestSignalsEndItWithZero(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			e := start(t, kerneltest.New(t))
			if err := e.Cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := e.Cmd.Wait(); err != nil {
				t.Errorf("ended with %v, want 0\n%s", err, e.Log)
			}
			if strings.Contains(e.Log.String(), "level=ERROR") {
				t.Errorf("said\n%s", e.Log)
			}
		})
	}
}

func TestServesOnASystemdSocket(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.MustParseAddrPort(address), kerneltest.Options{Backlog: 16})
	e := command(t, ns)
	e.Cmd.Path = kerneltest.RequireCommand(t, "sh")
	e.Cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --web.systemd-socket --no-collector.bind --no-collector.reuse`, launch.Path}
	file := os.NewFile(uintptr(dup(t, l.FD())), "socket")
	defer file.Close()
	e.Cmd.ExtraFiles = []*os.File{file}
	e.Run(t)
	wantLines(t, e.Get(t, "/metrics"), `sockstate_watched_ports 1`)
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
