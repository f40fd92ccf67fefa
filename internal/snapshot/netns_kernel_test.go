package snapshot

import (
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// hostTaker takes a namespace as its own, and others beside it.
func hostTaker(t *testing.T, own *kerneltest.NetNS, others ...*kerneltest.NetNS) *Taker {
	t.Helper()
	var cfg netns.Config
	for _, ns := range others {
		spec, err := netns.ParseSpec(ns.Path())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Specs = append(cfg.Specs, spec)
	}
	discoverer, err := netns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := stack.NewReader("/proc")
	if err != nil {
		t.Fatal(err)
	}
	flags := opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(sockflags.Options{}) })
	return newTaker(t, Config{
		Host: &probe.Host{
			Config: probe.Config{NetNS: own.FD(), Flags: flags, TCPSockets: reader.TCPSockets},
			Others: discoverer,
		},
		Retention: retention,
		Parts:     Parts{TCP: true, Listeners: true, Verdicts: true},
	}, discovering())
}

// other is the one namespace beside the own.
func other(t *testing.T, taker *Taker) *Namespace {
	t.Helper()
	s := taker.Take(t.Context())
	if s.Discovery.Err != nil || len(s.Others) != 1 {
		t.Fatalf("%d namespaces, %v, want 1", len(s.Others), s.Discovery.Err)
	}
	ns := &s.Others[0]
	for name, err := range map[string]error{"TCP": ns.TCP.Err, "Reuse": ns.Reuse.Err, "Verdicts": ns.Verdicts.Err, "Listeners": ns.Listeners.Err} {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return ns
}

// Where the kernel counts nothing but listeners, and there is no time, only they are shown; where
// it counts more, all.
func TestKernelIdleNamespaceIsLookedIntoWhileThereIsTime(t *testing.T) {
	for _, tt := range []struct {
		name   string
		addr   string
		from   netip.Addr
		family netlinkdiag.Family
	}{
		{"ipv4", "127.0.0.1:80", localhost4, netlinkdiag.FamilyIPv4},
		{"ipv6", "[::1]:80", localhost6, netlinkdiag.FamilyIPv6},
		{"dual-stack", "[::]:80", localhost4, netlinkdiag.FamilyIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own, blue := kerneltest.New(t), kerneltest.New(t)
			taker := hostTaker(t, own, blue)
			own.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
			l := blue.Listen(t, netip.MustParseAddrPort(tt.addr), kerneltest.Options{ReuseAddr: true})
			blue.Listen(t, netip.MustParseAddrPort("127.0.0.1:81"), kerneltest.Options{MPTCP: true})
			hidden := netlinkdiag.States(netlinkdiag.StateSynRecv, netlinkdiag.StateClose)

			check := func(what string, unseen netlinkdiag.StateSet, established uint64) {
				t.Helper()
				ns := other(t, taker)
				p := ns.TCP.Data[0]
				states := p.Of(tt.family).States
				if p.Number != 80 || p.Unseen != unseen || states[netlinkdiag.StateListen] != 1 || states[netlinkdiag.StateEstablished] != established {
					t.Errorf("%s: %+v, want %d established, unseen %v", what, p, established, unseen)
				}
				if r := ns.Listeners.Data; len(r) != 2 || r[0].ReuseAddr != bindrule.Yes || r[1].ReuseAddr != bindrule.No {
					t.Errorf("%s: flags %+v", what, r)
				}
				if len(ns.Verdicts.Data) != 2 || len(ns.Verdicts.Data[0].Restarts) != 1 {
					t.Errorf("%s: verdicts %+v", what, ns.Verdicts.Data)
				}
			}
			check("with time", 0, 0)
			taker.host.idleWalks = 0
			check("without", hidden, 0)
			check("again, with flags of before", hidden, 0)
			third := blue.Listen(t, netip.MustParseAddrPort("127.0.0.1:79"), kerneltest.Options{})
			if r := other(t, taker).Listeners.Data; len(r) != 3 || r[0].ReuseAddr != bindrule.No {
				t.Errorf("a listener came: flags %+v", r)
			}
			_ = third.Close()
			s := taker.Take(t.Context())
			if p := port(t, &s, 80); p.Unseen != 0 {
				t.Errorf("the own namespace: %+v", p)
			}
			peers := l.Peers(t, kerneltest.StateEstablished, 2, tt.from)
			if p := other(t, taker).TCP.Data; p[1].Unseen != 0 || p[1].Of(tt.family).States[netlinkdiag.StateEstablished] != 2 {
				t.Errorf("with connections: %+v", p)
			}
			for _, p := range peers {
				_ = p.Close()
			}
			l.Peers(t, kerneltest.StateTimeWait, 1, tt.from)
			if p := other(t, taker).TCP.Data; p[1].Unseen != 0 || p[1].Of(tt.family).States[netlinkdiag.StateTimeWait] != 1 {
				t.Errorf("with one in TIME_WAIT: %+v", p)
			}
		})
	}
}

// A flicker is a namespace beside the own that can be missed: its file goes and comes.
type flicker struct {
	*kerneltest.NetNS
	path string
}

func newFlicker(t *testing.T) (*flicker, *netns.Discoverer) {
	t.Helper()
	f := &flicker{NetNS: kerneltest.New(t), path: filepath.Join(t.TempDir(), "blue")}
	spec, err := netns.ParseSpec(f.path)
	if err != nil {
		t.Fatal(err)
	}
	discoverer, err := netns.New(netns.Config{Specs: []netns.Spec{spec}})
	if err != nil {
		t.Fatal(err)
	}
	f.come(t)
	return f, discoverer
}

