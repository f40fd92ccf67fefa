package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var (
	start  = time.Unix(1_700_000_000, 0)
	errBPF = errors.New("no flags today")
)

// A rememberer is a memory and what it is told.
type rememberer struct {
	*memory
	t   *testing.T
	set ports.Set
}

func newRememberer(t *testing.T, watched ...uint16) *rememberer {
	t.Helper()
	r := &rememberer{memory: newMemory(retention), t: t}
	r.watch(watched...)
	return r
}

func (r *rememberer) watch(watched ...uint16) {
	r.t.Helper()
	w, err := ports.New(ports.Config{Listeners: true, MaxPorts: 512})
	if err != nil {
		r.t.Fatal(err)
	}
	r.set = w.Update(start, watched)
}

// see tells that these sockets listen, with flags by cookie.
func (r *rememberer) see(now time.Time, flags map[uint64]sockflags.Flags, sockets ...netlinkdiag.Socket) {
	listeners := make([]listener, len(sockets))
	for i := range sockets {
		listeners[i] = newListener(&sockets[i])
	}
	all := groups(listeners)
	r.update(now, r.set, listeners, all, groupReuse(listeners, all, flags))
}

// judgePort judges with nothing on the port but these.
func (r *rememberer) judgePort(now time.Time, sockets ...bindrule.Socket) PortVerdicts {
	r.t.Helper()
	if len(r.set.Ports) != 1 {
		r.t.Fatalf("%d ports, want 1", len(r.set.Ports))
	}
	return r.verdicts(now, r.set, []bindrule.Port{{Sockets: sockets}})[0]
}

// whom are the listeners that are judged: by address, whether it is there.
func whom(v PortVerdicts) map[string]bool {
	out := make(map[string]bool)
	for _, r := range v.Restarts {
		out[fmt.Sprintf("%v%%%d", r.Address, r.Ifindex)] = r.Listening
	}
	return out
}

// bindRows are the binds that are judged, in order.
func bindRows(v PortVerdicts) (out []string) {
	for _, b := range v.Binds {
		out = append(out, fmt.Sprintf("%v %v", b.Address, b.ReuseAddr))
	}
	return out
}

func checkWhom(t *testing.T, v PortVerdicts, want map[string]bool) {
	t.Helper()
	if got := whom(v); !maps.Equal(got, want) {
		t.Errorf("judged %v, want %v", got, want)
	}
}

func TestListenerIsRememberedForTheRetention(t *testing.T) {
	r := newRememberer(t, 80)
	r.see(start, nil, listening("127.0.0.1:80", 1))
	checkWhom(t, r.judgePort(start), map[string]bool{"127.0.0.1%0": true})
	for _, step := range []struct {
		after time.Duration
		want  map[string]bool
	}{
		{time.Second, map[string]bool{"127.0.0.1%0": false}},
		{retention, map[string]bool{"127.0.0.1%0": false}},
		{retention + 1, map[string]bool{}},
	} {
		now := start.Add(step.after)
		r.see(now, nil)
		checkWhom(t, r.judgePort(now), step.want)
	}
}

func TestRetentionBeginsWhenTheListenerWent(t *testing.T) {
	r := newRememberer(t, 80)
	r.see(start, nil, listening("127.0.0.1:80", 1))
	last := start.Add(retention / 2)
	r.see(last, nil, listening("127.0.0.1:80", 1))
	now := last.Add(retention)
	r.see(now, nil)
	checkWhom(t, r.judgePort(now), map[string]bool{"127.0.0.1%0": false})
}

func TestListenerOfAPortThatIsNotWatchedIsForgotten(t *testing.T) {
	r := newRememberer(t, 80)
	r.see(start, nil, listening("127.0.0.1:80", 1))
	r.watch(443)
	r.see(start, nil)
	r.watch(80)
	r.see(start, nil)
	checkWhom(t, r.judgePort(start), map[string]bool{})
}

