package verdict

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/ports/shown"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var (
	start      = time.Unix(1_700_000_000, 0)
	localhost4 = netip.MustParseAddr("127.0.0.1")
	localhost6 = netip.MustParseAddr("::1")
)

const retention = 10 * time.Minute

// A testHistory is a History, and the ports that are watched.
type testHistory struct {
	*History
	t       *testing.T
	set     watch.Set
	foreign map[netip.Addr]bool // addresses that are not local
}

func newTestHistory(t *testing.T, watched ...uint16) *testHistory {
	t.Helper()
	r := &testHistory{History: NewHistory(retention), t: t}
	r.watch(watched...)
	return r
}

func (r *testHistory) watch(watched ...uint16) {
	r.t.Helper()
	w, err := watch.New(watch.Config{Listeners: true, MaxPorts: 512})
	if err != nil {
		r.t.Fatal(err)
	}
	var listening []watch.Server
	for _, p := range watched {
		listening = append(listening, watch.Server{Port: p})
	}
	r.set = w.Update(start, listening)
}

// see updates the history: these sockets listen, with flags by cookie.
func (r *testHistory) see(now time.Time, flags map[uint64]sock.ReuseFlags, sockets ...netlinkdiag.Socket) {
	listeners := make([]ports.Listener, len(sockets))
	for i := range sockets {
		listeners[i] = ports.NewListener(&sockets[i])
	}
	groups := ports.Groups(listeners)
	ports.SetFlags(groups, listeners, flags)
	r.Update(now, r.set, groups, func(a netip.Addr) bool { return !r.foreign[a] })
}

// judgePort judges with nothing on the port but these.
func (r *testHistory) judgePort(now time.Time, sockets ...bindrule.Socket) Port {
	r.t.Helper()
	if len(r.set.Ports) != 1 {
		r.t.Fatalf("%d ports, want 1", len(r.set.Ports))
	}
	return r.Judge(now, r.set, []bindrule.Port{{Sockets: sockets}})[0]
}

// restartsOf returns the listeners that are judged: by address, whether it listens.
func restartsOf(v Port) map[string]bool {
	out := make(map[string]bool)
	for _, r := range v.Restarts {
		out[fmt.Sprintf("%v%%%d", r.Address, r.Ifindex)] = r.Listening
	}
	return out
}

// bindRows are the binds that are judged, in order.
func bindRows(v Port) (out []string) {
	for _, b := range v.Binds {
		out = append(out, fmt.Sprintf("%v %v", b.Address, b.ReuseAddr))
	}
	return out
}

func checkRestarts(t *testing.T, v Port, want map[string]bool) {
	t.Helper()
	if got := restartsOf(v); !maps.Equal(got, want) {
		t.Errorf("judged %v, want %v", got, want)
	}
}

func TestListenerIsRememberedForTheRetention(t *testing.T) {
	r := newTestHistory(t, 80)
	r.see(start, nil, diagtest.Listening("127.0.0.1:80", 1))
	checkRestarts(t, r.judgePort(start), map[string]bool{"127.0.0.1%0": true})
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
		checkRestarts(t, r.judgePort(now), step.want)
	}
}

func TestRetentionBeginsWhenTheListenerWent(t *testing.T) {
	r := newTestHistory(t, 80)
	r.see(start, nil, diagtest.Listening("127.0.0.1:80", 1))
	last := start.Add(retention / 2)
	r.see(last, nil, diagtest.Listening("127.0.0.1:80", 1))
	now := last.Add(retention)
	r.see(now, nil)
	checkRestarts(t, r.judgePort(now), map[string]bool{"127.0.0.1%0": false})
}

func TestListenerOfAPortThatIsNotWatchedIsForgotten(t *testing.T) {
	r := newTestHistory(t, 80)
	r.see(start, nil, diagtest.Listening("127.0.0.1:80", 1))
	r.watch(443)
	r.see(start, nil)
	r.watch(80)
	r.see(start, nil)
	checkRestarts(t, r.judgePort(start), map[string]bool{})
}

