package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var errBPF = errors.New("no flags today")

// restartsOf returns the listeners that are judged: by address, whether it listens.
func restartsOf(v verdict.Port) map[string]bool {
	out := make(map[string]bool)
	for _, r := range v.Restarts {
		out[fmt.Sprintf("%v%%%d", r.Address, r.Ifindex)] = r.Listening
	}
	return out
}

// bindRows are the binds that are judged, in order.
func bindRows(v verdict.Port) (out []string) {
	for _, b := range v.Binds {
		out = append(out, fmt.Sprintf("%v %v", b.Address, b.ReuseAddr))
	}
	return out
}

func checkRestarts(t *testing.T, v verdict.Port, want map[string]bool) {
	t.Helper()
	if got := restartsOf(v); !maps.Equal(got, want) {
		t.Errorf("judged %v, want %v", got, want)
	}
}

// answeredFlags is a FlagReader with one answer.
type answeredFlags struct {
	mode   sockflags.Mode
	result sockflags.Result
	err    error
}

func (f *answeredFlags) Mode() sockflags.Mode { return f.mode }

func (f *answeredFlags) Read(context.Context, sockflags.Request) (*sockflags.Result, error) {
	return &f.result, f.err
}

// judging is a Config with verdicts.
func (f *fake) judging(flags probe.FlagReader) Config {
	cfg := f.config()
	cfg.Parts.Verdicts, cfg.Host.Flags = true, flags
	return cfg
}

// onPort80 watches a port that nobody listens on.
func onPort80() watch.Config {
	return watch.Config{Ports: []watch.Spec{{PortRange: sock.PortRange{First: 80, Last: 80}}}, MaxPorts: 1}
}

func inState(state netlinkdiag.State) netlinkdiag.Socket {
	return diagtest.InState(state, "127.0.0.1:80", "127.0.0.1:4000")
}

// Without eBPF nobody knows the flags of what lingers.
func TestWithoutEBPFABinderWithoutTheFlagIsKnown(t *testing.T) {
	orphan := diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4000", 5*time.Second)
	orphan.State = netlinkdiag.StateFinWait2
	const forever = -1
	type answer struct {
		outcome bindrule.Outcome
		atLeast time.Duration // up to a turn of the timer wheel more
	}
	type sockets = []netlinkdiag.Socket
	free, unknown := answer{outcome: bindrule.Free}, answer{}
	for _, tt := range []struct {
		name          string
		sockets       sockets
		without, with answer
	}{
		{"nothing", nil, free, free},
		{"SYN_RECV", sockets{inState(netlinkdiag.StateSynRecv)}, free, free},
		{"TIME_WAIT", sockets{
			diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4000", time.Second), diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4001", 40*time.Second),
		}, answer{bindrule.Blocked, 40 * time.Second}, unknown},
		{"TIME_WAIT that is due and still there", sockets{diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4000", 0)}, answer{bindrule.Blocked, 1}, unknown},
		{"FIN_WAIT2 without a process", sockets{orphan}, answer{bindrule.Blocked, 5 * time.Second}, unknown},
		{"FIN_WAIT2 with one", sockets{inState(netlinkdiag.StateFinWait2)}, answer{bindrule.Blocked, forever}, unknown},
		{"ESTABLISHED and TIME_WAIT", sockets{
			inState(netlinkdiag.StateEstablished), diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4001", time.Second),
		}, answer{bindrule.Blocked, forever}, unknown},
		{"bound and no more", sockets{inState(netlinkdiag.StateClose)}, answer{bindrule.Blocked, forever}, unknown},
		{"another port", sockets{diagtest.InState(netlinkdiag.StateCloseWait, "127.0.0.1:81", "127.0.0.1:4000")}, free, free},
	} {
		for name, flags := range map[string]probe.FlagReader{"off": nil, "pidfd": &answeredFlags{mode: sockflags.ModePidfd}} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				v := judged(t, newTaker(t, newFake(tt.sockets...).judging(flags), onPort80()))
				for i, b := range v.Binds {
					want := tt.without
					if b.ReuseAddr {
						want = tt.with
					}
					left, ever, ok := b.Remaining()
					if ever {
						left = forever
					}
					if b.Outcome != want.outcome || ok != (want.outcome != bindrule.Unknown) {
						t.Errorf("%s: %+v, want %v", bindRows(v)[i], b.Verdict, want.outcome)
					}
					if most := max(0, want.atLeast) + 6*time.Second; left < want.atLeast || want.atLeast == forever && !ever || left > most {
						t.Errorf("%s: for %v, want %v and a turn of the wheel", bindRows(v)[i], left, want.atLeast)
					}
					if b.BlockersKnown != ok {
						t.Errorf("%s: blockers known %v, want %v", bindRows(v)[i], b.BlockersKnown, ok)
					}
				}
			})
		}
	}
}

