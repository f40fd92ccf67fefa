package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

// verdictTaker takes verdicts on one port; flags may be nil.
func verdictTaker(t *testing.T, ns *kerneltest.NetNS, flags probe.FlagReader, number uint16) *Taker {
	t.Helper()
	return newTaker(t, Config{
		Host:      &probe.Host{Config: probe.Config{NetNS: ns.FD(), Flags: flags, Buckets: bindBuckets(t, flags)}},
		Retention: retention,
		Parts:     Parts{Verdicts: true},
	}, watch.Config{Ports: []watch.Spec{{PortRange: sock.PortRange{First: number, Last: number}}}, MaxPorts: 1})
}

func bpfFlags(t *testing.T) probe.FlagReader {
	t.Helper()
	kerneltest.RequireRoot(t)
	return opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF}) })
}

// bindBuckets reads them where the kernel lets it, as the exporter does.
func bindBuckets(t *testing.T, flags probe.FlagReader) probe.BucketReader {
	t.Helper()
	if flags == nil || flags.Mode() != sockflags.ModeBPF {
		return nil
	}
	buckets, err := bindbucket.New(nil)
	if err != nil {
		t.Logf("without bind buckets: %v", err)
		return nil
	}
	t.Cleanup(func() { buckets.Close() })
	return buckets
}

// boundFlagsKnown chooses by whether the flags of sockets that are only bound are known: out of
// bind buckets alone.
func boundFlagsKnown(t *testing.T, no, yes bindrule.Outcome) bindrule.Outcome {
	t.Helper()
	buckets, err := bindbucket.New(nil)
	if err != nil {
		return no
	}
	_ = buckets.Close()
	return yes
}

// judged takes a snapshot of the one port that the Taker watches.
func judged(t *testing.T, taker *Taker) verdict.Port {
	t.Helper()
	s := taker.Take(t.Context())
	if s.Verdicts.Err != nil {
		t.Fatal(s.Verdicts.Err)
	}
	if len(s.Verdicts.Data) != 1 {
		t.Fatalf("verdicts on %d ports, want 1", len(s.Verdicts.Data))
	}
	return s.Verdicts.Data[0]
}

// A testPort is a port with sockets, and what a bind to it answers.
type testPort struct {
	t         *testing.T
	ns        *kerneltest.NetNS
	number    uint16
	all       []*kerneltest.Listener
	listeners []*kerneltest.Listener            // those that stop
	opts      map[netip.Addr]kerneltest.Options // of the listeners, open or not
}

func newTestPort(t *testing.T, ns *kerneltest.NetNS, number uint16) *testPort {
	t.Helper()
	return &testPort{t: t, ns: ns, number: number, opts: make(map[netip.Addr]kerneltest.Options)}
}

func (s *testPort) listen(addr string, opts kerneltest.Options) *kerneltest.Listener {
	s.t.Helper()
	a := netip.MustParseAddr(addr)
	l := s.ns.Listen(s.t, netip.AddrPortFrom(a, s.number), opts)
	s.all, s.listeners = append(s.all, l), append(s.listeners, l)
	s.opts[a] = opts
	return l
}

func (s *testPort) peers(l *kerneltest.Listener, state kerneltest.State, from netip.Addr) {
	s.t.Helper()
	l.Peers(s.t, state, 2, from)
}

func (s *testPort) bound(addr string, opts kerneltest.Options) *kerneltest.Socket {
	s.t.Helper()
	return s.ns.Bind(s.t, netip.AddrPortFrom(netip.MustParseAddr(addr), s.number), opts)
}

