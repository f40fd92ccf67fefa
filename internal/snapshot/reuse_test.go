package snapshot

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var errFlags = errors.New("flags are broken")

// scriptedFlags is a FlagReader that answers what the test says.
type scriptedFlags struct {
	mode   sockflags.Mode
	answer func(context.Context, sockflags.Request) (*sockflags.Result, error)

	mu       sync.Mutex
	requests []sockflags.Request
}

func (f *scriptedFlags) Mode() sockflags.Mode { return f.mode }

func (f *scriptedFlags) Read(ctx context.Context, req sockflags.Request) (*sockflags.Result, error) {
	f.mu.Lock()
	f.requests = append(f.requests, req)
	f.mu.Unlock()
	return f.answer(ctx, req)
}

// asked are the requests since the last call.
func (f *scriptedFlags) asked() []sockflags.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.requests = nil }()
	return f.requests
}

// knowing answers with these flags.
func knowing(listeners map[uint64]sock.ReuseFlags, groups ...sockflags.Group) *scriptedFlags {
	return &scriptedFlags{mode: sockflags.ModeBPF, answer: func(context.Context, sockflags.Request) (*sockflags.Result, error) {
		return &sockflags.Result{Listeners: listeners, Groups: groups}, nil
	}}
}

func withFlags(f *fake, flags probe.FlagReader) Config {
	cfg := f.config()
	cfg.Host.Flags, cfg.Parts.Verdicts = flags, true
	return cfg
}

// bothFlags are the flags of a group.
type bothFlags struct{ addr, port bindrule.Flag }

func flagsOfGroups(s *Snapshot) []bothFlags {
	var out []bothFlags
	for i := range s.Listeners.Data {
		out = append(out, bothFlags{s.Listeners.Data[i].ReuseAddr, s.Listeners.Data[i].ReusePort})
	}
	return out
}

func TestGroupHasAFlagWhereEverySocketHasIt(t *testing.T) {
	var (
		none     = sock.ReuseFlags{}
		addr     = sock.ReuseFlags{ReuseAddr: true}
		reusePt  = sock.ReuseFlags{ReusePort: true}
		both     = sock.ReuseFlags{ReuseAddr: true, ReusePort: true}
		listener = diagtest.Listening("0.0.0.0:80", 0)
	)
	for _, tt := range []struct {
		name           string
		sockets        int // of the group, with the cookies 1, 2, ...
		flags          map[uint64]sock.ReuseFlags
		addr, portFlag bindrule.Flag
	}{
		{"alone, with both", 1, map[uint64]sock.ReuseFlags{1: both}, bindrule.Yes, bindrule.Yes},
		{"alone, with one", 1, map[uint64]sock.ReuseFlags{1: addr}, bindrule.Yes, bindrule.No},
		{"alone, with the other", 1, map[uint64]sock.ReuseFlags{1: reusePt}, bindrule.No, bindrule.Yes},
		{"alone, without", 1, map[uint64]sock.ReuseFlags{1: none}, bindrule.No, bindrule.No},
		{"alone, unknown", 1, nil, bindrule.FlagUnknown, bindrule.FlagUnknown},
		{"flags of another socket", 1, map[uint64]sock.ReuseFlags{2: both}, bindrule.FlagUnknown, bindrule.FlagUnknown},
		{"all have both", 3, map[uint64]sock.ReuseFlags{1: both, 2: both, 3: both}, bindrule.Yes, bindrule.Yes},
		{"one lacks one", 3, map[uint64]sock.ReuseFlags{1: both, 2: reusePt, 3: both}, bindrule.No, bindrule.Yes},
		{"the last lacks both", 3, map[uint64]sock.ReuseFlags{1: both, 2: both, 3: none}, bindrule.No, bindrule.No},
		{"one is unknown", 3, map[uint64]sock.ReuseFlags{1: both, 3: both}, bindrule.FlagUnknown, bindrule.FlagUnknown},
		{"one is unknown, a later one lacks one", 3, map[uint64]sock.ReuseFlags{1: both, 3: addr}, bindrule.FlagUnknown, bindrule.No},
		{"one is unknown, an earlier one lacks one", 3, map[uint64]sock.ReuseFlags{1: addr, 2: both}, bindrule.FlagUnknown, bindrule.No},
		{"the last is unknown", 3, map[uint64]sock.ReuseFlags{1: both, 2: both}, bindrule.FlagUnknown, bindrule.FlagUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			var sockets []netlinkdiag.Socket
			for i := range tt.sockets {
				s := listener
				s.Cookie = uint64(i + 1)
				sockets = append(sockets, s)
			}
			f.set(sockets...)
			s := whole(t, newTaker(t, withFlags(f, knowing(tt.flags)), discovering()))
			want := []bothFlags{{addr: tt.addr, port: tt.portFlag}}
			if got := flagsOfGroups(&s); s.Reuse.Err != nil || !slices.Equal(got, want) {
				t.Errorf("got %+v, %v\nwant %+v", got, s.Reuse.Err, want)
			}
		})
	}
}