func TestFlagsAreRememberedOfTheSameSockets(t *testing.T) {
	type flags = map[uint64]sock.ReuseFlags
	var (
		both     = sock.ReuseFlags{ReuseAddr: true, ReusePort: true}
		none     = sock.ReuseFlags{}
		yes, no  = bindrule.Yes, bindrule.No
		one, two = diagtest.Listening("0.0.0.0:80", 1), diagtest.Listening("0.0.0.0:80", 2)
	)
	type update struct {
		sockets []netlinkdiag.Socket
		flags   flags
	}
	of := func(f flags, sockets ...netlinkdiag.Socket) update { return update{sockets, f} }
	for _, tt := range []struct {
		name       string
		updates    []update
		addr, port bindrule.Flag
	}{
		{"known", []update{of(flags{1: both}, one)}, yes, yes},
		{"never known", []update{of(nil, one), of(nil, one)}, 0, 0},
		{"known, then unknown", []update{of(flags{1: both}, one), of(nil, one)}, yes, yes},
		{"known, then gone", []update{of(flags{1: both}, one), of(nil)}, yes, yes},
		{"known, unknown, then gone", []update{of(flags{1: none}, one), of(nil, one), of(nil)}, no, no},
		{"changed", []update{of(flags{1: both}, one), of(flags{1: none}, one)}, no, no},
		{"unknown at first", []update{of(nil, one), of(flags{1: both}, one)}, yes, yes},
		// What the old one had says nothing of it: it may be the fixed one.
		{"a new socket of which nothing is known", []update{of(flags{1: both}, one), of(nil, two)}, 0, 0},
		{"the same after a break", []update{of(flags{1: both}, one), of(nil), of(nil, two)}, 0, 0},
		{"another one besides", []update{of(flags{1: both}, one), of(flags{1: both}, one, two)}, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newTestHistory(t, 80)
			now := start
			for _, l := range tt.updates {
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
	ported := map[uint64]sock.ReuseFlags{1: {ReusePort: true}, 2: {ReusePort: true}, 3: {ReusePort: true}}
	live := bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.No, ReusePort: bindrule.Yes, UID: bindrule.UIDOf(7),
		State: netlinkdiag.StateEstablished, Count: 1,
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
			r := newTestHistory(t, 80)
			sockets := make([]netlinkdiag.Socket, len(tt.uids))
			for i, uid := range tt.uids {
				sockets[i] = diagtest.Listening("127.0.0.1:80", uint64(i+1))
				sockets[i].UID = uid
			}
			r.see(start, ported, sockets...)
			if v := r.judgePort(start, live); len(v.Restarts) != 1 || v.Restarts[0].Outcome != tt.want {
				t.Errorf("got %+v, want %v", v.Restarts, tt.want)
			}
		})
	}
}