// With eBPF, sock_diag is asked for bound sockets only: the rest comes with its flags.
func TestWithEBPFSocketsAreNotCountedTwice(t *testing.T) {
	group := sockflags.Group{
		Port: 80, Addr: localhost4, State: netlinkdiag.StateCloseWait, Kind: sock.KindFull,
		Flags: sock.ReuseFlags{ReuseAddr: true}, Count: 3,
	}
	elsewhere := group
	elsewhere.Port = 81
	flags := &answeredFlags{mode: sockflags.ModeBPF, result: sockflags.Result{Groups: []sockflags.Group{group, elsewhere}}}
	f := newFake(inState(netlinkdiag.StateCloseWait), inState(netlinkdiag.StateCloseWait), inState(netlinkdiag.StateCloseWait), inState(netlinkdiag.StateClose))
	for _, b := range judged(t, newTaker(t, f.judging(flags), onPort80())).Binds {
		want := counts(map[netlinkdiag.State]uint64{netlinkdiag.StateCloseWait: 3, netlinkdiag.StateClose: 1})
		if b.ReuseAddr { // the bound one may have it
			want = counts(nil)
		}
		if b.Blockers != want || b.BlockersKnown == b.ReuseAddr {
			t.Errorf("%v, reuseaddr %v: blockers %v, known %v; want %v", b.Address, b.ReuseAddr, b.Blockers, b.BlockersKnown, want)
		}
	}
}

func TestWithEBPFEverythingOfASocketCounts(t *testing.T) {
	// As far as nothing is changed, it blocks 0.0.0.0 on device 1.
	base := sockflags.Group{
		Port: 80, Addr: localhost6, State: netlinkdiag.StateCloseWait, Kind: sock.KindFull, Count: 1,
	}
	const forever = -1
	for _, tt := range []struct {
		name          string
		change        func(*sockflags.Group)
		without, with time.Duration // at least
	}{
		{"as it is", func(*sockflags.Group) {}, forever, forever},
		{"its address", func(g *sockflags.Group) { g.Addr = localhost4 }, forever, forever},
		{"its IPV6_V6ONLY", func(g *sockflags.Group) { g.V6Only = true }, 0, 0},
		{"its device", func(g *sockflags.Group) { g.Ifindex = 2 }, 0, 0},
		{"its SO_REUSEADDR", func(g *sockflags.Group) { g.ReuseAddr = true }, forever, 0},
		{"its SO_REUSEPORT", func(g *sockflags.Group) { g.ReusePort = true }, forever, forever},
		{"its timer", func(g *sockflags.Group) { g.Kind, g.Expires = sock.KindTimeWait, time.Minute }, time.Minute, time.Minute},
		{"its timer that is due", func(g *sockflags.Group) { g.Kind = sock.KindTimeWait }, 1, 1},
		{"that it is a request", func(g *sockflags.Group) { g.Kind = sock.KindRequest }, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			group := base
			tt.change(&group)
			l := diagtest.Listening("0.0.0.0:80", 1)
			l.Ifindex = 1
			flags := &answeredFlags{mode: sockflags.ModeBPF, result: sockflags.Result{Groups: []sockflags.Group{group}}}
			// One that lingers, so that flags are read of more than listeners.
			v := judged(t, newTaker(t, newFake(l, inState(netlinkdiag.StateSynRecv)).judging(flags), onPort80()))
			if got, want := bindRows(v), []string{"0.0.0.0 false", "0.0.0.0 true"}; !slices.Equal(got, want) {
				t.Fatalf("binds %v, want %v", got, want)
			}
			for i, want := range []time.Duration{tt.without, tt.with} {
				left, ever, ok := v.Binds[i].Remaining()
				if most := want + 6*time.Second; !ok || ever != (want == forever) || want >= 0 && (left < want || left > most) || want == 0 && left != 0 {
					t.Errorf("%s: for %v, for ever %v, known %v; want %v", bindRows(v)[i], left, ever, ok, want)
				}
			}
		})
	}
}

