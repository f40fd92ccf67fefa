package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/cli"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sources"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// newTestHandler serves everything, and takes nothing that needs a privilege.
func newTestHandler(t *testing.T, args ...string) (http.Handler, *sources.Sources) {
	t.Helper()
	opts, err := cli.Parse(append(args, "--no-collector.bind", "--no-collector.reuse"), io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	src := sources.Open(&opts.Sources, nil, nil, logger)
	t.Cleanup(src.Close)
	h, err := newHandler(opts, src, logger)
	if err != nil {
		t.Fatal(err)
	}
	return h, src
}

// In a bubble, so that no client counts as slow on a busy machine.
func TestPagesTakeNoPlaceOfScrapes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := newTestHandler(t, "--web.max-requests=1", "--no-collector.owner")
		release := make(chan struct{})
		var slow sync.WaitGroup
		begin := func(path string) {
			w := &slowWriter{entered: make(chan struct{}), release: release}
			slow.Go(func() { h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil)) })
			<-w.entered
		}
		want := func(path string, status int) {
			t.Helper()
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != status {
				t.Errorf("GET %s: status %d, want %d", path, w.Code, status)
			}
		}
		for n := range maxPages {
			begin([]string{"/ports", "/failures"}[n%2])
		}
		want("/ports", http.StatusServiceUnavailable)
		want("/failures", http.StatusServiceUnavailable)
		want("/metrics", http.StatusOK)
		begin("/metrics")
		want("/metrics", http.StatusServiceUnavailable)
		want("/", http.StatusOK)
		want("/-/healthy", http.StatusOK)
		close(release)
		slow.Wait()
		want("/ports", http.StatusOK)
		want("/metrics", http.StatusOK)
	})
}

func TestReadyAfterTheFirstSnapshot(t *testing.T) {
	h, src := newTestHandler(t)
	status := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/-/ready", nil))
		return w.Code
	}
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("status %d before a snapshot, want 503", got)
	}
	warmUp(t.Context(), src.Taker)
	if got := status(); got != http.StatusOK {
		t.Errorf("status %d after one, want 200", got)
	}
}

// A host whose sock_diag never answers.
func TestWarmUpTriesEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan, err := watch.NewPlan(watch.Config{MaxPorts: 1})
		if err != nil {
			t.Fatal(err)
		}
		tries := 0
		host := &probe.Host{Config: probe.Config{Dial: func(int) (*netlinkdiag.Conn, error) {
			tries++
			return nil, syscall.EPERM
		}}}
		taker := snapshot.New(snapshot.Config{Host: host, Watch: plan, Parts: snapshot.Parts{Listeners: true}})
		defer taker.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		warmUp(ctx, taker)
		if perHour := tries / 24; perHour > 8 || tries < 24 {
			t.Errorf("%d tries in a day, want some in an hour", tries)
		}
	})
}

func TestUserWhoFailsToBindTakesNoLogLinesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := conflictLogger(slog.New(slog.NewTextHandler(&out, nil)))
		fail := func(uid uint32, port int) {
			log(failures.Conflict{Errno: syscall.EADDRINUSE, Port: uint16(port), Failures: 1, Request: bindrule.Request{UID: bindrule.UIDOf(uid)}})
		}
		const hostile, server = 1001, 1002
		for port := range 1000 {
			fail(hostile, 10000+port)
		}
		const more = "more calls fail than are logged"
		if n := strings.Count(out.String(), "port="); n != conflictBurst || strings.Count(out.String(), more) != 1 {
			t.Errorf("%d lines of one user at once, want %d, and once that there is more:\n%s", n, conflictBurst, out.String())
		}
		out.Reset()
		fail(server, 4840)
		if !strings.Contains(out.String(), "port=4840 ") {
			t.Errorf("the failure of another user is not logged: %q", out.String())
		}
		out.Reset()
		time.Sleep(conflictPause)
		fail(hostile, 10000)
		if !strings.Contains(out.String(), "not_logged=984 port=10000 ") {
			t.Errorf("after a pause: %q, want a line that counts those that were left out", out.String())
		}
	})
}

func TestRepeatsLeaveLogLinesToNewPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := conflictLogger(slog.New(slog.NewTextHandler(&out, nil)))
		fail := func(port int, repeat bool) {
			log(failures.Conflict{Errno: syscall.EADDRINUSE, Port: uint16(port), Failures: 1, Repeat: repeat})
		}
		for range 5 { // more ports than there are lines for, every half a minute
			time.Sleep(30 * time.Second)
			for port := range 20 {
				fail(10000+port, true)
			}
		}
		fail(4840, false)
		if !strings.Contains(out.String(), "port=4840 ") {
			t.Errorf("the first failure of a port is not logged:\n%s", out.String())
		}
		// Ports that have no line at all are told as well.
		time.Sleep(crowdedPause)
		out.Reset()
		log(failures.Conflict{Errno: syscall.EADDRINUSE, Port: 4841, Failures: 1, More: true})
		if strings.Count(out.String(), "\n") != 2 || !strings.Contains(out.String(), "more calls fail than are logged") {
			t.Errorf("got %q, want the line, and that there is more", out.String())
		}
	})
}