func TestFlagsAreRememberedOfTheSameSockets(t *testing.T) {
	type flags = map[uint64]sockflags.Flags
	var (
		both     = sockflags.Flags{ReuseAddr: true, ReusePort: true}
		none     = sockflags.Flags{}
		yes, no  = bindrule.Yes, bindrule.No
		one, two = listening("0.0.0.0:80", 1), listening("0.0.0.0:80", 2)
	)
	type look struct {
		sockets []netlinkdiag.Socket
		flags   flags
	}
	of := func(f flags, sockets ...netlinkdiag.Socket) look { return look{sockets, f} }
	for _, tt := range []struct {
		name       string
		looks      []look
		addr, port bindrule.Flag
	}{
		{"known", []look{of(flags{1: both}, one)}, yes, yes},
		{"never known", []look{of(nil, one), of(nil, one)}, 0, 0},
		{"known, then unknown", []look{of(flags{1: both}, one), of(nil, one)}, yes, yes},
		{"known, then gone", []look{of(flags{1: both}, one), of(nil)}, yes, yes},
		{"known, unknown, then gone", []look{of(flags{1: none}, one), of(nil, one), of(nil)}, no, no},
		{"changed", []look{of(flags{1: both}, one), of(flags{1: none}, one)}, no, no},
		{"unknown at first", []look{of(nil, one), of(flags{1: both}, one)}, yes, yes},
		// What the old one had says nothing of it: it may be the fixed one.
		{"a new socket of which nothing is known", []look{of(flags{1: both}, one), of(nil, two)}, 0, 0},
		{"the same after a break", []look{of(flags{1: both}, one), of(nil), of(nil, two)}, 0, 0},
		{"another one besides", []look{of(flags{1: both}, one), of(flags{1: both}, one, two)}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRememberer(t, 80)
			now := start
			for _, l := range tt.looks {
				now = now.Add(time.Second)
				r.see(now, l.flags, l.sockets...)
			}
			v := r.judgePort(now).Restarts
			if len(v) != 1 || v[0].ReuseAddr != tt.addr || v[0].ReusePort != tt.port {
				t.Errorf("got %+v, want SO_REUSEADDR %v, SO_REUSEPORT %v", v, tt.addr, tt.port)
			}
		})
	}
}

// SO_REUSEPORT is for sockets of one user.
func TestUsersThatDifferMakeARestartUnknown(t *testing.T) {
	ported := map[uint64]sockflags.Flags{1: {ReusePort: true}, 2: {ReusePort: true}, 3: {ReusePort: true}}
	live := bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.No, ReusePort: bindrule.Yes, UID: bindrule.UIDOf(7),
		State: bindrule.State(netlinkdiag.StateEstablished), Count: 1,
	}
	for _, tt := range []struct {
		name string
		uids [3]uint32
		want bindrule.Outcome
	}{
		{"one user", [3]uint32{7, 7, 7}, bindrule.Free},
		{"two users", [3]uint32{7, 8, 7}, bindrule.Unknown},
		{"root and another", [3]uint32{0, 0, 7}, bindrule.Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRememberer(t, 80)
			sockets := make([]netlinkdiag.Socket, len(tt.uids))
			for i, uid := range tt.uids {
				sockets[i] = listening("127.0.0.1:80", uint64(i+1))
				sockets[i].UID = uid
			}
			r.see(start, ported, sockets...)
			if v := r.judgePort(start, live); len(v.Restarts) != 1 || v.Restarts[0].Outcome != tt.want {
				t.Errorf("got %+v, want %v", v.Restarts, tt.want)
			}
		})
	}
}

func TestListenersAreNotInTheWayOfTheirRestart(t *testing.T) {
	r := newRememberer(t, 80)
	r.see(start, map[uint64]sockflags.Flags{1: {}}, listening("127.0.0.1:80", 1))
	v := r.judgePort(start, bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.No, ReusePort: bindrule.No, State: bindrule.StateListen, Count: 1,
	})
	for i, b := range v.Binds {
		if b.Outcome != bindrule.Free {
			t.Errorf("%s: %v, want free", bindRows(v)[i], b.Outcome)
		}
	}
	if v.Restarts[0].Outcome != bindrule.Free {
		t.Errorf("restart %v, want free", v.Restarts[0].Outcome)
	}
}

