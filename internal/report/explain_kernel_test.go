package report

import (
	"errors"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/probe"
)

// explained explains each failed bind of a namespace.
func explained(t *testing.T, ns *kerneltest.NetNS) <-chan string {
	t.Helper()
	kerneltest.RequireRoot(t)
	flags := opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF}) })
	tracer := newTracer(t, ns)
	lines := make(chan string, 100)
	recorder := failures.New(failures.Config{
		Tracer: tracer,
		Host: &probe.Host{
			Config:   probe.Config{NetNS: ns.FD(), Flags: flags},
			OwnInode: uint32(ns.Inode()),
		},
		OnConflict: func(c failures.Conflict) { lines <- Explain(&c) },
	})
	done := make(chan error, 1)
	go func() { done <- recorder.Follow() }()
	t.Cleanup(func() {
		if err := errors.Join(tracer.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return lines
}

// newTracer traces the namespace.
func newTracer(t *testing.T, ns *kerneltest.NetNS) *bindtrace.Tracer {
	t.Helper()
	return opener.OrSkip(t, func() (tracer *bindtrace.Tracer, err error) {
		err = ns.Run(func() error {
			tracer, err = bindtrace.New(bindtrace.Options{})
			return err
		})
		return tracer, err
	})
}

// next is the next line, with N for numbers that differ between runs.
func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		line = regexp.MustCompile(`for \d+ s`).ReplaceAllString(line, "for N s")
		line = regexp.MustCompile(`([Ww])ait \d+ s`).ReplaceAllString(line, "${1}ait N s")
		line = regexp.MustCompile(`: \S+ itself`).ReplaceAllString(line, ": NAME itself")
		return regexp.MustCompile(` by \S+ \(pid \d+\)`).ReplaceAllString(line, " by NAME (pid N)")
	case <-time.After(20 * time.Second):
		t.Fatal("no line")
		return ""
	}
}

func TestKernelCasesThatFoolPeople(t *testing.T) {
	v4 := netip.AddrPortFrom(netip.IPv4Unspecified(), 4840)
	v6 := netip.AddrPortFrom(netip.IPv6Unspecified(), 4840)
	localhost := netip.MustParseAddr("127.0.0.1")
	// A server that had clients, and stopped.
	stopped := func(t *testing.T, ns *kerneltest.NetNS, opts kerneltest.Options) {
		t.Helper()
		l := ns.Listen(t, v4, opts)
		l.Peers(t, kerneltest.StateTimeWait, 5, localhost)
		_ = l.Close()
	}
	bind := func(t *testing.T, ns *kerneltest.NetNS, opts kerneltest.Options) {
		t.Helper()
		if _, err := ns.OpenBound(v4, opts); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind: %v, want %v", err, unix.EADDRINUSE)
		}
	}
	reuse := kerneltest.Options{ReuseAddr: true}
	const waitAsWell = "Set SO_REUSEADDR before bind(). This time also wait N s: the flag does not help against connections that were opened without it."
	const start = "bind to 0.0.0.0:4840 by NAME (pid N) failed: "
	for _, tt := range []struct {
		name string
		play func(*testing.T, *kerneltest.NetNS)
		want string
	}{
		{"nobody sets the flag",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, kerneltest.Options{})
				bind(t, ns, kerneltest.Options{})
			},
			"5 connections are in TIME_WAIT, the last one for N s; they were opened without SO_REUSEADDR, and the new socket lacks it too. " + waitAsWell},
		{"the flag was dropped",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, reuse)
				bind(t, ns, kerneltest.Options{})
			},
			"5 connections are in TIME_WAIT, the last one for N s; they were opened with SO_REUSEADDR, but the new socket lacks it. Set SO_REUSEADDR before bind(): then the bind works at once."},
		{"the first restart after the fix",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, kerneltest.Options{})
				bind(t, ns, reuse)
			},
			"5 connections are in TIME_WAIT, the last one for N s; the new socket sets SO_REUSEADDR, but they were opened without SO_REUSEADDR. " +
				"Wait N s. Connections that are opened from now on do not block a restart, because the server sets SO_REUSEADDR."},
		{"the IPv4 half, and then the other one comes up",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, kerneltest.Options{})
				bind(t, ns, kerneltest.Options{})
				ns.Listen(t, v6, kerneltest.Options{V6Only: new(true)})
			},
			"5 connections are in TIME_WAIT, the last one for N s; they were opened without SO_REUSEADDR, and the new socket lacks it too; " +
				"only the IPv4 half failed, for IPv6 [::]:4840 listens. " + waitAsWell},
		{"a dual-stack server is there already",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				ns.Listen(t, v6, kerneltest.Options{V6Only: new(false)})
				bind(t, ns, kerneltest.Options{})
			},
			"NAME itself listens on [::]:4840 already, and that socket covers IPv4 too (no IPV6_V6ONLY). Set IPV6_V6ONLY on the socket that listens on ::, or do not listen on IPv4 as well."},
		{"an outgoing connection has the port",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				ns.Listen(t, netip.AddrPortFrom(localhost, 4000), kerneltest.Options{})
				client := ns.Bind(t, netip.AddrPortFrom(localhost, 4840), kerneltest.Options{})
				if err := unix.Connect(client.FD(), &unix.SockaddrInet4{Port: 4000, Addr: localhost.As4()}); err != nil && !errors.Is(err, unix.EINPROGRESS) {
					t.Fatal(err)
				}
				bind(t, ns, reuse)
			},
			"an outgoing connection from 127.0.0.1:4840 to 127.0.0.1:4000 (ESTABLISHED) uses the port as its source port. " +
				"Wait until the connection is closed. The bind works then, or 60 s later if this side closes first (TIME_WAIT). SO_REUSEADDR does not help: the connection does not have it. " +
				"Reserve the port, so that the kernel does not choose it for a client: add 4840 to net.ipv4.ip_local_reserved_ports."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			lines := explained(t, ns)
			tt.play(t, ns)
			if got := next(t, lines); got != start+tt.want {
				t.Errorf("got  %s\nwant %s", got, start+tt.want)
			}
		})
	}
}