// What eBPF had no room for may be anything.
func TestMissedSocketsLeaveAPortUnknown(t *testing.T) {
	ended := sockflags.Group{
		Port: 80, Addr: localhost4, State: netlinkdiag.StateTimeWait, Kind: sock.KindTimeWait, Count: 1, Expires: time.Second,
	}
	live := ended
	live.State, live.Kind, live.Expires = netlinkdiag.StateCloseWait, sock.KindFull, 0
	for _, tt := range []struct {
		name           string
		groups         []sockflags.Group
		outcome        bindrule.Outcome
		forever, known bool
	}{
		{"nothing else", nil, bindrule.Unknown, false, false},
		{"and one that ends", []sockflags.Group{ended}, bindrule.Blocked, false, false},
		{"and one that does not", []sockflags.Group{live}, bindrule.Blocked, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			flags := &answeredFlags{mode: sockflags.ModeBPF, result: sockflags.Result{
				Groups: tt.groups, Missed: map[uint16]uint64{80: 1},
			}}
			v := judged(t, newTaker(t, newFake(inState(netlinkdiag.StateSynRecv)).judging(flags), onPort80()))
			for i, b := range v.Binds {
				_, forever, known := b.Remaining()
				if b.Outcome != tt.outcome || forever != tt.forever || known != tt.known || b.BlockersKnown {
					t.Errorf("%s: %+v, want %v, for ever %v, known %v, and blockers unknown", bindRows(v)[i], b.Verdict, tt.outcome, tt.forever, tt.known)
				}
			}
		})
	}
}

func TestVerdictsAreAbsentWithTheirSourcesAndAlone(t *testing.T) {
	broken := refuse(unix.EINVAL)
	for _, tt := range []struct {
		name        string
		listen, tcp func(diagtest.Request) []diagtest.Datagram
		flags       probe.FlagReader
		want        error
		listeners   error
		sockets     error
	}{
		{"nothing is broken", nil, nil, &answeredFlags{mode: sockflags.ModeBPF}, nil, nil, nil},
		{"no flags by choice", nil, nil, nil, nil, nil, nil},
		{"listeners", broken, nil, &answeredFlags{mode: sockflags.ModeBPF}, unix.EINVAL, unix.EINVAL, unix.EINVAL},
		{"listeners, and no flags", broken, nil, nil, unix.EINVAL, unix.EINVAL, unix.EINVAL},
		{"sockets", nil, broken, &answeredFlags{mode: sockflags.ModeBPF}, unix.EINVAL, nil, unix.EINVAL},
		{"flags", nil, nil, &answeredFlags{mode: sockflags.ModeBPF, err: errBPF}, errBPF, nil, nil},
		{"flags by pidfd", nil, nil, &answeredFlags{mode: sockflags.ModePidfd, err: errBPF}, errBPF, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(diagtest.Listening("127.0.0.1:80", 1))
			taker := newTaker(t, f.judging(tt.flags), onPort80())
			f.script(tt.listen, tt.tcp)
			s := taker.Take(t.Context())
			checkErrors(t, &s, tt.listeners, tt.listeners, tt.sockets, nil)
			if !errors.Is(s.Verdicts.Err, tt.want) {
				t.Errorf("verdicts: %v, want %v", s.Verdicts.Err, tt.want)
			}
			if (s.Verdicts.Data != nil) != (tt.want == nil) {
				t.Errorf("verdicts %+v with error %v", s.Verdicts.Data, s.Verdicts.Err)
			}
		})
	}
}

func TestListenerIsRememberedThroughAFailure(t *testing.T) {
	f := newFake(diagtest.Listening("127.0.0.1:80", 1))
	flags := &answeredFlags{mode: sockflags.ModeBPF, result: sockflags.Result{Listeners: map[uint64]sock.ReuseFlags{1: {ReuseAddr: true}}}}
	taker := newTaker(t, f.judging(flags), onPort80())
	judged(t, taker)
	f.script(refuse(unix.EINVAL), nil)
	if s := taker.Take(t.Context()); s.Verdicts.Err == nil {
		t.Fatal("verdicts without listeners")
	}
	f.script(nil, nil)
	f.set()
	v := judged(t, taker)
	checkRestarts(t, v, map[string]bool{"127.0.0.1%0": false})
	if v.Restarts[0].ReuseAddr != bindrule.Yes {
		t.Errorf("SO_REUSEADDR %v, want yes", v.Restarts[0].ReuseAddr)
	}
}