func TestMemoryOfAPortIsBoundedAndPrefersWhoListens(t *testing.T) {
	r := newRememberer(t, 80)
	var before []netlinkdiag.Socket
	for i := range 3 * maxShownPerPort {
		before = append(before, listening(fmt.Sprintf("127.0.%d.%d:80", i/200, i%200+1), uint64(i+1)))
	}
	r.see(start, nil, before...)
	if n := len(r.judgePort(start).Restarts); n != maxShownPerPort {
		t.Errorf("%d listeners are judged, want %d", n, maxShownPerPort)
	}
	now := start.Add(time.Second)
	r.see(now, nil, listening("192.0.2.1:80", 1000))
	v := r.judgePort(now)
	got := whom(v)
	if len(got) != maxShownPerPort || !got["192.0.2.1%0"] {
		t.Errorf("%d listeners are judged, the new one listens: %v; want %d and true", len(got), got["192.0.2.1%0"], maxShownPerPort)
	}
}

func TestHalfThatWentIsJudgedBesideTheOther(t *testing.T) {
	r := newRememberer(t, 80)
	six := listening("[::]:80", 2)
	six.V6Only = true
	r.see(start, map[uint64]sockflags.Flags{1: {}, 2: {ReuseAddr: true}}, listening("0.0.0.0:80", 1), six)
	now := start.Add(time.Minute)
	r.see(now, map[uint64]sockflags.Flags{2: {ReuseAddr: true}}, six)

	v := r.judgePort(now, bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.No, ReusePort: bindrule.No,
		State: bindrule.State(netlinkdiag.StateTimeWait), Kind: bindrule.KindTimeWait, Count: 3, Expires: 9 * time.Second,
	})
	checkWhom(t, v, map[string]bool{"0.0.0.0%0": false, "::%0": true})
	if got, want := bindRows(v), []string{"0.0.0.0 false", "0.0.0.0 true", ":: false", ":: true"}; !slices.Equal(got, want) {
		t.Errorf("binds %v, want %v", got, want)
	}
	for i, want := range []bindrule.Outcome{bindrule.Blocked, bindrule.Blocked, bindrule.Free, bindrule.Free} {
		if got := v.Binds[i].Outcome; got != want {
			t.Errorf("%s: %v, want %v", bindRows(v)[i], got, want)
		}
	}
	if four, six := v.Restarts[0], v.Restarts[1]; four.Outcome != bindrule.Blocked || four.Until != 9*time.Second || six.Outcome != bindrule.Free {
		t.Errorf("restarts %+v and %+v, want 9s and free", four, six)
	}
}

// The `::` of nobody is dual-stack.
func TestWildcardsAreJudgedWhereNoAddressIsKnown(t *testing.T) {
	r := newRememberer(t, 80)
	v := r.judgePort(start, bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No,
		State: bindrule.State(netlinkdiag.StateTimeWait), Kind: bindrule.KindTimeWait, Count: 2, Expires: time.Second,
	})
	if got, want := bindRows(v), []string{"0.0.0.0 false", "0.0.0.0 true", ":: false", ":: true"}; !slices.Equal(got, want) {
		t.Errorf("binds %v, want %v", got, want)
	}
	for _, b := range v.Binds {
		want := Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Free, UntilKnown: true}, BlockersKnown: true}
		if !b.ReuseAddr {
			want.Outcome, want.Until = bindrule.Blocked, time.Second
			want.Verdict.Blockers = []int{0}
			want.Blockers[netlinkdiag.StateTimeWait] = 2
		}
		if fmt.Sprintf("%+v", b.Verdict) != fmt.Sprintf("%+v", want) {
			t.Errorf("%v %v: %+v\nwant %+v", b.Address, b.ReuseAddr, b.Verdict, want)
		}
	}
	if len(v.Restarts) != 0 {
		t.Errorf("restarts of nobody: %+v", v.Restarts)
	}
}

