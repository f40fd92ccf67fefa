package verdict

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// viewOf adds sockets of one port to a View.
func viewOf(sockets ...netlinkdiag.Socket) *View {
	v := new(View)
	for i := range sockets {
		v.Add(&sockets[i])
	}
	return v
}

func inState(state netlinkdiag.State) netlinkdiag.Socket {
	return diagtest.InState(state, "127.0.0.1:80", "127.0.0.1:4000")
}

// socketsOf returns the sockets as bind() sees them, in some order that does not change. Timers run
// when they are due.
func socketsOf(v *View) []bindrule.Socket {
	now := time.Now()
	out := v.Port(linux.Timers{At: now}, now).Sockets
	slices.SortFunc(out, func(a, b bindrule.Socket) int {
		return slices.Compare([]byte(fmt.Sprintf("%+v", a)), []byte(fmt.Sprintf("%+v", b)))
	})
	return out
}

func TestSocketsThatBindCannotTellApartAreOne(t *testing.T) {
	one := inState(netlinkdiag.StateCloseWait)
	one.UID, one.Inode, one.Cookie = 7, 1, 1
	same := one
	same.Remote, same.Inode, same.Cookie, same.RQueue = netip.MustParseAddrPort("192.0.2.1:1"), 2, 2, 100
	want := []bindrule.Socket{{
		Addr: localhost4, State: netlinkdiag.StateCloseWait, UID: bindrule.UIDOf(7), Count: 2,
	}}
	if got := socketsOf(viewOf(one, same)); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSocketsThatBindTellsApartStayApart(t *testing.T) {
	base := inState(netlinkdiag.StateCloseWait)
	for name, change := range map[string]func(*netlinkdiag.Socket){
		"address": func(s *netlinkdiag.Socket) { s.Local = netip.MustParseAddrPort("127.0.0.2:80") },
		"v4-mapped": func(s *netlinkdiag.Socket) {
			s.Local = netip.MustParseAddrPort("[::ffff:127.0.0.1]:80")
		},
		"device": func(s *netlinkdiag.Socket) { s.Ifindex = 1 },
		"user":   func(s *netlinkdiag.Socket) { s.UID = 1 },
		"state":  func(s *netlinkdiag.Socket) { s.State = netlinkdiag.StateLastAck },
		"timer":  func(s *netlinkdiag.Socket) { s.Timer = netlinkdiag.TimerTimeWait },
	} {
		t.Run(name, func(t *testing.T) {
			other := base
			change(&other)
			if got := socketsOf(viewOf(base, other, base)); len(got) != 2 || got[0].Count+got[1].Count != 3 {
				t.Errorf("got %+v, want two groups of three sockets", got)
			}
		})
	}
}

func TestWhatSockDiagDoesNotSayIsUnknown(t *testing.T) {
	any6 := diagtest.InState(netlinkdiag.StateClose, "[::]:80", "[::]:0")
	only := any6
	only.V6Only = true
	gone := diagtest.TimeWait("[::1]:80", "[::1]:4000", 7*time.Second)
	longer := diagtest.TimeWait("[::1]:80", "[::1]:4001", 8*time.Second)
	retransmits := inState(netlinkdiag.StateLastAck)
	retransmits.Timer, retransmits.Expires = netlinkdiag.TimerRetransmit, time.Second
	for _, tt := range []struct {
		name    string
		sockets []netlinkdiag.Socket
		want    bindrule.Socket
	}{
		{"a bound socket has IPV6_V6ONLY", []netlinkdiag.Socket{any6},
			bindrule.Socket{Addr: netip.IPv6Unspecified(), V6Only: bindrule.No, State: 7, UID: bindrule.UIDOf(0), Count: 1}},
		{"or not", []netlinkdiag.Socket{only},
			bindrule.Socket{Addr: netip.IPv6Unspecified(), V6Only: bindrule.Yes, State: 7, UID: bindrule.UIDOf(0), Count: 1}},
		{"a connection may or may not", []netlinkdiag.Socket{inState(netlinkdiag.StateEstablished)},
			bindrule.Socket{Addr: localhost4, State: 1, UID: bindrule.UIDOf(0), Count: 1}},
		{"TIME_WAIT has no user, and the last one counts", []netlinkdiag.Socket{gone, longer, gone},
			bindrule.Socket{Addr: localhost6, State: 6, Kind: sock.KindTimeWait, Count: 3, Expires: 8 * time.Second}},
		{"SYN_RECV has none either", []netlinkdiag.Socket{inState(netlinkdiag.StateSynRecv)},
			bindrule.Socket{Addr: localhost4, State: 3, Kind: sock.KindRequest, Count: 1}},
		{"another timer ends nothing", []netlinkdiag.Socket{retransmits},
			bindrule.Socket{Addr: localhost4, State: 9, UID: bindrule.UIDOf(0), Count: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := socketsOf(viewOf(tt.sockets...)); !slices.Equal(got, []bindrule.Socket{tt.want}) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// flood returns n sockets on as many addresses that are bound, and do not listen.
func flood(n int) (out []netlinkdiag.Socket) {
	for i := range n {
		s := diagtest.InState(netlinkdiag.StateClose, "127.0.0.1:80", "0.0.0.0:0")
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + i>>16), byte(i >> 8), byte(i)}), 80)
		s.UID = 65534
		out = append(out, s)
	}
	return out
}

func TestFloodOfAddressesLeavesExpectedBindsKnown(t *testing.T) {
	server := bindrule.Request{
		Addr: netip.MustParseAddr("192.0.2.1"), V6Only: bindrule.No, ReuseAddr: bindrule.No, ReusePort: bindrule.No, UID: bindrule.UIDOf(0),
	}
	wildcard := server
	wildcard.Addr = netip.IPv4Unspecified()
	another := server
	another.Addr = netip.MustParseAddr("127.1.0.7")
	left := diagtest.TimeWait("192.0.2.1:80", "192.0.2.9:4000", 7*time.Second)
	for _, tt := range []struct {
		name      string
		sockets   []netlinkdiag.Socket
		want      [3]bindrule.Outcome // of server, wildcard, another
		wantUntil time.Duration       // of the server's bind
	}{
		{"as many as are kept apart", flood(maxGroupsPerPort), [3]bindrule.Outcome{bindrule.Free, bindrule.Blocked, bindrule.Blocked}, 0},
		{"one more", flood(maxGroupsPerPort + 1), [3]bindrule.Outcome{bindrule.Free, bindrule.Blocked, bindrule.Unknown}, 0},
		{"many, before the server's", append(flood(100_000), left), [3]bindrule.Outcome{bindrule.Blocked, bindrule.Blocked, bindrule.Unknown}, 7 * time.Second},
		{"many, after the server's", append([]netlinkdiag.Socket{left}, flood(100_000)...), [3]bindrule.Outcome{bindrule.Blocked, bindrule.Blocked, bindrule.Unknown}, 7 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := new(View)
			v.Expect(bindrule.NewFolding([]bindrule.Request{server, wildcard}))
			for i := range tt.sockets {
				v.Add(&tt.sockets[i])
			}
			now := time.Now()
			port := v.Port(linux.Timers{At: now}, now)
			for i, r := range []bindrule.Request{server, wildcard, another} {
				if got := port.Bind(r); got.Outcome != tt.want[i] {
					t.Errorf("a bind to %v is %v, want %v", r.Addr, got.Outcome, tt.want[i])
				}
			}
			if got := port.Bind(server); got.Until != tt.wantUntil || !got.UntilKnown {
				t.Errorf("the server's bind fails for %v, want %v", got.Until, tt.wantUntil)
			}
		})
	}
}