func (s *testPort) stop() {
	s.t.Helper()
	for _, l := range s.listeners {
		if err := l.Orphan(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// bind is what the kernel answers now.
func (s *testPort) bind(addr netip.Addr, opts kerneltest.Options) bindrule.Outcome {
	s.t.Helper()
	x, err := s.ns.OpenBound(netip.AddrPortFrom(addr, s.number), opts)
	if errors.Is(err, unix.EADDRINUSE) {
		return bindrule.Blocked
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if err := x.Orphan(); err != nil {
		s.t.Fatal(err)
	}
	return bindrule.Free
}

// A tally counts the verdicts that were compared.
type tally struct{ free, blocked, unknown int }

func (n *tally) add(o bindrule.Outcome) {
	switch o {
	case bindrule.Free:
		n.free++
	case bindrule.Blocked:
		n.blocked++
	default:
		n.unknown++
	}
}

// A row is the question of a verdict.
type row struct {
	restart bool
	addr    netip.Addr
	opts    kerneltest.Options
}

// compare does, with the listeners stopped, what the verdicts are about. mayBeUnknown says
// where the sources cannot know.
func (s *testPort) compare(what string, v verdict.Port, n *tally, mayBeUnknown func(row) bool) {
	s.t.Helper()
	check := func(r row, got *verdict.Verdict) {
		s.t.Helper()
		n.add(got.Outcome)
		want := s.bind(r.addr, r.opts)
		if got.Outcome == bindrule.Unknown && mayBeUnknown(r) {
			return
		}
		if got.Outcome != want {
			s.t.Errorf("%s: %+v: verdict %v (%+v), bind() says %v", what, r, got.Outcome, *got, want)
			return
		}
		left, forever, ok := got.Remaining()
		if !ok && !mayBeUnknown(r) {
			s.t.Errorf("%s: %+v: how long is not known: %+v", what, r, *got)
		}
		if ok && (left > 0 || forever) != (want == bindrule.Blocked) {
			s.t.Errorf("%s: %+v: for %v, for ever %v, and bind() says %v", what, r, left, forever, want)
		}
	}
	for i := range v.Binds {
		b := &v.Binds[i]
		check(row{false, b.Address, kerneltest.Options{ReuseAddr: b.ReuseAddr, V6Only: s.opts[b.Address].V6Only}}, &b.Verdict)
	}
	for i := range v.Restarts {
		r := &v.Restarts[i]
		check(row{true, r.Address, s.opts[r.Address]}, &r.Verdict)
	}
}

// compareTwice compares twice: a snapshot from before the listeners stop, and one from afterwards.
func (s *testPort) compareTwice(flags probe.FlagReader, n *tally, mayBeUnknown func(row) bool) {
	s.t.Helper()
	taker := verdictTaker(s.t, s.ns, flags, s.number)
	before := judged(s.t, taker)
	s.stop()
	after := judged(s.t, taker)
	for _, v := range []verdict.Port{before, after} {
		if len(v.Restarts) != 1 || len(v.Binds) != 2 {
			s.t.Fatalf("%d restarts and %d binds judged, want 1 and 2", len(v.Restarts), len(v.Binds))
		}
	}
	s.compare("while it listens", before, n, mayBeUnknown)
	s.compare("after it went", after, n, mayBeUnknown)
}

// everyState is one socket kind of each state, and none.
func everyState(t *testing.T) map[string]func(s *testPort, l *kerneltest.Listener, from netip.Addr) {
	t.Helper()
	states := map[string]func(*testPort, *kerneltest.Listener, netip.Addr){
		"nothing": func(*testPort, *kerneltest.Listener, netip.Addr) {},
		"orphaned fin_wait2": func(s *testPort, l *kerneltest.Listener, from netip.Addr) {
			s.t.Helper()
			for _, p := range l.Peers(s.t, kerneltest.StateFinWait2, 2, from) {
				if err := p.Local.Orphan(); err != nil {
					s.t.Fatal(err)
				}
			}
		},
	}
	for _, state := range kerneltest.States() {
		if state == kerneltest.StateListen || state == kerneltest.StateClose && !showsBoundInactive(t) {
			continue
		}
		states[state.String()] = func(s *testPort, l *kerneltest.Listener, from netip.Addr) {
			s.t.Helper()
			n := 2
			if state == kerneltest.StateClose {
				n = 1 // a second one would conflict with it
			}
			l.Peers(s.t, state, n, from)
		}
	}
	return states
}

func TestKernelVerdictIsWhatBindDoes(t *testing.T) {
	yes, no := true, false
	states := everyState(t)
	for _, kind := range []struct {
		name   string
		listen string
		from   netip.Addr
		v6only *bool
	}{
		{"ipv4", "127.0.0.1", localhost4, nil},
		{"ipv4 wildcard", "0.0.0.0", localhost4, nil},
		{"ipv6", "::1", localhost6, nil},
		{"ipv6 wildcard v6only", "::", localhost6, &yes},
		{"dual-stack ipv6", "::", localhost6, &no},
		{"dual-stack ipv4", "::", localhost4, &no},
		{"v4-mapped", "::ffff:127.0.0.1", localhost4, nil},
	} {
		t.Run(kind.name, func(t *testing.T) {
			flags := bpfFlags(t)
			ns := kerneltest.New(t)
			var known, guessed tally
			number := uint16(2000)
			for name, fill := range states {
				there := name != "nothing" && name != kerneltest.StateSynRecv.String()
				for bits := range 4 {
					opts := kerneltest.Options{ReuseAddr: bits&1 != 0, ReusePort: bits&2 != 0, V6Only: kind.v6only}
					for _, source := range []struct {
						name    string
						flags   probe.FlagReader
						tally   *tally
						unknown func(row) bool
					}{
						{"bpf", flags, &known, func(r row) bool {
							if name == "close_wait" {
								return r.restart // the end of the server closes them
							}
							return name == "close" && (r.opts.ReuseAddr || r.opts.ReusePort)
						}},
						{"sock_diag", nil, &guessed, func(r row) bool {
							return there && (r.opts.ReuseAddr || r.restart) // whose flags are not known either
						}},
					} {
						number++
						t.Run(fmt.Sprintf("%s/reuseaddr=%v,reuseport=%v/%s", name, opts.ReuseAddr, opts.ReusePort, source.name), func(t *testing.T) {
							s := newTestPort(t, ns, number)
							fill(s, s.listen(kind.listen, opts), kind.from)
							s.compareTwice(source.flags, source.tally, source.unknown)
						})
					}
				}
			}
			t.Logf("with eBPF %+v, without %+v", known, guessed)
			for _, n := range []tally{known, guessed} {
				if n.free == 0 || n.blocked == 0 {
					t.Errorf("compared %+v, want free and blocked ones", n)
				}
			}
		})
	}
}

// The end of a server closes its connections in CLOSE_WAIT. Whether bind() works at once depends on the peers.
func TestCloseWaitEndsWithTheServerIfThePeersAnswer(t *testing.T) {
	for name, answers := range map[string]bool{"they answer": true, "they do not": false} {
		t.Run(name, func(t *testing.T) {
			s := newTestPort(t, kerneltest.New(t), 4840)
			l := s.listen("0.0.0.0", kerneltest.Options{})
			peer := l.Peers(t, kerneltest.StateCloseWait, 1, localhost4)[0]
			r := judged(t, verdictTaker(t, s.ns, bpfFlags(t), s.number)).Restarts[0]
			if r.Outcome != bindrule.Unknown || len(r.Doubtful) != 1 {
				t.Fatalf("a restart is %v: %+v, want unknown by the one in CLOSE_WAIT", r.Outcome, r.Verdict)
			}
			if !answers {
				if err := peer.Remote.Deafen(); err != nil {
					t.Fatal(err)
				}
			}
			s.stop()
			if err := peer.Local.Orphan(); err != nil {
				t.Fatal(err)
			}
			want := bindrule.Blocked
			for answers && want == bindrule.Blocked && t.Context().Err() == nil {
				want = s.bind(netip.IPv4Unspecified(), kerneltest.Options{}) // works soon
			}
			if got := s.bind(netip.IPv4Unspecified(), kerneltest.Options{}); got != want {
				t.Errorf("bind() says %v, want %v", got, want)
			}
		})
	}
}

// What nobody has accepted goes with its listener, whatever flags it has.
func TestConnectionsInAnAcceptQueueDoNotBlockARestart(t *testing.T) {
	s := newTestPort(t, kerneltest.New(t), 4840)
	s.listen("0.0.0.0", kerneltest.Options{Backlog: 8}).Queue(t, 3, localhost4)
	r := judged(t, verdictTaker(t, s.ns, bpfFlags(t), s.number)).Restarts[0]
	want := boundFlagsKnown(t, bindrule.Blocked, bindrule.Free) // known out of bind buckets alone
	if r.Outcome != want {
		t.Errorf("a restart is %v: %+v, want %v", r.Outcome, r.Verdict, want)
	}
	s.stop()
	if got := s.bind(netip.IPv4Unspecified(), kerneltest.Options{}); got != bindrule.Free {
		t.Errorf("bind() says %v, want free", got)
	}
}

// What fools people, each with the answers spelled out: by address, without and with
// SO_REUSEADDR.
func TestKernelVerdictsOfWhatFoolsPeople(t *testing.T) {
	yes := true
	type answers map[string]bindrule.Outcome // "127.0.0.1", "127.0.0.1 reuse", "127.0.0.1 restart"
	const free, blocked, unknown = bindrule.Free, bindrule.Blocked, bindrule.Unknown
	for _, tt := range []struct {
		name    string
		prepare func(*testPort)
		want    answers
	}{
		{"TIME_WAIT of a server without the flag", func(s *testPort) {
			s.t.Helper()
			s.peers(s.listen("127.0.0.1", kerneltest.Options{}), kerneltest.StateTimeWait, localhost4)
		}, answers{"127.0.0.1": blocked, "127.0.0.1 reuse": blocked, "127.0.0.1 restart": blocked}},

		{"TIME_WAIT of a server with the flag", func(s *testPort) {
			s.t.Helper()
			s.peers(s.listen("127.0.0.1", kerneltest.Options{ReuseAddr: true}), kerneltest.StateTimeWait, localhost4)
		}, answers{"127.0.0.1": blocked, "127.0.0.1 reuse": free, "127.0.0.1 restart": free}},

		{"the flag was mended while connections without it linger", func(s *testPort) {
			s.t.Helper()
			l := s.listen("127.0.0.1", kerneltest.Options{})
			s.peers(l, kerneltest.StateTimeWait, localhost4)
			if err := unix.SetsockoptInt(l.FD(), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				s.t.Fatal(err)
			}
			s.opts[localhost4] = kerneltest.Options{ReuseAddr: true}
			s.peers(l, kerneltest.StateTimeWait, localhost4)
		}, answers{"127.0.0.1": blocked, "127.0.0.1 reuse": blocked, "127.0.0.1 restart": blocked}},

		{"another address of the port", func(s *testPort) {
			s.t.Helper()
			s.peers(s.listen("127.0.0.1", kerneltest.Options{}), kerneltest.StateEstablished, localhost4)
			s.listen("127.0.0.2", kerneltest.Options{})
		}, answers{
			"127.0.0.1": blocked, "127.0.0.1 reuse": blocked, "127.0.0.1 restart": blocked,
			"127.0.0.2": free, "127.0.0.2 reuse": free, "127.0.0.2 restart": free,
		}},

		{"the IPv4 half of a dual server", func(s *testPort) {
			s.t.Helper()
			s.peers(s.listen("0.0.0.0", kerneltest.Options{}), kerneltest.StateTimeWait, localhost4)
			s.listen("::", kerneltest.Options{V6Only: &yes})
		}, answers{
			"0.0.0.0": blocked, "0.0.0.0 reuse": blocked, "0.0.0.0 restart": blocked,
			"::": free, ":: reuse": free, ":: restart": free,
		}},

		{"the IPv4 half of a dual server, whose IPv6 half goes on", func(s *testPort) {
			s.t.Helper()
			s.peers(s.listen("0.0.0.0", kerneltest.Options{}), kerneltest.StateTimeWait, localhost4)
			s.listen("::", kerneltest.Options{V6Only: &yes})
			s.listeners = s.listeners[:1]
		}, answers{
			"0.0.0.0": blocked, "0.0.0.0 reuse": blocked, "0.0.0.0 restart": blocked,
			"::": free, ":: reuse": free, ":: restart": free,
		}},

		{"a dual-stack server with an IPv4 client", func(s *testPort) {
			s.t.Helper()
			s.peers(s.listen("::", kerneltest.Options{}), kerneltest.StateTimeWait, localhost4)
		}, answers{"::": blocked, ":: reuse": blocked, ":: restart": blocked}},

		{"a client that has the port", func(s *testPort) {
			s.t.Helper()
			l := s.ns.Listen(s.t, netip.MustParseAddrPort("127.0.0.1:1"), kerneltest.Options{})
			c := s.bound("127.0.0.1", kerneltest.Options{ReuseAddr: true})
			if err := unix.Connect(c.FD(), &unix.SockaddrInet4{Port: int(l.Port()), Addr: localhost4.As4()}); err != nil && !errors.Is(err, unix.EINPROGRESS) {
				s.t.Fatal(err)
			}
		}, answers{"0.0.0.0": blocked, "0.0.0.0 reuse": free, "::": blocked, ":: reuse": free}},

		{"nobody", func(*testPort) {}, answers{"0.0.0.0": free, "0.0.0.0 reuse": free, "::": free, ":: reuse": free}},

		{"a socket that is bound and no more", func(s *testPort) {
			s.t.Helper()
			if !showsBoundInactive(s.t) {
				kerneltest.Skip(s.t, "this kernel does not show it")
			}
			s.bound("::1", kerneltest.Options{})
		}, answers{"0.0.0.0": free, "0.0.0.0 reuse": free, "::": blocked, ":: reuse": boundFlagsKnown(t, unknown, blocked)}},

		{"a bound socket on another device", func(s *testPort) {
			s.t.Helper()
			if !showsBoundInactive(s.t) {
				kerneltest.Skip(s.t, "this kernel does not show it")
			}
			s.listen("0.0.0.0", kerneltest.Options{Device: "dummy0"})
			s.bound("0.0.0.0", kerneltest.Options{Device: "lo"})
		}, answers{"0.0.0.0": free, "0.0.0.0 reuse": free, "0.0.0.0 restart": free}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			flags := bpfFlags(t)
			ns := kerneltest.New(t)
			ns.AddDummy(t, "dummy0", netip.MustParsePrefix("192.0.2.1/24"))
			s := newTestPort(t, ns, 4840)
			tt.prepare(s)
			taker := verdictTaker(t, ns, flags, s.number)
			before := judged(t, taker)
			s.stop()
			for _, v := range []verdict.Port{before, judged(t, taker)} {
				got := make(answers)
				for i := range v.Binds {
					b := &v.Binds[i]
					opts := s.opts[b.Address]
					opts.ReuseAddr = b.ReuseAddr
					name := b.Address.String()
					if b.ReuseAddr {
						name += " reuse"
					}
					got[name] = b.Outcome
					s.ask(name, row{false, b.Address, opts}, b.Outcome)
				}
				for i := range v.Restarts {
					r := &v.Restarts[i]
					name := r.Address.String() + " restart"
					got[name] = r.Outcome
					s.ask(name, row{true, r.Address, s.opts[r.Address]}, r.Outcome)
				}
				if !maps.Equal(got, tt.want) {
					t.Errorf("got  %v\nwant %v", got, tt.want)
				}
			}
		})
	}
}

// ask compares an answer with the kernel's. One that listens still is a blocker itself.
func (s *testPort) ask(name string, r row, got bindrule.Outcome) {
	s.t.Helper()
	listens := slices.ContainsFunc(s.all, func(l *kerneltest.Listener) bool { return l.FD() >= 0 && l.Addr().Addr() == r.addr })
	if kernel := s.bind(r.addr, r.opts); !listens && got != bindrule.Unknown && kernel != got {
		s.t.Errorf("%s: verdict %v, bind() says %v", name, got, kernel)
	}
}

// A loop that retries until it binds succeeds when it was predicted to, to a second.
func TestKernelBindSucceedsWhenPredicted(t *testing.T) {
	if testing.Short() {
		kerneltest.Skip(t, "takes a minute, and -short was given")
	}
	t.Parallel()
	const (
		within  = time.Second
		retries = 20 * time.Millisecond
		looks   = 4 * time.Second
	)
	ns := kerneltest.New(t)
	s := newTestPort(t, ns, 4840)
	for i := range byte(4) { // which stop at different times: the timer wheel turns every few seconds
		s.listen(netip.AddrFrom4([4]byte{127, 0, 0, i + 1}).String(), kerneltest.Options{})
	}
	takers := map[string]*Taker{
		"with eBPF": verdictTaker(t, ns, bpfFlags(t), s.number),
		"without":   verdictTaker(t, ns, nil, s.number),
	}
	for _, taker := range takers {
		judged(t, taker) // who listens, and how
	}
	for _, l := range s.listeners {
		l.Peers(t, kerneltest.StateTimeWait, 20, localhost4)
		awayFromTheEdge(t, l)
		time.Sleep(600 * time.Millisecond)
	}
	s.stop()

	bound := make(map[netip.Addr]time.Time)
	predictions := make(map[netip.Addr][]prediction)
	for next := time.Now(); len(bound) < len(s.opts); time.Sleep(retries) {
		for addr := range s.opts {
			if bound[addr].IsZero() && s.bind(addr, kerneltest.Options{}) == bindrule.Free {
				bound[addr] = time.Now()
			}
		}
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(looks)
		for name, taker := range takers {
			for addr, said := range predict(t, name, taker) {
				if bound[addr].IsZero() {
					predictions[addr] = append(predictions[addr], said...)
				}
			}
		}
	}

	for addr, at := range bound {
		// Without eBPF only the binder without the flag is known.
		if n := len(predictions[addr]); n < 4*10 {
			t.Errorf("%v: %d predictions, want at least 40", addr, n)
		}
		var most time.Duration
		for _, p := range predictions[addr] {
			off := at.Sub(p.at)
			if most = max(most, off.Abs()); off.Abs() > within {
				t.Errorf("%v %s: predicted %v ahead, and %v off", addr, p.row, at.Sub(p.said), off)
			}
		}
		t.Logf("%v: %d predictions, off by up to %v", addr, len(predictions[addr]), most)
	}
	for name, taker := range takers {
		for _, b := range judged(t, taker).Binds {
			if left, forever, ok := b.Remaining(); left != 0 || forever || !ok {
				t.Errorf("%s, afterwards: %+v, want free", name, b)
			}
		}
	}
}

// A prediction was said at a time, of another.
type prediction struct {
	row      string
	said, at time.Time
}

// predict takes a snapshot, and what is known of each address.
func predict(t *testing.T, name string, taker *Taker) map[netip.Addr][]prediction {
	t.Helper()
	v := judged(t, taker)
	now := time.Now()
	out := make(map[netip.Addr][]prediction)
	add := func(addr netip.Addr, row string, v *verdict.Verdict) {
		if left, forever, ok := v.Remaining(); ok && !forever {
			out[addr] = append(out[addr], prediction{name + ", " + row, now, now.Add(left)})
		}
	}
	for i := range v.Binds {
		b := &v.Binds[i]
		add(b.Address, fmt.Sprintf("reuseaddr %v", b.ReuseAddr), &b.Verdict)
	}
	for i := range v.Restarts {
		add(v.Restarts[i].Address, "restart", &v.Restarts[i].Verdict)
	}
	return out
}

// awayFromTheEdge makes one more socket in TIME_WAIT, which does not expire so close to a
// turn of the timer wheel that the hundredth of a second of times(2) decides.
func awayFromTheEdge(t *testing.T, l *kerneltest.Listener) {
	t.Helper()
	const edge = 100 * time.Millisecond
	for range 50 {
		l.Peers(t, kerneltest.StateTimeWait, 1, localhost4)
		timers := linux.ReadTimers()
		if timers.Gone(time.Minute-edge, timers.At) == timers.Gone(time.Minute+edge, timers.At) {
			return
		}
		time.Sleep(2 * edge)
	}
	t.Fatal("every socket expires when the timer wheel turns")
}