func TestWorstOfSeveralDevicesCounts(t *testing.T) {
	on := func(ifindex uint32, cookie uint64) netlinkdiag.Socket {
		s := listening("0.0.0.0:80", cookie)
		s.Ifindex = ifindex
		return s
	}
	waiting := func(ifindex uint32, left time.Duration) bindrule.Socket {
		return bindrule.Socket{
			Addr: localhost4, Ifindex: ifindex, ReuseAddr: bindrule.No, ReusePort: bindrule.No,
			State: bindrule.State(netlinkdiag.StateTimeWait), Kind: bindrule.KindTimeWait, Count: 1, Expires: left,
		}
	}
	live := waiting(2, 0)
	live.State, live.Kind = bindrule.State(netlinkdiag.StateCloseWait), bindrule.KindFull
	doubtful := live
	doubtful.ReuseAddr = bindrule.FlagUnknown
	const forever = -1
	for _, tt := range []struct {
		name    string
		sockets []bindrule.Socket
		want    time.Duration // of a binder with SO_REUSEADDR
		known   bool
	}{
		{"free on both", nil, 0, true},
		{"on the first", []bindrule.Socket{waiting(1, time.Second)}, time.Second, true},
		{"on the second", []bindrule.Socket{waiting(2, time.Second)}, time.Second, true},
		{"the first longer", []bindrule.Socket{waiting(1, 2*time.Second), waiting(2, time.Second)}, 2 * time.Second, true},
		{"the second longer", []bindrule.Socket{waiting(1, time.Second), waiting(2, 2*time.Second)}, 2 * time.Second, true},
		{"the second for ever", []bindrule.Socket{waiting(1, time.Second), live}, forever, true},
		{"the first free, the second unknown", []bindrule.Socket{doubtful}, 0, false},
		{"the first for a second, the second unknown", []bindrule.Socket{waiting(1, time.Second), doubtful}, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRememberer(t, 80)
			r.see(start, nil, on(1, 1), on(2, 2))
			v := r.judgePort(start, tt.sockets...)
			if got, want := bindRows(v), []string{"0.0.0.0 false", "0.0.0.0 true"}; !slices.Equal(got, want) {
				t.Fatalf("binds %v, want %v", got, want)
			}
			left, ever, ok := v.Binds[1].Remaining()
			if ever {
				left = forever
			}
			if ok != tt.known || left != tt.want {
				t.Errorf("for %v, known %v; want %v, %v", left, ok, tt.want, tt.known)
			}
			checkWhom(t, v, map[string]bool{"0.0.0.0%1": true, "0.0.0.0%2": true})
		})
	}
}