func TestGroupsKeepTheirFlagsApart(t *testing.T) {
	onDevice := diagtest.Listening("0.0.0.0:80", 5)
	onDevice.Ifindex = 1
	f := newFake(diagtest.Listening("[::]:80", 1), onDevice, diagtest.Listening("0.0.0.0:80", 3), diagtest.Listening("0.0.0.0:443", 4), diagtest.Listening("127.0.0.1:80", 2))
	flags := knowing(map[uint64]sock.ReuseFlags{
		1: {ReuseAddr: true}, 2: {ReusePort: true}, 3: {}, 4: {ReuseAddr: true, ReusePort: true},
	})
	s := whole(t, newTaker(t, withFlags(f, flags), discovering()))
	want := []bothFlags{
		{addr: bindrule.No, port: bindrule.No},                   // 0.0.0.0:80
		{addr: bindrule.FlagUnknown, port: bindrule.FlagUnknown}, // the same on lo
		{addr: bindrule.No, port: bindrule.Yes},                  // 127.0.0.1:80
		{addr: bindrule.Yes, port: bindrule.No},                  // [::]:80
		{addr: bindrule.Yes, port: bindrule.Yes},                 // 0.0.0.0:443
	}
	if got := flagsOfGroups(&s); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFlagsAreAskedForWatchedPortsAndTheirListeners(t *testing.T) {
	web, ssh := diagtest.Listening("0.0.0.0:80", 1), diagtest.Listening("0.0.0.0:22", 2)
	web.Inode, ssh.Inode = 11, 22
	f := newFake(web, ssh)
	flags := knowing(nil)
	taker := newTaker(t, withFlags(f, flags), watch.Config{
		Ports:     []watch.Spec{{PortRange: sock.PortRange{First: 443, Last: 443}}},
		Listeners: true, Exclude: []watch.Exclusion{{PortRange: sock.PortRange{First: 22, Last: 22}}}, MaxPorts: 512,
	})
	whole(t, taker)
	want := []sockflags.Request{{
		Ports: []uint16{80, 443}, ListenersOnly: true, Listeners: []sockflags.ListenerID{{Cookie: 1, Inode: 11}},
		Expected: map[uint16][]sockflags.Bind{80: {{Addr: netip.IPv4Unspecified(), UIDKnown: true}}},
	}}
	if got := flags.asked(); !reflect.DeepEqual(got, want) {
		t.Errorf("asked %+v, want %+v", got, want)
	}
}

func TestWithoutWatchedPortsNobodyIsAsked(t *testing.T) {
	flags := knowing(nil)
	s := whole(t, newTaker(t, withFlags(newFake(), flags), discovering()))
	if got := flags.asked(); got != nil || s.Reuse.Err != nil {
		t.Errorf("asked %+v, error %v, want neither", got, s.Reuse.Err)
	}
}

func TestSocketsKeepTheirFlags(t *testing.T) {
	v4, v6, mapped := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:127.0.0.1")
	group := func(port uint16, addr netip.Addr, state netlinkdiag.State, flags sock.ReuseFlags, n uint64) sockflags.Group {
		return sockflags.Group{Port: port, Addr: addr, State: state, Flags: flags, Count: n}
	}
	const timeWait, established = netlinkdiag.StateTimeWait, netlinkdiag.StateEstablished
	flags := knowing(nil,
		group(80, v4, timeWait, sock.ReuseFlags{}, 1),
		group(80, v4, timeWait, sock.ReuseFlags{ReuseAddr: true}, 20),
		group(80, v4, timeWait, sock.ReuseFlags{ReusePort: true}, 300),
		group(80, v4, timeWait, sock.ReuseFlags{ReuseAddr: true, ReusePort: true}, 4000),
		group(80, netip.MustParseAddr("192.0.2.1"), timeWait, sock.ReuseFlags{}, 50000), // another address
		group(80, v6, timeWait, sock.ReuseFlags{}, 5),
		group(80, mapped, established, sock.ReuseFlags{}, 6),
		group(443, v4, established, sock.ReuseFlags{ReuseAddr: true}, 7),
		group(22, v4, established, sock.ReuseFlags{}, 8),                           // not watched
		group(80, v4, netlinkdiag.State(200), sock.ReuseFlags{ReuseAddr: true}, 9), // from a kernel to come
	)
	s := whole(t, newTaker(t, withFlags(newFake(diagtest.Listening("0.0.0.0:80", 1), diagtest.Listening("0.0.0.0:443", 2)), flags), discovering()))
	for number, want := range map[uint16]portWithoutFlags{
		80: {
			ipv4: familyWithoutFlags{
				reuseAddr: counts(map[netlinkdiag.State]uint64{timeWait: 50301}),
				reusePort: counts(map[netlinkdiag.State]uint64{timeWait: 50021}),
			},
			ipv6: familyWithoutFlags{
				reuseAddr: counts(map[netlinkdiag.State]uint64{timeWait: 5, established: 6}),
				reusePort: counts(map[netlinkdiag.State]uint64{timeWait: 5, established: 6}),
			},
		},
		443: {ipv4: familyWithoutFlags{reusePort: counts(map[netlinkdiag.State]uint64{established: 7})}},
	} {
		if got := withoutFlags(&s, number); got != want || !known(&s)[number] {
			t.Errorf("port %d: got  %+v, known %v\nwant %+v", number, got, known(&s), want)
		}
	}
	var kept []int
	for _, p := range s.Verdicts.Data {
		kept = append(kept, len(p.Port.Sockets)-1) // but the listener
	}
	if !slices.Equal(kept, []int{8, 1}) {
		t.Errorf("%d groups of sockets on the ports, want all 8 and 1", kept)
	}
}

// portWithoutFlags counts the sockets of a port that lack a flag, by state. Listeners, and bound
// sockets that neither listen nor connect, are not in it.
type portWithoutFlags struct{ ipv4, ipv6 familyWithoutFlags }

type familyWithoutFlags struct{ reuseAddr, reusePort [sock.NumStates]uint64 }

func withoutFlags(s *Snapshot, number uint16) (out portWithoutFlags) {
	for _, b := range otherSockets(s)[number] {
		if int(b.State) >= sock.NumStates {
			continue
		}
		half := &out.ipv6
		if b.Addr.Is4() {
			half = &out.ipv4
		}
		if b.ReuseAddr == bindrule.No {
			half.reuseAddr[b.State] += b.Count
		}
		if b.ReusePort == bindrule.No {
			half.reusePort[b.State] += b.Count
		}
	}
	return out
}

// otherSockets returns, by port, what a bind meets there but listeners and sockets that are only
// bound.
func otherSockets(s *Snapshot) map[uint16][]bindrule.Socket {
	out := make(map[uint16][]bindrule.Socket)
	for _, p := range s.Verdicts.Data {
		for _, b := range p.Port.Sockets {
			if b.State != sock.StateListen && b.State != sock.StateClose {
				out[p.Number] = append(out[p.Number], b)
			}
		}
	}
	return out
}

// known says, by port, whether the flags of all sockets are known that otherSockets returns.
func known(s *Snapshot) map[uint16]bool {
	out := make(map[uint16]bool)
	for _, p := range s.Verdicts.Data {
		out[p.Number] = !p.Port.Incomplete && !slices.ContainsFunc(otherSockets(s)[p.Number], func(b bindrule.Socket) bool {
			return b.ReuseAddr == bindrule.FlagUnknown || b.ReusePort == bindrule.FlagUnknown
		})
	}
	return out
}

func TestPortOfWhichSocketsWereMissedIsNotKnown(t *testing.T) {
	flags := &scriptedFlags{mode: sockflags.ModeBPF, answer: func(context.Context, sockflags.Request) (*sockflags.Result, error) {
		return &sockflags.Result{Missed: map[uint16]uint64{80: 1}}, nil
	}}
	s := whole(t, newTaker(t, withFlags(newFake(diagtest.Listening("0.0.0.0:80", 1), diagtest.Listening("0.0.0.0:443", 2)), flags), discovering()))
	if got, want := known(&s), map[uint16]bool{80: false, 443: true}; !reflect.DeepEqual(got, want) {
		t.Errorf("known %v, want %v", got, want)
	}
}

func TestFailingFlagsCostTheirPartOnly(t *testing.T) {
	f := newFake(webServer()...)
	flags := &scriptedFlags{mode: sockflags.ModeBPF, answer: func(context.Context, sockflags.Request) (*sockflags.Result, error) {
		return nil, errFlags
	}}
	taker := newTaker(t, withFlags(f, flags), discovering())
	s := whole(t, taker)
	checkWebServer(t, &s)
	if !errors.Is(s.Reuse.Err, errFlags) || !errors.Is(s.Binds.Err, ErrOff) {
		t.Errorf("Reuse: %v, Binds: %v; want %v and %v", s.Reuse.Err, s.Binds.Err, errFlags, ErrOff)
	}
}

func TestFlagsNeedTheListeners(t *testing.T) {
	f := newFake(webServer()...)
	f.script(refuse(unix.ENOMEM), nil)
	flags := knowing(nil)
	s := newTaker(t, withFlags(f, flags), discovering()).Take(t.Context())
	if !errors.Is(s.Reuse.Err, unix.ENOMEM) || flags.asked() != nil {
		t.Errorf("Reuse: %v, want %v, without asking", s.Reuse.Err, unix.ENOMEM)
	}
}

func TestFlagsAreOffWithoutASource(t *testing.T) {
	f := newFake(webServer()...)
	f.script(refuse(unix.ENOMEM), nil)
	taker := newTaker(t, f.config(), discovering())
	s := taker.Take(t.Context())
	if !s.Reuse.Off() || !s.Binds.Off() {
		t.Errorf("Reuse: %v, Binds: %v; want both off, whatever else fails", s.Reuse.Err, s.Binds.Err)
	}
	f.script(nil, nil)
	whole(t, taker)
	if !taker.Ready() {
		t.Error("not ready, with all parts there that are on")
	}
}

func TestWaiterLeavesSlowFlagsAndCancelsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		var cancelled error
		flags := &scriptedFlags{mode: sockflags.ModeBPF, answer: func(ctx context.Context, _ sockflags.Request) (*sockflags.Result, error) {
			<-ctx.Done()
			cancelled = ctx.Err()
			return nil, ctx.Err()
		}}
		taker := newTaker(t, withFlags(f, flags), discovering())
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
		defer cancel()
		s := taker.Take(ctx)
		checkErrors(t, &s, nil, nil, nil, nil)
		checkWebServer(t, &s)
		if !errors.Is(s.Reuse.Err, errEnough) {
			t.Errorf("Reuse: %v, want %v", s.Reuse.Err, errEnough)
		}
		synctest.Wait()
		if !errors.Is(cancelled, context.Canceled) {
			t.Errorf("the reader's context: %v, want %v", cancelled, context.Canceled)
		}
	})
}