func TestListenersDoNotBlockTheirRestart(t *testing.T) {
	r := newTestHistory(t, 80)
	r.see(start, map[uint64]sock.ReuseFlags{1: {}}, diagtest.Listening("127.0.0.1:80", 1))
	v := r.judgePort(start, bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.No, ReusePort: bindrule.No, State: netlinkdiag.StateListen, Count: 1,
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
	r := newTestHistory(t, 80)
	var before []netlinkdiag.Socket
	for i := range 3 * shown.MaxPerPort {
		before = append(before, diagtest.Listening(fmt.Sprintf("127.0.%d.%d:80", i/200, i%200+1), uint64(i+1)))
	}
	r.see(start, nil, before...)
	if n := len(r.judgePort(start).Restarts); n != shown.MaxPerPort {
		t.Errorf("%d listeners are judged, want %d", n, shown.MaxPerPort)
	}
	now := start.Add(time.Second)
	r.see(now, nil, diagtest.Listening("192.0.2.1:80", 1000))
	v := r.judgePort(now)
	got := restartsOf(v)
	if len(got) != shown.MaxPerPort || !got["192.0.2.1%0"] {
		t.Errorf("%d listeners are judged, the new one listens: %v; want %d and true", len(got), got["192.0.2.1%0"], shown.MaxPerPort)
	}
}

func TestGoneHalfIsJudgedBesideTheOther(t *testing.T) {
	r := newTestHistory(t, 80)
	six := diagtest.Listening("[::]:80", 2)
	six.V6Only = true
	r.see(start, map[uint64]sock.ReuseFlags{1: {}, 2: {ReuseAddr: true}}, diagtest.Listening("0.0.0.0:80", 1), six)
	now := start.Add(time.Minute)
	r.see(now, map[uint64]sock.ReuseFlags{2: {ReuseAddr: true}}, six)

	v := r.judgePort(now, bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.No, ReusePort: bindrule.No,
		State: netlinkdiag.StateTimeWait, Kind: sock.KindTimeWait, Count: 3, Expires: 9 * time.Second,
	})
	checkRestarts(t, v, map[string]bool{"0.0.0.0%0": false, "::%0": true})
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
	r := newTestHistory(t, 80)
	v := r.judgePort(start, bindrule.Socket{
		Addr: localhost4, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No,
		State: netlinkdiag.StateTimeWait, Kind: sock.KindTimeWait, Count: 2, Expires: time.Second,
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
		s := diagtest.Listening("0.0.0.0:80", cookie)
		s.Ifindex = ifindex
		return s
	}
	waiting := func(ifindex uint32, left time.Duration) bindrule.Socket {
		return bindrule.Socket{
			Addr: localhost4, Ifindex: ifindex, ReuseAddr: bindrule.No, ReusePort: bindrule.No,
			State: netlinkdiag.StateTimeWait, Kind: sock.KindTimeWait, Count: 1, Expires: left,
		}
	}
	live := waiting(2, 0)
	live.State, live.Kind = netlinkdiag.StateCloseWait, sock.KindFull
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
			r := newTestHistory(t, 80)
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
			checkRestarts(t, v, map[string]bool{"0.0.0.0%1": true, "0.0.0.0%2": true})
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

func TestCrowdDoesNotPushOutAListenerThatWent(t *testing.T) {
	r := newTestHistory(t, 80)
	r.see(start, nil, diagtest.Listening("0.0.0.0:80", 1))
	now := start.Add(time.Minute)
	r.see(now, nil, crowd(1000, 80)...)
	if _, ok := restartsOf(r.judgePort(now))["0.0.0.0%0"]; !ok {
		t.Error("0.0.0.0:80 is not judged any more")
	}
}

// crowd returns n listeners on as many addresses of 127.1.0.0/16, from the highest to the lowest.
func crowd(n int, port uint16) []netlinkdiag.Socket {
	var out []netlinkdiag.Socket
	for i := n; i > 0; i-- {
		out = append(out, diagtest.Listening(fmt.Sprintf("127.1.%d.%d:%d", i/256, i%256, port), uint64(port)<<32|uint64(i)))
	}
	return out
}

// Nobody pushes a server out of the memory by listening on other addresses of its port: neither
// another user, with one user id or a range of them, nor the same user on addresses that are not
// the host's.
func TestNobodyPushesOutAServerThatWent(t *testing.T) {
	for _, tt := range []struct {
		name    string
		foreign bool
		uid     func(i int) uint32
	}{
		{"another user", false, func(int) uint32 { return 65534 }},
		{"a range of user ids", false, func(i int) uint32 { return 100_000 + uint32(i) }},
		{"the same user, on foreign addresses", true, func(int) uint32 { return 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newTestHistory(t, 80)
			r.foreign = make(map[netip.Addr]bool)
			r.see(start, nil, diagtest.Listening("127.9.9.9:80", 1))
			var sockets []netlinkdiag.Socket
			for i := range 1000 {
				addr := netip.AddrFrom4([4]byte{1, 0, byte(i >> 8), byte(i)})
				s := diagtest.Listening(netip.AddrPortFrom(addr, 80).String(), uint64(i+2))
				s.UID, r.foreign[addr] = tt.uid(i), tt.foreign
				sockets = append(sockets, s)
			}
			now := start.Add(time.Minute)
			r.see(now, nil, sockets...)
			if listening, ok := restartsOf(r.judgePort(now))["127.9.9.9%0"]; !ok || listening {
				t.Errorf("127.9.9.9:80 is remembered: %v, listens: %v; want remembered only", ok, listening)
			}
		})
	}
}
