package failures

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// The addresses of lo.
var (
	localhost4 = netip.MustParseAddr("127.0.0.1")
	localhost6 = netip.MustParseAddr("::1")
)

// traced is a namespace whose failed binds a Recorder follows.
type traced struct {
	*Recorder
	ns     *kerneltest.NetNS
	tracer *bindtrace.Tracer
	sets   map[uint32][]watch.Set
}

// newTracer traces the namespace as its own.
func newTracer(t *testing.T, ns *kerneltest.NetNS) *bindtrace.Tracer {
	t.Helper()
	kerneltest.RequireRoot(t)
	return opener.OrSkip(t, func() (tracer *bindtrace.Tracer, err error) {
		err = ns.Run(func() error {
			tracer, err = bindtrace.New(bindtrace.Options{})
			return err
		})
		return tracer, err
	})
}

// trace follows the failed binds of a new namespace, with the flags read in a mode; none
// without one.
func trace(t *testing.T, mode sockflags.Mode) *traced {
	t.Helper()
	return traceWith(t, mode, func(*kerneltest.NetNS, *Config) {})
}

// traceWith is trace with another Config.
func traceWith(t *testing.T, mode sockflags.Mode, change func(*kerneltest.NetNS, *Config)) *traced {
	t.Helper()
	ns := kerneltest.New(t)
	inode := uint32(ns.Inode())
	tr := &traced{
		ns:     ns,
		tracer: newTracer(t, ns),
		sets:   map[uint32][]watch.Set{inode: {watching(t, sock.PortRange{First: 4000, Last: 4099})}},
	}
	host := &probe.Host{Config: probe.Config{NetNS: ns.FD()}, OwnInode: inode}
	if mode != "" {
		host.Flags = opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(sockflags.Options{Mode: mode}) })
	}
	cfg := Config{Tracer: tr.tracer, Host: host}
	change(ns, &cfg)
	tr.Recorder = New(cfg)
	tr.update(t) // tells the tracer what to watch
	done := make(chan error, 1)
	go func() { done <- tr.Follow() }()
	t.Cleanup(func() {
		if err := tr.tracer.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("follow: %v", err)
		}
	})
	return tr
}

func (tr *traced) update(t *testing.T) Binds {
	t.Helper()
	binds, err := tr.Update(tr.sets, nil)
	if err != nil {
		t.Fatal(err)
	}
	return binds
}

// mustFail makes a bind that is refused.
func (tr *traced) mustFail(t *testing.T, addr netip.AddrPort, opts kerneltest.Options) {
	t.Helper()
	s, err := tr.ns.OpenBound(addr, opts)
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("bind to %v: %v, want %v", addr, err, unix.EADDRINUSE)
	}
}

// settled waits until so many of the namespace's failures are counted, and sums them.
func (tr *traced) settled(t *testing.T, n uint64, of func(ConflictCount) bool) map[codes.Code]uint64 {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var sum uint64
		got := byDiagnosis(tr.update(t).Conflicts, func(c ConflictCount) bool { return c.Netns != 0 && of(c) })
		for _, m := range got {
			sum += m
		}
		if sum >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("counted %v, want %d failures", got, n)
		}
	}
}

func ofPort(port uint16) func(ConflictCount) bool {
	return func(c ConflictCount) bool { return !c.OtherPort && c.Port == port }
}

// A scene puts sockets on a port and names what binds there then.
type scene struct {
	name string
	set  func(t *testing.T, ns *kerneltest.NetNS, at netip.AddrPort)
	addr netip.Addr
	opts kerneltest.Options
	want codes.Code
}