func TestRemainingIsNeverZeroForWhatIsNotKnown(t *testing.T) {
	for _, tt := range []struct {
		v             bindrule.Verdict
		left          time.Duration
		forever, know bool
	}{
		{bindrule.Verdict{}, 0, false, false},
		{bindrule.Verdict{UntilKnown: true}, 0, false, false},
		{bindrule.Verdict{Outcome: bindrule.Free, UntilKnown: true}, 0, false, true},
		{bindrule.Verdict{Outcome: bindrule.Blocked, Until: time.Second, UntilKnown: true}, time.Second, false, true},
		{bindrule.Verdict{Outcome: bindrule.Blocked, Until: time.Second}, 0, false, false},
		{bindrule.Verdict{Outcome: bindrule.Blocked, Forever: true, UntilKnown: true}, 0, true, true},
	} {
		v := Verdict{Verdict: tt.v}
		if left, forever, ok := v.Remaining(); left != tt.left || forever != tt.forever || ok != tt.know {
			t.Errorf("%+v: %v, %v, %v; want %v, %v, %v", tt.v, left, forever, ok, tt.left, tt.forever, tt.know)
		}
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
func (f *fake) judging(flags FlagReader) Config {
	cfg := f.config()
	cfg.Verdicts, cfg.Flags = true, flags
	return cfg
}

// onPort80 watches a port that nobody listens on.
func onPort80() ports.Config {
	return ports.Config{Ports: []ports.Spec{{PortRange: sock.PortRange{First: 80, Last: 80}}}, MaxPorts: 1}
}

func inState(state netlinkdiag.State) netlinkdiag.Socket {
	return socket(state, "127.0.0.1:80", "127.0.0.1:4000")
}

// Without eBPF nobody knows the flags of what lingers.
func TestWithoutEBPFABinderWithoutTheFlagIsKnown(t *testing.T) {
	orphan := timeWait("127.0.0.1:80", "127.0.0.1:4000", 5*time.Second)
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
			timeWait("127.0.0.1:80", "127.0.0.1:4000", time.Second), timeWait("127.0.0.1:80", "127.0.0.1:4001", 40*time.Second),
		}, answer{bindrule.Blocked, 40 * time.Second}, unknown},
		{"TIME_WAIT that is due and still there", sockets{timeWait("127.0.0.1:80", "127.0.0.1:4000", 0)}, answer{bindrule.Blocked, 1}, unknown},
		{"FIN_WAIT2 without a process", sockets{orphan}, answer{bindrule.Blocked, 5 * time.Second}, unknown},
		{"FIN_WAIT2 with one", sockets{inState(netlinkdiag.StateFinWait2)}, answer{bindrule.Blocked, forever}, unknown},
		{"ESTABLISHED and TIME_WAIT", sockets{
			inState(netlinkdiag.StateEstablished), timeWait("127.0.0.1:80", "127.0.0.1:4001", time.Second),
		}, answer{bindrule.Blocked, forever}, unknown},
		{"bound and no more", sockets{inState(netlinkdiag.StateClose)}, answer{bindrule.Blocked, forever}, unknown},
		{"another port", sockets{socket(netlinkdiag.StateCloseWait, "127.0.0.1:81", "127.0.0.1:4000")}, free, free},
	} {
		for name, flags := range map[string]FlagReader{"off": nil, "pidfd": &answeredFlags{mode: sockflags.ModePidfd}} {
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
		Port: 80, Addr: localhost4, State: uint8(netlinkdiag.StateCloseWait), Kind: sockflags.KindFull,
		Flags: sockflags.Flags{ReuseAddr: true}, Count: 3,
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
	// As far as nothing is changed, it is in the way of 0.0.0.0 on device 1.
	base := sockflags.Group{
		Port: 80, Addr: localhost6, State: uint8(netlinkdiag.StateCloseWait), Kind: sockflags.KindFull, Count: 1,
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
		{"its timer", func(g *sockflags.Group) { g.Kind, g.Expires = sockflags.KindTimeWait, time.Minute }, time.Minute, time.Minute},
		{"its timer that is due", func(g *sockflags.Group) { g.Kind = sockflags.KindTimeWait }, 1, 1},
		{"that it is a request", func(g *sockflags.Group) { g.Kind = sockflags.KindRequest }, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			group := base
			tt.change(&group)
			l := listening("0.0.0.0:80", 1)
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
		Port: 80, Addr: localhost4, State: uint8(netlinkdiag.StateTimeWait), Kind: sockflags.KindTimeWait, Count: 1, Expires: time.Second,
	}
	live := ended
	live.State, live.Kind, live.Expires = uint8(netlinkdiag.StateCloseWait), sockflags.KindFull, 0
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
		flags       FlagReader
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
			f := newFake(listening("127.0.0.1:80", 1))
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
	f := newFake(listening("127.0.0.1:80", 1))
	flags := &answeredFlags{mode: sockflags.ModeBPF, result: sockflags.Result{Listeners: map[uint64]sockflags.Flags{1: {ReuseAddr: true}}}}
	taker := newTaker(t, f.judging(flags), onPort80())
	judged(t, taker)
	f.script(refuse(unix.EINVAL), nil)
	if s := taker.Take(t.Context()); s.Verdicts.Err == nil {
		t.Fatal("verdicts without listeners")
	}
	f.script(nil, nil)
	f.set()
	v := judged(t, taker)
	checkWhom(t, v, map[string]bool{"127.0.0.1%0": false})
	if v.Restarts[0].ReuseAddr != bindrule.Yes {
		t.Errorf("SO_REUSEADDR %v, want yes", v.Restarts[0].ReuseAddr)
	}
}

func TestVerdictsAndSocketsAreSwitchedApart(t *testing.T) {
	for _, tt := range []struct{ verdicts, tcp, listeners bool }{
		{true, true, true}, {true, false, false}, {false, true, true}, {false, false, false},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			cfg := newFake(listening("127.0.0.1:80", 1), inState(netlinkdiag.StateCloseWait)).judging(nil)
			cfg.Verdicts, cfg.TCP, cfg.Listeners = tt.verdicts, tt.tcp, tt.listeners
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
				if !errors.Is(part.err, want) || (part.n > 0) != part.on {
					t.Errorf("%s: error %v with %d items, want %v", name, part.err, part.n, want)
				}
			}
			if tt.verdicts && (len(s.Verdicts.Data[0].Restarts) != 1 || s.Verdicts.Data[0].Binds[0].Outcome != bindrule.Blocked) {
				t.Errorf("got %+v, want a listener that is blocked", s.Verdicts.Data)
			}
		})
	}
}