// A user may have 65,536 user ids, and devices without number.
func TestGroupsOfAPortAreFewWhateverItsUsersDo(t *testing.T) {
	v := new(View)
	v.Expect(bindrule.NewFolding([]bindrule.Request{
		{Addr: netip.MustParseAddr("192.0.2.1"), UID: bindrule.UIDOf(1000)},
		{Addr: netip.IPv4Unspecified(), UID: bindrule.UIDOf(1001)},
	}))
	for i, s := range flood(200_000) {
		s.UID, s.Ifindex = uint32(i), uint32(i%1000)
		switch i % 4 {
		case 1:
			s.Local = netip.MustParseAddrPort("192.0.2.1:80")
		case 2:
			s.Local = netip.MustParseAddrPort("0.0.0.0:80")
		case 3:
			s.State = netlinkdiag.StateSynRecv
		}
		v.Add(&s)
	}
	if n := len(v.groups); n > 30 {
		t.Errorf("%d groups are kept, want 30 at most", n)
	}
	var sum uint64
	for _, s := range v.Port(linux.Timers{}, time.Time{}).Sockets {
		sum += s.Count
	}
	if sum != 200_000 {
		t.Errorf("%d sockets are counted, want all 200,000", sum)
	}
}

// randomSocket is one of a few that differ in what bind() looks at.
func randomSocket(rng *rand.Rand) netlinkdiag.Socket {
	pick := func(of ...string) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(of[rng.IntN(len(of))]), 80)
	}
	local := pick("0.0.0.0", "::", "::ffff:0.0.0.0", "192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "::1", "2001:db8::1", "127.0.0.1")
	s := diagtest.InState(netlinkdiag.StateEstablished, local.String(), "192.0.2.9:4000")
	s.State = []netlinkdiag.State{
		netlinkdiag.StateEstablished, netlinkdiag.StateCloseWait, netlinkdiag.StateClose, netlinkdiag.StateSynRecv, netlinkdiag.StateTimeWait,
	}[rng.IntN(5)]
	if s.State == netlinkdiag.StateTimeWait {
		s.Timer, s.Expires = netlinkdiag.TimerTimeWait, time.Duration(1+rng.IntN(60))*time.Second
	}
	s.Ifindex, s.UID, s.V6Only = rng.Uint32N(4), rng.Uint32N(4), rng.IntN(2) == 0
	return s
}