// A slowWriter is a client that does not take its answer until it is told to.
type slowWriter struct {
	httptest.ResponseRecorder
	entered, release chan struct{}
	once             sync.Once
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.entered) })
	<-w.release
	return len(p), nil
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
		{"--watch.remote-port=1-2000", `--watch.remote-port: 2000 ports, want --watch.max-ports=1024 or fewer`},
		{"--watch.unix=/run/[a.sock", `--watch.unix=/run/[a.sock: not a pattern: want a ] for each [, and something after each \ (try --help)`},
		{"--watch.unix=app.sock", `--watch.unix=app.sock: want an absolute path (/run/app.sock), a pattern of paths (/run/*/app.sock), or an abstract name (@app) (try --help)`},
		{"--netns=a/b", `--netns=a/b: network namespace "a/b": a path must begin with a slash (try --help)`},
		{"--watch.exclude=1-x", `--watch.exclude=1-x: range "1-x": port "x" is not a number, want 1 to 65535 (try --help)`},
		{"--watch.retention=soon", `--watch.retention=soon: want a duration of 0s or more, such as 90s or 10m (try --help)`},
		{"--watch.retention=-1s", `--watch.retention=-1s: want a duration of 0s or more, such as 90s or 10m (try --help)`},
		{"--watch.max-ports=0", `--watch.max-ports=0: want a whole number, 1 or more (try --help)`},
		{"--runtime.gomaxprocs=-1", `--runtime.gomaxprocs=-1: want a whole number, 0 or more (try --help)`},
		{"--web.max-requests=-1", `--web.max-requests=-1: want a whole number, 0 or more (try --help)`},
		{"--collector.nonsense", `unknown long flag '--collector.nonsense': the collectors are tcp, listener, reuse, restart, bind, connect, udp, unix, remote, ephemeral, owner and stack`},
		{"--web.config.file=/nonexistent/web.yml", `--web.config.file=/nonexistent/web.yml: open /nonexistent/web.yml: no such file or directory`},
		{"--no-collector.nonsense --watch.port=0", `unknown long flag '--no-collector.nonsense': the collectors are tcp, listener, reuse, restart, bind, connect, udp, unix, remote, ephemeral, owner and stack`},
		{"--no-collector.tcp --watch.port=0", `--watch.port=0: port "0" is out of range, want 1 to 65535 (try --help)`},
		{"4840", `unexpected 4840 (try --help)`},
		{"--nonsense check", `unknown long flag '--nonsense' (try --help)`},
		{"--log.level=debug check --json", `check comes first: sockstate_exporter check [flags] WHAT... (try check --help)`},
		{"--log.level=debug check 4840", `check comes first: sockstate_exporter check [flags] WHAT... (try check --help)`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			// With an ended context, a command line that is taken returns nil.
			t.Setenv(linux.TimerSlackSet, "1")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := run(ctx, append(strings.Split(tt.args, " "), "--web.listen-address=127.0.0.1:0"), io.Discard, io.Discard)
			if fmt.Sprint(err) != tt.want {
				t.Errorf("error\n%v\nwant\n%s", err, tt.want)
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
	go func() { ended <- listen(ctx, server, func() error { return server.Serve(listener) }, logger) }()

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

func TestWebConfigThatIsWrongNamesFileAndLine(t *testing.T) {
	for _, tt := range []struct{ name, config, want string }{
		{"unknown field", "tls_server_config:\n  cert_file: a\n  keyfile: b\n", "yaml: unmarshal errors:\n  line 3: field keyfile not found in type web.TLSConfig"},
		{"no YAML", "basic_auth_users:\n\tprometheus: x\n", "yaml: line 2: found character that cannot start any token"},
		{"password that is no hash", "basic_auth_users:\n  prometheus: secret\n", "crypto/bcrypt: hashedSecret too short to be a bcrypted password"},
		{"missing key", "tls_server_config:\n  cert_file: server.crt\n", "missing one of key or key_file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "web.yml")
			if err := os.WriteFile(file, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv(linux.TimerSlackSet, "1")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			var said bytes.Buffer
			err := run(ctx, []string{"--web.config.file=" + file, "--web.listen-address=127.0.0.1:0"}, &said, &said)
			if want := "--web.config.file=" + file + ": " + tt.want; fmt.Sprint(err) != want {
				t.Errorf("error\n%v\nwant\n%s", err, want)
			}
		})
	}
}
