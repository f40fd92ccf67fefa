package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sockstate_exporter/internal/cli"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sources"
)

// asExporter makes the test binary be the exporter, so that tests run it as a process.
const asExporter = "SOCKSTATE_TEST_AS_EXPORTER"

func TestMain(m *testing.M) {
	if os.Getenv(asExporter) != "" {
		main()
		os.Exit(0)
	}
	if role := os.Getenv(roleEnv); role != "" {
		if err := roles()[role](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if kerneltest.PrivateMounts() {
		if err := kerneltest.MountTracefs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	kerneltest.Main(m)
}

const address = "127.0.0.1:10048"

// An exporter is a running process in a namespace.
type exporter struct {
	cmd    *kerneltest.Cmd
	log    *kerneltest.Log
	client *http.Client
}

// command prepares the exporter, listening on loopback.
func command(t *testing.T, ns *kerneltest.NetNS, args ...string) *exporter {
	t.Helper()
	e := &exporter{log: new(kerneltest.Log), client: &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: ns.DialContext}}}
	t.Cleanup(e.client.CloseIdleConnections)
	// Other users may not reach the test binary by its path.
	e.cmd = ns.Command(t, "/proc/self/exe", append([]string{"--web.listen-address=" + address}, args...)...)
	e.cmd.Env = append(os.Environ(), asExporter+"=1")
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	return e
}

// start starts the exporter and waits until it is ready.
func start(t *testing.T, ns *kerneltest.NetNS, args ...string) *exporter {
	t.Helper()
	e := command(t, ns, args...)
	e.run(t)
	return e
}

func (e *exporter) run(t *testing.T) {
	t.Helper()
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		status, _, err := e.tryGet("/-/ready")
		if err == nil && status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: status %d, %v\n%s", status, err, e.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (e *exporter) tryGet(path string) (int, string, error) {
	resp, err := e.client.Get("http://" + address + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (e *exporter) get(t *testing.T, path string) string {
	t.Helper()
	status, body, err := e.tryGet(path)
	if err != nil || status != http.StatusOK {
		t.Fatalf("GET %s: status %d, %v\n%s%s", path, status, err, body, e.log)
	}
	return body
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

	wantLines(t, e.get(t, "/metrics"),
		`sockstate_tcp_sockets{family="ipv4",netns="",port="4840",state="established"} 3`,
		`sockstate_tcp_sockets{family="ipv4",netns="",port="4840",state="close_wait"} 2`,
		`sockstate_tcp_sockets{family="ipv4",netns="",port="4840",state="time_wait"} 20`,
		`sockstate_tcp_sockets{family="ipv4",netns="",port="4840",state="listen"} 1`,
		`sockstate_tcp_sockets{family="ipv6",netns="",port="4840",state="listen"} 0`,
		`sockstate_tcp_listener_info{address="127.0.0.1",family="ipv4",interface="",netns="",port="4840",process="",unit="",v6only=""} 1`,
		`sockstate_tcp_listener_accept_queue_limit{address="127.0.0.1",family="ipv4",interface="",netns="",port="4840"} 5`,
		`sockstate_netns_time_wait_sockets{netns=""} 20`,
		`sockstate_watched_port_info{name="",netns="",port="4840",protocol="tcp",source="listener"} 1`,
		`sockstate_feature_available{feature="sock_diag",mode="",reason=""} 1`,
		`sockstate_scrape_collector_success{collector="tcp"} 1`,
		`sockstate_scrape_collector_success{collector="listener"} 1`,
		`sockstate_scrape_collector_success{collector="stack"} 1`,
		`sockstate_scrape_collector_success{collector="watch"} 1`,
	)
}

func TestServesPages(t *testing.T) {
	e := start(t, kerneltest.New(t), withoutPrivileges()...)
	landing := e.get(t, "/")
	for path, holds := range map[string]string{
		"/metrics":  "sockstate_watched_ports 1\n",
		"/ports":    `<span class="port">10048</span>`,
		"/failures": "Whether binds have failed is not known",
	} {
		if !strings.Contains(landing, `href="`+path+`"`) {
			t.Errorf("landing page does not link %s:\n%s", path, landing)
		}
		if body := e.get(t, path); !strings.Contains(body, holds) {
			t.Errorf("%s has no %q:\n%s", path, holds, body)
		}
	}
	e.get(t, "/-/healthy")
	if status, _, err := e.tryGet("/nothing"); status != http.StatusNotFound {
		t.Errorf("GET /nothing: status %d, %v, want 404", status, err)
	}
	for _, path := range []string{"/metrics", "/ports", "/failures"} {
		resp, err := e.client.Post("http://"+address+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d, want 405", path, resp.StatusCode)
		}
		if resp, err = e.client.Head("http://" + address + path); err != nil {
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
	landing := e.get(t, "/")
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

func TestScrapesAndPagesShareOneLimit(t *testing.T) {
	opts, err := cli.Parse([]string{"--web.max-requests=1", "--no-collector.bind", "--no-collector.reuse"}, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	src := sources.Open(&opts.Sources, nil, logger)
	defer src.Close()
	h, err := newHandler(opts, src, logger)
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowWriter{entered: make(chan struct{}), release: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(slow, httptest.NewRequest(http.MethodGet, "/ports", nil))
	}()
	<-slow.entered
	for _, path := range []string{"/metrics", "/ports", "/failures"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("GET %s beside a page that is being served: status %d, want 503", path, w.Code)
		}
	}
	close(slow.release)
	<-done
}

// A slowWriter is a client that does not take its answer until it is told to.
type slowWriter struct {
	httptest.ResponseRecorder
	entered, release chan struct{}
}

func (w *slowWriter) Write(p []byte) (int, error) {
	close(w.entered)
	<-w.release
	return len(p), nil
}

// sampleValue matches what may differ between two scrapes.
var sampleValue = regexp.MustCompile(` [^ ]+$`)

func series(t *testing.T, e *exporter) []string {
	t.Helper()
	e.run(t)
	var out []string
	for _, line := range strings.Split(e.get(t, "/metrics"), "\n") {
		if strings.HasPrefix(line, "sockstate_") {
			out = append(out, sampleValue.ReplaceAllString(line, ""))
		}
	}
	e.cmd.Kill()
	return out
}

func TestOrdinaryUserGetsEverySeriesThatNeedsNoPrivilege(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(4840), kerneltest.Options{})

	root := series(t, command(t, ns, "--watch.exclude=10048"))
	nobody := command(t, ns, "--watch.exclude=10048")
	nobody.cmd.Dir = "/"
	nobody.cmd.As(65534, 65534)
	ordinary := series(t, nobody)
	// Of these families nothing, or how they work, depends on privileges.
	privileged := regexp.MustCompile(`^sockstate_(bind_|listen_|connect_|tcp_listener_reuse|tcp_listener_info|tcp_restart_info|feature_available)|collector="(bind|connect)"`)
	root = slices.DeleteFunc(root, privileged.MatchString)
	ordinary = slices.DeleteFunc(ordinary, privileged.MatchString)
	if len(root) < 40 || !slices.Equal(root, ordinary) {
		t.Errorf("root gets %d series, an ordinary user %d:\n%s", len(root), len(ordinary), strings.Join(ordinary, "\n"))
	}
}

func TestExplicitPortsAreThereBeforeAnySocket(t *testing.T) {
	e := start(t, kerneltest.New(t), withoutPrivileges("--no-watch.listeners", "--watch.port=4840:opcua", "--watch.port=8000-8001")...)
	metrics := e.get(t, "/metrics")
	wantLines(t, metrics,
		`sockstate_tcp_sockets{family="ipv4",netns="",port="4840",state="time_wait"} 0`,
		`sockstate_tcp_sockets{family="ipv6",netns="",port="8001",state="listen"} 0`,
		`sockstate_tcp_time_wait_remaining_seconds{family="ipv4",netns="",port="4840"} 0`,
		`sockstate_watched_port_info{name="opcua",netns="",port="4840",protocol="tcp",source="flag"} 1`,
		`sockstate_watched_ports 3`,
	)
	if strings.Contains(metrics, `port="10048"`) {
		t.Error("watches its own listener despite --no-watch.listeners")
	}
}

func TestPortsBeyondTheBudgetAreCountedAndLoggedOnce(t *testing.T) {
	e := start(t, kerneltest.New(t), withoutPrivileges("--watch.port=1-5", "--watch.max-ports=3")...)
	e.get(t, "/metrics")
	wantLines(t, e.get(t, "/metrics"), `sockstate_watched_ports 3`, `sockstate_watched_ports_limit 3`, `sockstate_watched_ports_dropped 3`)
	if n := strings.Count(e.log.String(), "--watch.max-ports"); n != 1 {
		t.Errorf("%d log lines about the budget, want 1:\n%s", n, e.log)
	}
}

func TestCollectorSwitchedOffIsAbsent(t *testing.T) {
	e := start(t, kerneltest.New(t), "--no-collector.tcp", "--no-collector.stack", "--no-collector.listener", "--no-collector.reuse", "--no-collector.restart", "--no-collector.bind", "--no-collector.udp", "--no-collector.ephemeral")
	metrics := e.get(t, "/metrics")
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

func TestBadCommandLineNamesTheFlagAndWhatWouldBeRight(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--watch.port=0", `--watch.port=0: port "0" is out of range, want 1 to 65535 (try --help)`},
		{"--watch.port=65536", `--watch.port=65536: port "65536" is out of range, want 1 to 65535 (try --help)`},
		{"--watch.port=http", `--watch.port=http: port "http" is not a number, want 1 to 65535 (try --help)`},
		{"--watch.port=80-70", `--watch.port=80-70: range "80-70" is reversed, want "70-80" (try --help)`},
		{"--watch.port=80:a\nb", `--watch.port=80:a` + "\n" + `b: name "a\nb" holds '\n', want printable UTF-8 (try --help)`},
		{"--watch.port=80:", `--watch.port=80:: "80:" has an empty name, want 1 to 64 bytes after the colon, or no colon (try --help)`},
		{"--watch.port=80:a --watch.port=80:b", `--watch.port: port 80 has two names, "a" (from "80:a") and "b" (from "80:b"), want one`},
		{"--watch.port=53/icmp", `--watch.port=53/icmp: protocol "icmp" is not known, want tcp or udp (try --help)`},
		{"--watch.remote-port=0", `--watch.remote-port=0: port "0" is out of range, want 1 to 65535 (try --help)`},
		{"--watch.remote-port=1-1000", `--watch.remote-port: 1000 ports, want --watch.max-ports=512 or fewer`},
		{"--netns=a/b", `--netns=a/b: network namespace "a/b": a path must begin with a slash (try --help)`},
		{"--watch.exclude=1-x", `--watch.exclude=1-x: range "1-x": port "x" is not a number, want 1 to 65535 (try --help)`},
		{"--watch.retention=soon", `--watch.retention=soon: want a duration of 0s or more, such as 90s or 10m (try --help)`},
		{"--watch.retention=-1s", `--watch.retention=-1s: want a duration of 0s or more, such as 90s or 10m (try --help)`},
		{"--watch.max-ports=0", `--watch.max-ports=0: want a whole number, 1 or more (try --help)`},
		{"--web.max-requests=-1", `--web.max-requests=-1: want a whole number, 0 or more (try --help)`},
		{"--collector.nonsense", `unknown long flag '--collector.nonsense': the collectors are tcp, listener, reuse, restart, bind, connect, udp, remote, ephemeral, owner and stack`},
		{"--web.config.file=/nonexistent/web.yml", `--web.config.file=/nonexistent/web.yml: open /nonexistent/web.yml: no such file or directory`},
		{"--no-collector.nonsense --watch.port=0", `unknown long flag '--no-collector.nonsense': the collectors are tcp, listener, reuse, restart, bind, connect, udp, remote, ephemeral, owner and stack`},
		{"--no-collector.tcp --watch.port=0", `--watch.port=0: port "0" is out of range, want 1 to 65535 (try --help)`},
		{"4840", `unexpected 4840 (try --help)`},
		{"--nonsense check", `unknown long flag '--nonsense' (try --help)`},
		{"--log.level=debug check --json", `check comes first: sockstate_exporter check [flags] PORT... (try check --help)`},
		{"--log.level=debug check 4840", `check comes first: sockstate_exporter check [flags] PORT... (try check --help)`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			// With an ended context, a command line that is taken returns nil.
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := run(ctx, append(strings.Split(tt.args, " "), "--web.listen-address=127.0.0.1:0"), io.Discard, io.Discard)
			if fmt.Sprint(err) != tt.want {
				t.Errorf("error\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestCheckIsACommandWithItsExitStatus(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(4840), kerneltest.Options{})
	for port, want := range map[string]int{"4841": 0, "4840": 1, "0": 2} {
		e := command(t, ns)
		e.cmd.Args = []string{name, "check", port}
		_ = e.cmd.Run()
		if got := e.cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("check %s: exit status %d, want %d\n%s", port, got, want, e.log)
		}
	}
}

func TestAddressInUseEndsWithWhomToAsk(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, netip.MustParseAddrPort(address), kerneltest.Options{})
	e := command(t, ns, withoutPrivileges()...)
	err := e.cmd.Run()
	if e.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("ended with %v, want exit status 1", err)
	}
	want := "sockstate_exporter: error: listen tcp 127.0.0.1:10048: bind: address already in use: `ss -tanp 'sport = :10048'` shows what holds it; --web.listen-address takes another\n"
	if !strings.HasSuffix(e.log.String(), want) {
		t.Errorf("said\n%s\nwant at its end\n%s", e.log, want)
	}
}

func TestSignalsEndItWithZero(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			e := start(t, kerneltest.New(t))
			if err := e.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := e.cmd.Wait(); err != nil {
				t.Errorf("ended with %v, want 0\n%s", err, e.log)
			}
			if strings.Contains(e.log.String(), "level=ERROR") {
				t.Errorf("said\n%s", e.log)
			}
		})
	}
}

func TestRunningRequestsAreFinishedBeforeItEnds(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		fmt.Fprint(w, "whole")
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	server := newServer(handler, logger)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, server, func() error { return server.Serve(listener) }, logger) }()

	body := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			body <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		body <- string(b)
	}()
	<-entered
	stop()
	select {
	case err := <-ended:
		t.Fatalf("ended with %v while a request ran", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if got := <-body; got != "whole" {
		t.Errorf("the running request got %q, want %q", got, "whole")
	}
	if err := <-ended; err != nil {
		t.Errorf("serve: %v, want nil", err)
	}
}

func TestTooManyScrapesAreRefused(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	h := limit(1, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))
	request := func() *recorder {
		w := &recorder{header: make(http.Header), status: http.StatusOK}
		h.ServeHTTP(w, new(http.Request))
		return w
	}
	first := make(chan *recorder)
	go func() { first <- request() }()
	<-entered
	if got := request().status; got != http.StatusServiceUnavailable {
		t.Errorf("second request: status %d, want 503", got)
	}
	close(release)
	<-first
	go func() { first <- request() }()
	<-entered
	if got := (<-first).status; got != http.StatusOK {
		t.Errorf("request after the first ended: status %d, want 200", got)
	}
}

type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

func TestServesOnASystemdSocket(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.MustParseAddrPort(address), kerneltest.Options{Backlog: 16})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := command(t, ns)
	e.cmd.Path = kerneltest.RequireCommand(t, "sh")
	e.cmd.Args = []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --web.systemd-socket --no-collector.bind --no-collector.reuse`, self}
	file := os.NewFile(uintptr(dup(t, l.FD())), "socket")
	defer file.Close()
	e.cmd.ExtraFiles = []*os.File{file}
	e.run(t)
	wantLines(t, e.get(t, "/metrics"), `sockstate_watched_ports 1`)
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