func randomFlag(rng *rand.Rand) bindrule.Flag { return bindrule.Flag(rng.IntN(3)) }

// randomBind is a bind to an address of randomSocket, or to another.
func randomBind(rng *rand.Rand) bindrule.Request {
	s := randomSocket(rng)
	r := bindrule.Request{Addr: s.Local.Addr(), Ifindex: s.Ifindex, UID: bindrule.UID{ID: s.UID, Known: rng.IntN(4) > 0}}
	if rng.IntN(8) == 0 {
		r.Addr = netip.MustParseAddr("198.51.100.1")
	}
	return r
}

// An answer is what a bind meets, without the numbers of groups.
type answer struct {
	outcome             bindrule.Outcome
	until               time.Duration
	forever, untilKnown bool
	blockers, doubtful  [sock.NumStates]uint64
}

func answerOf(p *bindrule.Port, r bindrule.Request) answer {
	v := p.Bind(r)
	a := answer{outcome: v.Outcome, until: v.Until, forever: v.Forever, untilKnown: v.UntilKnown}
	for _, i := range v.Blockers {
		a.blockers[p.Sockets[i].State] += p.Sockets[i].Count
	}
	for _, i := range v.Doubtful {
		a.doubtful[p.Sockets[i].State] += p.Sockets[i].Count
	}
	return a
}

func TestFoldedViewAnswersAsSocketsApartDo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	timers := linux.Timers{At: now}
	outcomes := make(map[bindrule.Outcome]int)
	for n := range 10_000 {
		binds := make([]bindrule.Request, 1+rng.IntN(5))
		for i := range binds {
			binds[i] = randomBind(rng)
		}
		sockets := make([]netlinkdiag.Socket, rng.IntN(30))
		if n%200 == 0 {
			sockets = flood(maxGroupsPerPort + 10) // then the View folds by itself
		}
		for i := range sockets[max(0, len(sockets)-30):] {
			sockets[i] = randomSocket(rng)
		}
		rng.Shuffle(len(sockets), func(i, j int) { sockets[i], sockets[j] = sockets[j], sockets[i] })
		var listeners []ports.Listener
		for i := range rng.IntN(5) {
			s := randomSocket(rng)
			s.State, s.Timer, s.Expires, s.Cookie = netlinkdiag.StateListen, 0, 0, uint64(i+1)
			listeners = append(listeners, ports.NewListener(&s))
		}

		var folded View
		folded.Expect(bindrule.NewFolding(binds))
		at := rng.IntN(len(sockets) + 1)
		for i := range sockets {
			if i == at && !folded.folded {
				folded.fold()
			}
			folded.Add(&sockets[i])
		}
		folded.setListeners(listeners, nil, true)
		got := folded.Port(timers, now)

		var apart bindrule.Port
		for i := range sockets {
			var one View
			one.Add(&sockets[i])
			apart.Sockets = append(apart.Sockets, one.Port(timers, now).Sockets...)
		}
		for i := range listeners {
			var one View
			one.SetListeners(listeners[i:i+1], nil)
			apart.Sockets = append(apart.Sockets, one.Port(timers, now).Sockets...)
		}

		for _, r := range binds {
			r.V6Only, r.ReuseAddr, r.ReusePort, r.ListenersAside = randomFlag(rng), randomFlag(rng), randomFlag(rng), rng.IntN(2) == 0
			want := answerOf(&apart, r)
			outcomes[want.outcome]++
			if got := answerOf(&got, r); got != want {
				t.Fatalf("folded %+v\napart  %+v\n%+v\n%+v\nexpected %+v", got, want, r, apart.Sockets, binds)
			}
		}
	}
	for _, o := range []bindrule.Outcome{bindrule.Unknown, bindrule.Free, bindrule.Blocked} {
		if outcomes[o] < 1000 {
			t.Errorf("%d binds are %v: too few to show anything", outcomes[o], o)
		}
	}
}