func (f *flicker) come(t *testing.T) {
	t.Helper()
	if err := os.Symlink(f.Path(), f.path); err != nil {
		t.Fatal(err)
	}
}

func (f *flicker) leave(t *testing.T) {
	t.Helper()
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
}

// A namespace that is not found once is the same one when it is found again: its counters and its
// watched ports go on.
func TestKernelMissedNamespaceKeepsItsCounters(t *testing.T) {
	own := kerneltest.New(t)
	blue, discoverer := newFlicker(t)
	taker := newTaker(t, Config{
		Host:      &probe.Host{Config: probe.Config{NetNS: own.FD()}, Others: discoverer},
		Retention: retention,
		Parts:     Parts{TCP: true, Listeners: true},
	}, discovering())
	l := blue.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
	found := func(what string) {
		t.Helper()
		s := taker.Take(t.Context())
		if len(s.Others) != 1 || len(s.Missed) != 0 || s.Others[0].Label() != "blue" || len(s.Others[0].Watch.Data.Ports) != 1 {
			t.Fatalf("%s: others %+v, missed %+v, want blue and its port", what, s.Others, s.Missed)
		}
	}
	found("at first")
	_ = l.Close()
	worker := taker.host.others[onlyID(t, taker)]

	blue.leave(t)
	for range 5 {
		s := taker.Take(t.Context())
		if len(s.Others) != 0 || len(s.Missed) != 1 || s.Missed[0].Label() != "blue" || uint64(s.Missed[0].Inode) != blue.Inode() {
			t.Errorf("missed: others %+v, missed %+v, want blue to be missed", s.Others, s.Missed)
		}
	}
	blue.come(t)
	found("again")
	if taker.host.others[onlyID(t, taker)] != worker {
		t.Error("found again: it has another worker")
	}
}

func TestKernelMissedNamespaceKeepsItsFailures(t *testing.T) {
	kerneltest.RequireRoot(t)
	own := kerneltest.New(t)
	blue, discoverer := newFlicker(t)
	host := &probe.Host{Config: probe.Config{NetNS: own.FD()}, OwnInode: uint32(own.Inode()), Others: discoverer}
	taker := newTaker(t, Config{
		Host:      host,
		Retention: retention,
		Parts:     Parts{Listeners: true},
		Failures:  failures.New(failures.Config{Tracer: newTracer(t, own), Host: host}),
	}, discovering())
	addr := netip.MustParseAddrPort("127.0.0.1:80")
	blue.Listen(t, addr, kerneltest.Options{})
	taker.Take(t.Context())
	fail := func() {
		t.Helper()
		l, err := blue.OpenListener(addr, kerneltest.Options{})
		if err == nil {
			_ = l.Close()
			t.Fatal("a second listener could bind")
		}
	}
	failed := func(what string, want uint64) {
		t.Helper()
		s := taker.Take(t.Context())
		if s.Binds.Err != nil {
			t.Fatal(s.Binds.Err)
		}
		var n uint64
		for _, c := range s.Binds.Data.Counts {
			if c.Netns == uint32(blue.Inode()) && c.Port == 80 && !c.OtherPort {
				n += c.N
			}
		}
		if n != want {
			t.Errorf("%s: %d binds failed, want %d: %+v", what, n, want, s.Binds.Data.Counts)
		}
	}
	fail()
	failed("found", 1)
	blue.leave(t)
	failed("missed", 1)
	fail()
	failed("missed again", 2)
	blue.come(t)
	fail()
	failed("found again", 3)
}

// newTracer traces with the namespace as its own.
func newTracer(t *testing.T, own *kerneltest.NetNS) *bindtrace.Tracer {
	t.Helper()
	return opener.OrSkip(t, func() (tracer *bindtrace.Tracer, err error) {
		err = own.Run(func() error {
			tracer, err = bindtrace.New(bindtrace.Options{})
			return err
		})
		return tracer, err
	})
}

// onlyID is that of the one namespace beside the own.
func onlyID(t *testing.T, taker *Taker) netns.ID {
	t.Helper()
	if len(taker.host.others) != 1 {
		t.Fatalf("%d namespaces have a worker, want 1", len(taker.host.others))
	}
	var id netns.ID
	for id = range taker.host.others {
	}
	return id
}

// A namespace that cannot be entered any more costs itself.
func TestKernelBrokenNamespaceCostsOnlyItself(t *testing.T) {
	own, blue := kerneltest.New(t), kerneltest.New(t)
	own.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
	blue.Listen(t, netip.MustParseAddrPort("127.0.0.1:81"), kerneltest.Options{})
	taker := hostTaker(t, own, blue)
	cfg := taker.host.cfg
	set := cfg.Host.Open()
	if err := set.Namespaces[0].Close(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var ns Namespace
	publish := func(set func(*Namespace)) {
		mu.Lock()
		defer mu.Unlock()
		set(&ns)
	}
	broken := newWorker(cfg, func(p sock.Protocol) *watch.Watcher { return cfg.Watch.Elsewhere(p, 1) }, cfg.Host.In(set.Namespaces[0])).
		begin(set.Namespaces[0].ID, publish, &walkBudget{left: time.Hour}, false)
	broken.list(t.Context())
	broken.sockets(t.Context())
	for name, err := range map[string]error{"Watch": ns.Watch.Err, "Listeners": ns.Listeners.Err, "TCP": ns.TCP.Err, "Verdicts": ns.Verdicts.Err} {
		if err == nil {
			t.Errorf("%s of a closed namespace: no error", name)
		}
	}
	s := taker.Take(t.Context())
	if s.TCP.Err != nil || len(s.Others) != 1 || s.Others[0].TCP.Err != nil {
		t.Errorf("afterwards: %v, %+v", s.TCP.Err, s.Others)
	}
}