func TestFlagsOfManySocketsAreReadBesideTheDump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(append(webServer(), slices.Repeat(webServer()[2:3], fewSockets)...)...)
		taker := newTaker(t, withFlags(f, knowing(map[uint64]sock.ReuseFlags{1: {}})), discovering())
		taker.Take(t.Context())
		release := held(f)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
		defer cancel()
		s := taker.Take(ctx)
		checkErrors(t, &s, nil, nil, errEnough, nil)
		if s.Reuse.Err != nil {
			t.Errorf("Reuse: %v while the dump is held back, want none", s.Reuse.Err)
		}
		release()
	})
}

// With nothing but listeners on the watched ports there is no need to walk every connection
// of the host for their flags.
func TestConnectionsAreLeftOutWhileThereAreNone(t *testing.T) {
	f := newFake()
	flags := knowing(nil)
	taker := newTaker(t, withFlags(f, flags), discovering())
	listener := diagtest.Listening("0.0.0.0:80", 1)
	linger := diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4001", 30*time.Second)
	bound := diagtest.InState(netlinkdiag.StateClose, "127.0.0.1:80", "0.0.0.0:0")
	for i, step := range []struct {
		sockets       []netlinkdiag.Socket
		listenersOnly bool
	}{
		{[]netlinkdiag.Socket{listener}, true},
		{[]netlinkdiag.Socket{listener}, true},
		{[]netlinkdiag.Socket{listener}, true},
		{[]netlinkdiag.Socket{listener, linger}, false}, // in the very snapshot that shows it
		{[]netlinkdiag.Socket{listener, linger}, false},
		{[]netlinkdiag.Socket{listener}, true}, // the dump comes first where there are few sockets
		{[]netlinkdiag.Socket{listener}, true},
		{[]netlinkdiag.Socket{listener, bound}, false},
		{[]netlinkdiag.Socket{listener, diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:4000", "127.0.0.1:80")}, true}, // not watched
	} {
		f.set(step.sockets...)
		s := whole(t, taker)
		asked := flags.asked()
		if len(asked) != 1 || asked[0].ListenersOnly != step.listenersOnly {
			t.Errorf("step %d: asked %+v, want once with ListenersOnly %v", i, asked, step.listenersOnly)
		}
		if !known(&s)[80] {
			t.Errorf("step %d: flags on the port are not known", i)
		}
	}
}

func TestConnectionsAreAskedForWhereVerdictsNeedThem(t *testing.T) {
	for _, tt := range []struct {
		name          string
		change        func(*fake, *Config)
		listenersOnly bool
	}{
		{"no verdicts", func(_ *fake, cfg *Config) { cfg.Parts.TCP, cfg.Parts.Verdicts = false, false }, true},
		{"dump fails", func(f *fake, _ *Config) { f.script(nil, refuse(unix.ENOMEM)) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(diagtest.Listening("0.0.0.0:80", 1))
			flags := knowing(nil)
			cfg := withFlags(f, flags)
			tt.change(f, &cfg)
			taker := newTaker(t, cfg, discovering())
			for range 3 {
				taker.Take(t.Context())
				if asked := flags.asked(); len(asked) != 1 || asked[0].ListenersOnly != tt.listenersOnly {
					t.Errorf("asked %+v, want once with ListenersOnly %v", asked, tt.listenersOnly)
				}
			}
		})
	}
}