func TestVerdictsAndSocketsAreSwitchedApart(t *testing.T) {
	for _, tt := range []struct{ verdicts, tcp, listeners bool }{
		{true, true, true}, {true, false, false}, {false, true, true}, {false, false, false},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			cfg := newFake(diagtest.Listening("127.0.0.1:80", 1), inState(netlinkdiag.StateCloseWait)).judging(nil)
			cfg.Parts.Verdicts, cfg.Parts.TCP, cfg.Parts.Listeners = tt.verdicts, tt.tcp, tt.listeners
			s := newTaker(t, cfg, onPort80()).Take(t.Context())
			for name, part := range map[string]struct {
				on  bool
				err error
				n   int
			}{
				"verdicts":  {tt.verdicts, s.Verdicts.Err, len(s.Verdicts.Data)},
				"tcp":       {tt.tcp, s.TCP.Err, len(s.TCP.Data)},
				"listeners": {tt.listeners, s.Listeners.Err, len(s.Listeners.Data)},
			} {
				want := map[bool]error{false: ErrOff}[part.on]
				// Listeners are there also where the part is off: they carry the flags.
				there := part.on || name == "listeners"
				if !errors.Is(part.err, want) || (part.n > 0) != there {
					t.Errorf("%s: error %v with %d items, want %v, and items %v", name, part.err, part.n, want, there)
				}
			}
			if tt.verdicts && (len(s.Verdicts.Data[0].Restarts) != 1 || s.Verdicts.Data[0].Binds[0].Outcome != bindrule.Blocked) {
				t.Errorf("got %+v, want a listener that is blocked", s.Verdicts.Data)
			}
		})
	}
}

// The View folds them.
func TestManyKindsOfSocketsLeaveVerdictsKnown(t *testing.T) {
	var sockets []netlinkdiag.Socket
	for i := range 4096 {
		s := diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4000", time.Second)
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 80)
		sockets = append(sockets, s)
	}
	v := judged(t, newTaker(t, newFake(sockets...).judging(nil), onPort80()))
	for i, b := range v.Binds {
		// Whether they have SO_REUSEADDR is not known.
		want := bindrule.Blocked
		if b.ReuseAddr {
			want = bindrule.Unknown
		}
		known := !b.ReuseAddr
		if _, _, ok := b.Remaining(); b.Outcome != want || ok != known || b.BlockersKnown != known {
			t.Errorf("%s: %v, how long is known: %v, blockers: %v; want %v, %v, %v", bindRows(v)[i], b.Outcome, ok, b.BlockersKnown, want, known, known)
		}
		if n := b.Blockers[sock.StateTimeWait]; known && n != 4096 {
			t.Errorf("%s: %d sockets in TIME_WAIT, want 4096", bindRows(v)[i], n)
		}
	}
}

// A server that listens on one address does not mind what others do on the rest.
func TestFloodOfAddressesLeavesTheVerdictOfAListenerKnown(t *testing.T) {
	sockets := []netlinkdiag.Socket{
		diagtest.Listening("10.9.9.9:80", 1), diagtest.TimeWait("10.9.9.9:80", "10.9.9.8:4000", time.Minute),
	}
	for i := range 2000 {
		s := diagtest.InState(netlinkdiag.StateClose, "127.0.0.1:80", "0.0.0.0:0")
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 80)
		s.UID = 65534
		sockets = append(sockets, s)
	}
	v := judged(t, newTaker(t, newFake(sockets...).judging(nil), onPort80()))
	if len(v.Binds) != 2 || v.Binds[0].Outcome != bindrule.Blocked || !v.Binds[0].BlockersKnown {
		t.Fatalf("binds %+v, want the server's, blocked", v.Binds)
	}
	if b := v.Binds[0].Blockers; b[sock.StateTimeWait] != 1 || b[sock.StateClose] != 0 {
		t.Errorf("%d in TIME_WAIT and %d bound sockets block the server, want 1 and 0", b[sock.StateTimeWait], b[sock.StateClose])
	}
}
