package snapshot

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// flagTaker takes snapshots, with flags, of a namespace.
func flagTaker(t *testing.T, ns *kerneltest.NetNS, opts sockflags.Options) *Taker {
	t.Helper()
	kerneltest.RequireRoot(t)
	flags := opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(opts) })
	return newTaker(t, Config{
		Host:      &probe.Host{Config: probe.Config{NetNS: ns.FD(), Flags: flags}},
		Retention: retention,
		Parts:     Parts{TCP: true, Listeners: true, Verdicts: true},
	}, watch.Config{Listeners: true, Retention: retention, MaxPorts: 512})
}

// takeWithFlags takes a snapshot that has sockets and flags.
func takeWithFlags(t *testing.T, taker *Taker) Snapshot {
	t.Helper()
	s := taker.Take(t.Context())
	if err := errors.Join(s.Watch.Err, s.Listeners.Err, s.TCP.Err, s.Reuse.Err, s.Verdicts.Err); err != nil {
		t.Fatal(err)
	}
	return s
}

// Sockets on one port, whose listeners have different flags.
func TestKernelSocketsThatLackAFlag(t *testing.T) {
	ns := kerneltest.New(t)
	taker := flagTaker(t, ns, sockflags.Options{Mode: sockflags.ModeBPF})
	const number = 4840
	var want portWithoutFlags
	listeners := make(map[netip.Addr]kerneltest.Options)
	for i, tt := range []struct {
		addr, from string
		opts       kerneltest.Options
	}{
		{"127.0.0.1", "127.0.0.1", kerneltest.Options{}},
		{"127.0.0.2", "127.0.0.1", kerneltest.Options{ReuseAddr: true}},
		{"127.0.0.3", "127.0.0.1", kerneltest.Options{ReusePort: true}},
		{"127.0.0.4", "127.0.0.1", kerneltest.Options{ReuseAddr: true, ReusePort: true}},
		{"::1", "::1", kerneltest.Options{}},
		{"::ffff:127.0.1.1", "127.0.0.1", kerneltest.Options{ReuseAddr: true}},
		{"::ffff:127.0.1.2", "127.0.0.1", kerneltest.Options{ReusePort: true}},
		{"::ffff:127.0.1.3", "127.0.0.1", kerneltest.Options{ReuseAddr: true, ReusePort: true}},
	} {
		addr, from := netip.MustParseAddr(tt.addr), netip.MustParseAddr(tt.from)
		l := ns.Listen(t, netip.AddrPortFrom(addr, number), tt.opts)
		listeners[addr] = tt.opts
		half := &want.ipv4
		if addr.Is6() {
			half = &want.ipv6
		}
		count := func(state kerneltest.State, n int) {
			if !tt.opts.ReuseAddr {
				half.reuseAddr[state] += uint64(n)
			}
			if !tt.opts.ReusePort {
				half.reusePort[state] += uint64(n)
			}
		}
		for _, state := range kerneltest.States() {
			if state == kerneltest.StateListen || state == kerneltest.StateClose {
				continue // not in there: see withoutFlags
			}
			n := 1 + (i+int(state))%4
			l.Peers(t, state, n, from)
			count(state, n)
		}
		// Without a process it is a minisocket, as in TIME_WAIT.
		for _, p := range l.Peers(t, kerneltest.StateFinWait2, 2, from) {
			if err := p.Local.Orphan(); err != nil {
				t.Fatal(err)
			}
		}
		count(kerneltest.StateFinWait2, 2)
	}
	s := takeWithFlags(t, taker)
	if got := withoutFlags(&s, number); got != want || !known(&s)[number] {
		t.Errorf("got  %+v, known %v\nwant %+v", got, known(&s), want)
	}
	if len(s.Listeners.Data) != len(listeners) {
		t.Errorf("flags of %d groups, want %d", len(s.Listeners.Data), len(listeners))
	}
	flag := func(on bool) bindrule.Flag {
		if on {
			return bindrule.Yes
		}
		return bindrule.No
	}
	for _, g := range s.Listeners.Data {
		if opts := listeners[g.Address]; g.ReuseAddr != flag(opts.ReuseAddr) || g.ReusePort != flag(opts.ReusePort) {
			t.Errorf("%v: flags %d and %d, want those of %+v", g.Address, g.ReuseAddr, g.ReusePort, opts)
		}
	}
}