func TestFloodOfListenersLeavesExpectedBindsKnown(t *testing.T) {
	var listeners []ports.Listener
	for i, s := range append(flood(5000), diagtest.Listening("192.0.2.1:80", 1)) {
		s.State, s.Cookie = netlinkdiag.StateListen, uint64(i+1)
		listeners = append(listeners, ports.NewListener(&s))
	}
	request := func(a string) bindrule.Request {
		return bindrule.Request{Addr: netip.MustParseAddr(a), V6Only: bindrule.No, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No}
	}
	v := new(View)
	v.Expect(bindrule.NewFolding([]bindrule.Request{request("192.0.2.1"), request("192.0.2.2")}))
	v.SetListeners(listeners, nil)
	port := v.Port(linux.Timers{}, time.Time{})
	for addr, want := range map[string]bindrule.Outcome{"192.0.2.1": bindrule.Blocked, "192.0.2.2": bindrule.Free, "192.0.2.3": bindrule.Unknown} {
		if got := port.Bind(request(addr)).Outcome; got != want {
			t.Errorf("a bind to %s is %v, want %v", addr, got, want)
		}
	}
	if n := len(port.Sockets); n > 3 {
		t.Errorf("%d kinds of listeners, want 3 at most", n)
	}
}

// A dump that begins anew begins with nothing.
func TestResetForgetsSockets(t *testing.T) {
	v := new(View)
	s := inState(netlinkdiag.StateCloseWait)
	v.Add(&s)
	v.ResetSockets()
	v.Add(&s)
	if got := socketsOf(v); len(got) != 1 || got[0].Count != 1 {
		t.Errorf("got %+v, want one socket", got)
	}
}

// Sockets whose flags are known are kept apart by flags, and from those of a dump.
func TestSocketsWithKnownFlags(t *testing.T) {
	v := new(View)
	s := inState(netlinkdiag.StateTimeWait)
	s.Timer = netlinkdiag.TimerTimeWait
	v.Add(&s)
	yes, no := Flags{bindrule.Yes, bindrule.No}, Flags{bindrule.No, bindrule.No}
	v.AddMany(&s, sock.KindTimeWait, yes, 5)
	v.AddMany(&s, sock.KindTimeWait, no, 7)
	v.AddMany(&s, sock.KindTimeWait, yes, 1)
	v.Add(&s)
	counts := make(map[Flags]uint64)
	for _, of := range socketsOf(v) {
		counts[Flags{of.ReuseAddr, of.ReusePort}] += of.Count
		if known := of.ReuseAddr != bindrule.FlagUnknown; (of.V6Only == bindrule.No) != known {
			t.Errorf("IPV6_V6ONLY is %v: %+v", of.V6Only, of)
		}
	}
	if want := map[Flags]uint64{{}: 2, yes: 6, no: 7}; !maps.Equal(counts, want) {
		t.Errorf("got %v, want %v", counts, want)
	}
}

// A connection of TCP Fast Open is in SYN_RECV, too, and it blocks a bind.
func TestSocketsInSynRecvWithKnownKind(t *testing.T) {
	v := new(View)
	s := inState(netlinkdiag.StateSynRecv)
	v.AddMany(&s, sock.KindRequest, Flags{bindrule.No, bindrule.No}, 3)
	v.AddMany(&s, sock.KindFull, Flags{bindrule.No, bindrule.No}, 1)
	counts := make(map[sock.Kind]uint64)
	for _, of := range socketsOf(v) {
		counts[of.Kind] += of.Count
		if of.UID.Known != (of.Kind == sock.KindFull) {
			t.Errorf("the user is known: %v, of %v", of.UID.Known, of.Kind)
		}
	}
	if want := map[sock.Kind]uint64{sock.KindRequest: 3, sock.KindFull: 1}; !maps.Equal(counts, want) {
		t.Errorf("got %v, want %v", counts, want)
	}
}
