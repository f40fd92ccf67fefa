package status

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/probe"
)

// explained follows the failed binds of a namespace, and explains each.
func explained(t *testing.T, ns *kerneltest.NetNS) <-chan string {
	t.Helper()
	kerneltest.RequireRoot(t)
	flags, err := sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF})
	var lacking *sockflags.UnavailableError
	if errors.As(err, &lacking) {
		kerneltest.Skip(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flags.Close() })
	tracer := newTracer(t, ns)
	lines := make(chan string, 100)
	recorder := failures.New(failures.Config{
		Tracer:     tracer,
		Host:       &probe.Host{Config: probe.Config{NetNS: ns.FD(), Flags: flags}, OwnInode: uint32(ns.Inode())},
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

// newTracer traces the namespace. The tracefs that it may need goes with the thread that
// mounts it.
func newTracer(t *testing.T, ns *kerneltest.NetNS) *bindtrace.Tracer {
	t.Helper()
	var tracer *bindtrace.Tracer
	err := ns.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		_ = unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, "") // fexit may do without
		tracer, err = bindtrace.New(bindtrace.Options{})
		return err
	})
	var unavailable *bindtrace.UnavailableError
	if errors.As(err, &unavailable) {
		kerneltest.Skip(t, "%v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// next is the next line, with numbers that change as N.
func next(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		line = regexp.MustCompile(`for \d+ s`).ReplaceAllString(line, "for N s")
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
			"5 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for N s; the new socket lacks SO_REUSEADDR too"},
		{"the flag was dropped",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, reuse)
				bind(t, ns, kerneltest.Options{})
			},
			"5 sockets in TIME_WAIT, opened with SO_REUSEADDR, the last one for N s; the new socket lacks SO_REUSEADDR"},
		{"the first restart after the fix",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, kerneltest.Options{})
				bind(t, ns, reuse)
			},
			"5 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for N s; " + firstRestart},
		{"the IPv4 half, and then the other one comes up",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				stopped(t, ns, kerneltest.Options{})
				bind(t, ns, kerneltest.Options{})
				ns.Listen(t, v6, kerneltest.Options{V6Only: new(true)})
			},
			"5 sockets in TIME_WAIT, opened without SO_REUSEADDR, the last one for N s; the new socket lacks SO_REUSEADDR too; " +
				"only the IPv4 half failed, for IPv6 [::]:4840 listens"},
		{"a dual-stack server is there already",
			func(t *testing.T, ns *kerneltest.NetNS) {
				t.Helper()
				ns.Listen(t, v6, kerneltest.Options{V6Only: new(false)})
				bind(t, ns, kerneltest.Options{})
			},
			fmt.Sprintf("another socket listens on [::]:4840 (uid %d)", os.Getuid())},
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