func left(state kerneltest.State, opts kerneltest.Options) func(*testing.T, *kerneltest.NetNS, netip.AddrPort) {
	return func(t *testing.T, ns *kerneltest.NetNS, at netip.AddrPort) {
		t.Helper()
		l := ns.Listen(t, at, opts)
		from := localhost4
		if at.Addr().Is6() {
			from = localhost6
		}
		peers := l.Peers(t, state, 2, from)
		if state == kerneltest.StateFinWait2 && opts.Backlog < 0 {
			for _, p := range peers {
				if err := p.Local.Orphan(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = l.Close()
	}
}

func scenes() []scene {
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	plain, reuse := kerneltest.Options{}, kerneltest.Options{ReuseAddr: true}
	listen := func(opts kerneltest.Options) func(*testing.T, *kerneltest.NetNS, netip.AddrPort) {
		return func(t *testing.T, ns *kerneltest.NetNS, at netip.AddrPort) { t.Helper(); ns.Listen(t, at, opts) }
	}
	bind := func(opts kerneltest.Options) func(*testing.T, *kerneltest.NetNS, netip.AddrPort) {
		return func(t *testing.T, ns *kerneltest.NetNS, at netip.AddrPort) { t.Helper(); ns.Bind(t, at, opts) }
	}
	all := []scene{
		{"listener", listen(plain), any4, plain, codes.OwnListener},
		{"listener, both with SO_REUSEADDR", listen(reuse), any4, reuse, codes.OwnListener},
		{"listener, the binder with SO_REUSEPORT", listen(plain), any4, kerneltest.Options{ReusePort: true}, codes.OwnListener},
		{"listener with connections", func(t *testing.T, ns *kerneltest.NetNS, at netip.AddrPort) {
			t.Helper()
			l := ns.Listen(t, at, plain)
			l.Peers(t, kerneltest.StateEstablished, 2, localhost4)
			l.Peers(t, kerneltest.StateTimeWait, 2, localhost4)
		}, any4, plain, codes.OwnListener},
		{"connection ipv6", left(kerneltest.StateEstablished, plain), any6, plain, codes.AcceptedConnection},
		{"connection without the flag", left(kerneltest.StateCloseWait, plain), any4, reuse, codes.AcceptedConnection},
		{"fin_wait2 without a process", left(kerneltest.StateFinWait2, kerneltest.Options{Backlog: -1}), any4, plain, codes.Closing},
		{"time_wait", left(kerneltest.StateTimeWait, plain), any4, plain, codes.TimeWait},
		{"time_wait ipv6", left(kerneltest.StateTimeWait, plain), any6, plain, codes.TimeWait},
		{"time_wait, the old ones without the flag", left(kerneltest.StateTimeWait, plain), any4, reuse, codes.TimeWaitOldFlags},
		{"time_wait, the binder without the flag", left(kerneltest.StateTimeWait, reuse), any4, plain, codes.TimeWait},
		{"time_wait, MPTCP binds", left(kerneltest.StateTimeWait, plain), any4, kerneltest.Options{MPTCP: true}, codes.TimeWait},
		{"bound", bind(plain), any4, plain, codes.BoundOnly},
		{"bound, the binder without the flag", bind(reuse), any4, plain, codes.BoundOnly},
		{"bound, the old one without the flag", bind(plain), any4, reuse, codes.BoundOnly},
	}
	for _, state := range kerneltest.States() {
		switch state {
		case kerneltest.StateListen, kerneltest.StateTimeWait, kerneltest.StateClose, kerneltest.StateSynRecv, kerneltest.StateSynSent:
		default:
			all = append(all, scene{state.String(), left(state, plain), any4, plain, codes.AcceptedConnection})
		}
	}
	return all
}

// showsBoundInactive says whether sock_diag shows TCP sockets that are only bound: since Linux 6.8.
func showsBoundInactive(t *testing.T) bool { return kerneltest.KernelAtLeast(t, 6, 8) }

func TestKernelDiagnosesOfConflicts(t *testing.T) {
	inactive := showsBoundInactive(t)
	for _, mode := range []sockflags.Mode{sockflags.ModeBPF, sockflags.ModePidfd, ""} {
		t.Run("flags "+string(mode), func(t *testing.T) {
			tr := trace(t, mode)
			at := func(i int, s scene) netip.AddrPort { return netip.AddrPortFrom(s.addr, uint16(4000+i)) }
			for i, s := range scenes() {
				s.set(t, tr.ns, at(i, s))
				tr.mustFail(t, at(i, s), s.opts)
			}
			for i, s := range scenes() {
				t.Run(s.name, func(t *testing.T) {
					if s.want == codes.BoundOnly && !inactive {
						s.want = codes.Unknown
					}
					want := map[codes.Code]uint64{s.want: 1}
					if got := tr.settled(t, 1, ofPort(at(i, s).Port())); !maps.Equal(got, want) {
						t.Errorf("counted %v, want %v", got, want)
					}
					is := func(f Failure) bool {
						return f.Port == at(i, s).Port() && f.Diagnosis == s.want && f.ReuseAddr == s.opts.ReuseAddr
					}
					if latest := tr.conflicts.latest.all(); !slices.ContainsFunc(latest, is) {
						t.Errorf("latest failures %+v, want one of port %d that is %s", latest, at(i, s).Port(), s.want)
					}
				})
			}
		})
	}
}

func TestKernelConflictsThatCannotBeExplained(t *testing.T) {
	tr := trace(t, sockflags.ModeBPF)
	t.Run("udp", func(t *testing.T) {
		at := netip.AddrPortFrom(localhost4, 4000)
		tr.ns.ListenUDP(t, at, kerneltest.Options{})
		err := tr.ns.Run(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrInet4{Addr: localhost4.As4(), Port: 4000})
		})
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("bind: %v, want %v", err, unix.EADDRINUSE)
		}
		if got, want := tr.settled(t, 1, ofPort(4000)), map[codes.Code]uint64{codes.UDPOwnSocket: 1}; !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
	t.Run("no ephemeral port left", func(t *testing.T) {
		tr.ns.Sysctl(t, "net.ipv4.ip_local_port_range", "5000 5000")
		tr.ns.Bind(t, netip.AddrPortFrom(localhost4, 5000), kerneltest.Options{})
		tr.mustFail(t, netip.AddrPortFrom(localhost4, 0), kerneltest.Options{})
		if got, want := tr.settled(t, 1, ofPort(0)), map[codes.Code]uint64{codes.PortsExhausted: 1}; !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
	t.Run("another namespace", func(t *testing.T) {
		other := kerneltest.New(t)
		at := netip.AddrPortFrom(localhost4, 4001)
		other.Listen(t, at, kerneltest.Options{})
		if s, err := other.OpenBound(at, kerneltest.Options{}); !errors.Is(err, unix.EADDRINUSE) {
			_ = s.Close()
			t.Fatalf("bind: %v, want %v", err, unix.EADDRINUSE)
		}
		// A failure here comes after it.
		tr.ns.Listen(t, at, kerneltest.Options{})
		tr.mustFail(t, at, kerneltest.Options{})
		tr.settled(t, 1, ofPort(4001))
		elsewhere := byDiagnosis(tr.update(t).Conflicts, func(c ConflictCount) bool { return c.Netns == 0 && c.Port == 4001 })
		if want := map[codes.Code]uint64{codes.Unknown: 1}; !maps.Equal(elsewhere, want) {
			t.Errorf("counted %v elsewhere, want %v", elsewhere, want)
		}
	})
	t.Run("gone before anybody looked, but captured", func(t *testing.T) {
		at := netip.AddrPortFrom(localhost4, 4002)
		// A look is under way, or its pause, when the second one happens.
		busy := tr.ns.Listen(t, netip.AddrPortFrom(localhost4, 4003), kerneltest.Options{})
		tr.mustFail(t, busy.Addr(), kerneltest.Options{})
		tr.settled(t, 1, ofPort(4003))
		s := tr.ns.Bind(t, at, kerneltest.Options{})
		tr.mustFail(t, at, kerneltest.Options{})
		_ = s.Close()
		if got, want := tr.settled(t, 1, ofPort(4002)), map[codes.Code]uint64{codes.BoundOnly: 1}; !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
	t.Run("a port that is not watched has a diagnosis too", func(t *testing.T) {
		l := tr.ns.Listen(t, netip.AddrPortFrom(localhost4, 6000), kerneltest.Options{})
		tr.mustFail(t, l.Addr(), kerneltest.Options{})
		got := tr.settled(t, 1, func(c ConflictCount) bool { return c.OtherPort })
		if want := map[codes.Code]uint64{codes.OwnListener: 1}; !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
}

// All failures of a storm have a diagnosis, or are lost as the tracer says.
func TestKernelStormIsCountedOrLost(t *testing.T) {
	tr := trace(t, sockflags.ModeBPF)
	l := tr.ns.Listen(t, netip.AddrPortFrom(localhost4, 4000), kerneltest.Options{})
	const n = 100_000
	err := tr.ns.Run(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range n {
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: localhost4.As4(), Port: int(l.Port())}); !errors.Is(err, unix.EADDRINUSE) {
				return errors.Join(err, errors.New("bind did not fail with EADDRINUSE"))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stats, err := tr.tracer.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// What else fails on the host may be among the lost.
	got := tr.settled(t, n-min(n, stats.Lost+stats.Missed), ofPort(4000))
	// The kernel captures the sockets of some failures only. Who has a listener that was seen
	// afterwards is not known.
	listeners := got[codes.OwnListener] + got[codes.OtherListener]
	delete(got, codes.OwnListener)
	delete(got, codes.OtherListener)
	if len(got) != 0 || listeners == 0 || listeners > n {
		t.Errorf("counted %v beside %d of listeners, want none, and %d at most", got, listeners, n)
	}
	t.Logf("%d counted, %d lost", listeners, stats.Lost)
}