// The listener that has the flag now does not speak for what its predecessor left.
func TestKernelTimeWaitKeepsTheFlagsOfItsListener(t *testing.T) {
	ns := kerneltest.New(t)
	taker := flagTaker(t, ns, sockflags.Options{Mode: sockflags.ModeBPF})
	addr := netip.AddrPortFrom(localhost4, 4840)
	without := ns.Listen(t, addr, kerneltest.Options{})
	timewait.MustMake(t, ns, timewait.Options{Count: 30, Listeners: []*kerneltest.Listener{without}})
	if err := without.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ns.OpenListener(addr, kerneltest.Options{ReuseAddr: true}); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("listen with the flag: %v, want %v", err, unix.EADDRINUSE)
	}
	with := ns.Listen(t, netip.MustParseAddrPort("127.0.0.2:4840"), kerneltest.Options{ReuseAddr: true})
	timewait.MustMake(t, ns, timewait.Options{Count: 12, Listeners: []*kerneltest.Listener{with}})

	s := takeWithFlags(t, taker)
	all := port(t, &s, 4840)
	if n := all.IPv4.States[netlinkdiag.StateTimeWait]; n != 42 {
		t.Errorf("%d sockets in TIME_WAIT, want 42", n)
	}
	got := withoutFlags(&s, 4840).ipv4
	if a, p := got.reuseAddr[netlinkdiag.StateTimeWait], got.reusePort[netlinkdiag.StateTimeWait]; !known(&s)[4840] || a != 30 || p != 42 {
		t.Errorf("known %v: %d without SO_REUSEADDR, %d without SO_REUSEPORT; want 30 and 42", known(&s), a, p)
	}
}

func TestKernelMoreKindsOfSocketsThanFit(t *testing.T) {
	ns := kerneltest.New(t)
	taker := flagTaker(t, ns, sockflags.Options{Mode: sockflags.ModeBPF, MaxGroups: 4}) // two for each port
	crowded := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{})
	crowded.Peers(t, kerneltest.StateEstablished, 2, localhost4)
	crowded.Peers(t, kerneltest.StateCloseWait, 2, localhost4)
	crowded.Peers(t, kerneltest.StateFinWait2, 2, localhost4)
	ns.Listen(t, netip.AddrPortFrom(localhost4, 8080), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 2, localhost4)

	s := takeWithFlags(t, taker)
	if got, want := known(&s), map[uint16]bool{4840: false, 8080: true}; !reflect.DeepEqual(got, want) {
		t.Errorf("known %v, want %v", got, want)
	}
	for _, g := range s.Listeners.Data {
		if g.ReuseAddr != bindrule.No {
			t.Errorf("%v: SO_REUSEADDR %v, want off", g.Port, g.ReuseAddr)
		}
	}
}

func TestKernelPidfdKnowsListenersOnly(t *testing.T) {
	ns := kerneltest.New(t)
	taker := flagTaker(t, ns, sockflags.Options{Mode: sockflags.ModePidfd})
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{ReuseAddr: true})
	l.Peers(t, kerneltest.StateTimeWait, 1, localhost4)

	s := takeWithFlags(t, taker)
	if got, want := known(&s), map[uint16]bool{4840: false}; !reflect.DeepEqual(got, want) {
		t.Errorf("known %v, want %v", got, want)
	}
	if g := s.Listeners.Data; len(g) != 1 || g[0].ReuseAddr != bindrule.Yes || g[0].ReusePort != bindrule.No {
		t.Errorf("flags %+v, want SO_REUSEADDR alone", g)
	}
}

func TestKernelChangedFlagShowsInTheNextSnapshot(t *testing.T) {
	ns := kerneltest.New(t)
	taker := flagTaker(t, ns, sockflags.Options{Mode: sockflags.ModeBPF})
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{})
	for i, on := range []int{0, 1, 0, 1, 1} {
		if err := unix.SetsockoptInt(l.FD(), unix.SOL_SOCKET, unix.SO_REUSEADDR, on); err != nil {
			t.Fatal(err)
		}
		s := takeWithFlags(t, taker)
		want := bindrule.No
		if on == 1 {
			want = bindrule.Yes
		}
		if got := s.Listeners.Data[0].ReuseAddr; got != want {
			t.Errorf("step %d: flag %v, want %v", i, got, want)
		}
	}
}

// While nothing but listeners is there the walk ends before the connections; the first of
// them shows at once.
func TestKernelConnectionsAfterAQuietTime(t *testing.T) {
	ns := kerneltest.New(t)
	taker := flagTaker(t, ns, sockflags.Options{Mode: sockflags.ModeBPF})
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, 4840), kerneltest.Options{ReusePort: true})
	var want familyWithoutFlags
	for range 3 {
		s := takeWithFlags(t, taker)
		got := withoutFlags(&s, 4840).ipv4
		if l := s.Listeners.Data[0]; got != want || l.ReuseAddr != bindrule.No || l.ReusePort != bindrule.Yes {
			t.Errorf("quiet: got %+v of %+v", got, l)
		}
	}
	l.Peers(t, kerneltest.StateEstablished, 3, localhost4)
	want.reuseAddr[netlinkdiag.StateEstablished] = 3
	for range 2 {
		s := takeWithFlags(t, taker)
		if got := withoutFlags(&s, 4840).ipv4; !known(&s)[4840] || got != want {
			t.Errorf("got  %+v, known %v\nwant %+v", got, known(&s), want)
		}
	}
}
