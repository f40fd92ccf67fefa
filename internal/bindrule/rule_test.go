package bindrule

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
)

const (
	established sock.State = 1
	finWait2    sock.State = 5
	timeWait    sock.State = 6
	bound       sock.State = 7 // as sock_diag shows it
	closeWait   sock.State = 8
	lastAck     sock.State = 9
)

var addr = netip.MustParseAddr

// plain returns a live socket, or a request, without any flag.
func plain(a string, state sock.State) Socket {
	return Socket{Addr: addr(a), V6Only: No, ReuseAddr: No, ReusePort: No, UID: UIDOf(0), State: state, Count: 1}
}

// gone returns a minisocket.
func gone(a string, expires time.Duration) Socket {
	s := plain(a, timeWait)
	s.Kind, s.UID, s.Expires = sock.KindTimeWait, UIDOf(0), expires
	return s
}

func with(s Socket, change func(*Socket)) Socket { change(&s); return s }

func to(a string) Request {
	return Request{Addr: addr(a), V6Only: No, ReuseAddr: No, ReusePort: No, UID: UIDOf(0)}
}

func asking(r Request, change func(*Request)) Request { change(&r); return r }

var noBucket = Bucket{Known: true}

func TestBind(t *testing.T) {
	tests := []struct {
		name    string
		port    Port
		request Request
		want    Outcome
	}{
		{
			name:    "nothing on the port",
			request: to("0.0.0.0"), want: Free,
		},
		{
			name:    "TIME_WAIT without the flag, binder has it",
			port:    Port{Sockets: []Socket{gone("127.0.0.1", time.Second)}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes }), want: Blocked,
		},
		{
			name:    "TIME_WAIT with the flag, binder lacks it",
			port:    Port{Sockets: []Socket{with(gone("127.0.0.1", time.Second), func(s *Socket) { s.ReuseAddr = Yes })}},
			request: to("0.0.0.0"), want: Blocked,
		},
		{
			name:    "both have SO_REUSEADDR",
			port:    Port{Sockets: []Socket{with(plain("127.0.0.1", lastAck), func(s *Socket) { s.ReuseAddr = Yes })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes }), want: Free,
		},
		{
			name:    "both have SO_REUSEADDR, but one listens",
			port:    Port{Sockets: []Socket{with(plain("0.0.0.0", sock.StateListen), func(s *Socket) { s.ReuseAddr = Yes })}},
			request: asking(to("127.0.0.1"), func(r *Request) { r.ReuseAddr = Yes }), want: Blocked,
		},
		{
			name: "one of many",
			port: Port{Sockets: []Socket{
				with(gone("127.0.0.1", time.Second), func(s *Socket) { s.ReuseAddr = Yes; s.Count = 1e6 }),
				gone("127.0.0.1", time.Second),
			}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes }), want: Blocked,
		},
		{
			name:    "both have SO_REUSEPORT, same user",
			port:    Port{Bucket: noBucket, Sockets: []Socket{with(plain("0.0.0.0", sock.StateListen), func(s *Socket) { s.ReusePort = Yes })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReusePort = Yes }), want: Free,
		},
		{
			name:    "both have SO_REUSEPORT, another user",
			port:    Port{Bucket: noBucket, Sockets: []Socket{with(plain("0.0.0.0", sock.StateListen), func(s *Socket) { s.ReusePort, s.UID = Yes, UIDOf(1000) })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReusePort = Yes }), want: Blocked,
		},
		{
			name:    "both have SO_REUSEPORT, TIME_WAIT has no user",
			port:    Port{Bucket: noBucket, Sockets: []Socket{with(gone("127.0.0.1", time.Second), func(s *Socket) { s.ReusePort, s.UID = Yes, UID{} })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReusePort, r.UID = Yes, UIDOf(1000) }), want: Free,
		},
		{
			name:    "orphaned FIN_WAIT2 is a minisocket too",
			port:    Port{Bucket: noBucket, Sockets: []Socket{with(gone("127.0.0.1", time.Second), func(s *Socket) { s.ReusePort, s.State = Yes, finWait2 })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReusePort, r.UID = Yes, UIDOf(1000) }), want: Free,
		},
		{
			name:    "SO_REUSEADDR here, SO_REUSEPORT there",
			port:    Port{Bucket: noBucket, Sockets: []Socket{with(plain("127.0.0.1", established), func(s *Socket) { s.ReusePort = Yes })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes }), want: Blocked,
		},
		{
			name:    "SYN_RECV holds no port",
			port:    Port{Sockets: []Socket{with(plain("0.0.0.0", 3), func(s *Socket) { s.Kind = sock.KindRequest })}},
			request: to("0.0.0.0"), want: Free,
		},
		{
			name:    "two devices",
			port:    Port{Sockets: []Socket{with(plain("0.0.0.0", sock.StateListen), func(s *Socket) { s.Ifindex = 2 })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.Ifindex = 3 }), want: Free,
		},
		{
			name:    "a device and none",
			port:    Port{Sockets: []Socket{with(plain("0.0.0.0", sock.StateListen), func(s *Socket) { s.Ifindex = 2 })}},
			request: to("0.0.0.0"), want: Blocked,
		},
		{
			name:    "the same device",
			port:    Port{Sockets: []Socket{with(plain("0.0.0.0", sock.StateListen), func(s *Socket) { s.Ifindex = 2 })}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.Ifindex = 2 }), want: Blocked,
		},
		{
			name:    "listeners aside",
			port:    Port{Sockets: []Socket{plain("0.0.0.0", sock.StateListen)}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ListenersAside = true }), want: Free,
		},
		{
			name:    "listeners aside, their connection not",
			port:    Port{Sockets: []Socket{plain("0.0.0.0", sock.StateListen), plain("127.0.0.1", closeWait)}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ListenersAside = true }), want: Blocked,
		},
		{
			name:    "a list with gaps",
			port:    Port{Incomplete: true},
			request: to("0.0.0.0"), want: Unknown,
		},
		{
			name:    "a list with gaps, and a bucket that admits",
			port:    Port{Incomplete: true, Bucket: Bucket{Known: true, FastReuse: true}},
			request: asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes }), want: Free,
		},
		{
			name:    "a list with gaps, and a blocker in it",
			port:    Port{Incomplete: true, Sockets: []Socket{plain("0.0.0.0", bound)}},
			request: to("0.0.0.0"), want: Blocked,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.port.Bind(tt.request).Outcome; got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

// In the table of TestAddressesOverlap, rows are addresses of requests, columns are
// addresses of sockets.
func TestAddressesOverlap(t *testing.T) {
	const no, yes, unknown = Free, Blocked, Unknown
	sockets := []Socket{
		plain("0.0.0.0", established),
		plain("127.0.0.1", established),
		plain("::ffff:127.0.0.1", established),
		plain("127.0.0.2", established),
		plain("::ffff:0.0.0.0", established),
		plain("::", established),
		with(plain("::", established), func(s *Socket) { s.V6Only = Yes }),
		plain("::1", established), // of a dual-stack listener
		with(plain("::1", established), func(s *Socket) { s.V6Only = Yes }),
		with(plain("::1", established), func(s *Socket) { s.V6Only = FlagUnknown }),
		plain("2001:db8::1", established),
	}
	tests := []struct {
		name    string
		request Request
		want    []Outcome
	}{
		{"0.0.0.0", to("0.0.0.0"), []Outcome{yes, yes, yes, yes, yes, yes, no, yes, no, unknown, yes}},
		{"127.0.0.1", to("127.0.0.1"), []Outcome{yes, yes, yes, no, yes, yes, no, no, no, no, no}},
		{"::ffff:127.0.0.1", to("::ffff:127.0.0.1"), []Outcome{unknown, yes, yes, no, unknown, yes, no, no, no, no, no}},
		{"::ffff:0.0.0.0", to("::ffff:0.0.0.0"), []Outcome{yes, yes, yes, yes, yes, yes, no, no, no, no, no}},
		{":: dual-stack", to("::"), []Outcome{yes, yes, yes, yes, yes, yes, yes, yes, yes, yes, yes}},
		{":: v6only", asking(to("::"), func(r *Request) { r.V6Only = Yes }), []Outcome{no, no, no, no, no, yes, yes, yes, yes, yes, yes}},
		{"::1", to("::1"), []Outcome{no, no, no, no, no, yes, yes, yes, yes, yes, no}},
		{"::1 v6only", asking(to("::1"), func(r *Request) { r.V6Only = Yes }), []Outcome{no, no, no, no, no, yes, yes, yes, yes, yes, no}},
		{"::1 with a zone", to("::1%lo"), []Outcome{no, no, no, no, no, yes, yes, yes, yes, yes, no}},
	}
	for _, tt := range tests {
		for i, s := range sockets {
			p := Port{Sockets: []Socket{s}}
			if got := p.Bind(tt.request).Outcome; got != tt.want[i] {
				t.Errorf("%s over %v, v6only %v: %v, want %v", tt.name, s.Addr, s.V6Only, got, tt.want[i])
			}
		}
	}
}

// Every case of TestBucketAdmits has a socket that conflicts with any request.
func TestBucketAdmits(t *testing.T) {
	strict := func(a string, v6only bool) Bucket {
		return Bucket{Known: true, FastReusePort: FastReusePortStrict, UID: 1000, Addr: addr(a), V6Only: v6only}
	}
	reusePort := func(a string) Request {
		return asking(to(a), func(r *Request) { r.ReusePort, r.UID = Yes, UIDOf(1000) })
	}
	tests := []struct {
		name    string
		bucket  Bucket
		request Request
		want    Outcome
	}{
		{"FastReuse", Bucket{Known: true, FastReuse: true}, asking(to("::"), func(r *Request) { r.ReuseAddr = Yes }), Free},
		{"FastReuse, no SO_REUSEADDR", Bucket{Known: true, FastReuse: true}, reusePort("::"), Blocked},
		{"FastReuse not set", noBucket, asking(to("::"), func(r *Request) { r.ReuseAddr = Yes }), Blocked},
		{"any", Bucket{Known: true, FastReusePort: FastReusePortAny, UID: 1000}, reusePort("::"), Free},
		{"any, other user", Bucket{Known: true, FastReusePort: FastReusePortAny, UID: 1}, reusePort("::"), Blocked},
		{"any, user unknown", Bucket{Known: true, FastReusePort: FastReusePortAny, UID: 1}, asking(reusePort("::"), func(r *Request) { r.UID = UID{} }), Unknown},
		{"any, no SO_REUSEPORT", Bucket{Known: true, FastReusePort: FastReusePortAny}, to("::"), Blocked},
		{"none", Bucket{Known: true, UID: 1000, Addr: addr("::")}, reusePort("::"), Blocked},
		{"unknown, SO_REUSEPORT", Bucket{}, reusePort("::"), Unknown},
		{"unknown, SO_REUSEADDR", Bucket{}, asking(to("::"), func(r *Request) { r.ReuseAddr = Yes }), Blocked},

		{"strict, same", strict("127.0.0.1", false), reusePort("127.0.0.1"), Free},
		{"strict, other user", strict("127.0.0.1", false), asking(reusePort("127.0.0.1"), func(r *Request) { r.UID = UIDOf(0) }), Blocked},
		{"strict, mapped", strict("127.0.0.1", false), reusePort("::ffff:127.0.0.1"), Free},
		{"strict, other", strict("127.0.0.2", false), reusePort("127.0.0.1"), Blocked},
		{"strict, wildcard asked", strict("127.0.0.1", false), reusePort("0.0.0.0"), Blocked},
		{"strict 0.0.0.0", strict("0.0.0.0", false), reusePort("127.0.0.1"), Free},
		{"strict 0.0.0.0, dual-stack asked", strict("0.0.0.0", false), reusePort("::"), Free},
		{"strict 0.0.0.0, v6only asked", strict("0.0.0.0", false), asking(reusePort("::"), func(r *Request) { r.V6Only = Yes }), Blocked},
		{"strict 0.0.0.0, ::1 asked", strict("0.0.0.0", false), reusePort("::1"), Blocked},
		{"strict mapped wildcard", strict("::ffff:0.0.0.0", false), reusePort("127.0.0.1"), Free},
		{"strict mapped wildcard, dual-stack asked", strict("::ffff:0.0.0.0", false), reusePort("::"), Blocked},
		{"strict dual-stack", strict("::", false), reusePort("127.0.0.1"), Free},
		{"strict v6only, IPv4 asked", strict("::", true), reusePort("127.0.0.1"), Blocked},
		{"strict v6only, ::1 asked", strict("::", true), reusePort("::1"), Free},
		{"strict v6only, dual-stack asked", strict("::", true), reusePort("::"), Free},
		{"strict LOOPBACK4_IPV6, ::1 asked", strict("127.0.0.6", false), reusePort("::1"), Blocked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Port{Bucket: tt.bucket, Sockets: []Socket{plain(tt.request.Addr.String(), sock.StateListen)}}
			if got := p.Bind(tt.request).Outcome; got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestUnknownMattersOrNot(t *testing.T) {
	reuseAddr := asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes })
	flagless := Socket{Addr: addr("0.0.0.0"), UID: UIDOf(0), State: bound, Count: 1}
	tests := []struct {
		name    string
		sockets []Socket
		bucket  Bucket
		request Request
		want    Outcome
	}{
		{"flags of a socket", []Socket{flagless}, noBucket, reuseAddr, Unknown},
		{"flags of a socket, binder has none", []Socket{flagless}, noBucket, to("0.0.0.0"), Blocked},
		{"flags of a socket elsewhere", []Socket{flagless}, noBucket, asking(to("::"), func(r *Request) { r.V6Only = Yes }), Free},
		{"flags of a socket, another surely blocks", []Socket{flagless, plain("127.0.0.1", established)}, noBucket, reuseAddr, Blocked},
		{"flags of a listener, SO_REUSEADDR", []Socket{with(flagless, func(s *Socket) { s.State = sock.StateListen })}, noBucket, reuseAddr, Blocked},
		{"flags of the binder", []Socket{with(plain("0.0.0.0", bound), func(s *Socket) { s.ReuseAddr = Yes })}, noBucket,
			asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = FlagUnknown }), Unknown},
		{"flags of the binder, socket has none", []Socket{plain("0.0.0.0", bound)}, noBucket,
			Request{Addr: addr("0.0.0.0")}, Blocked},
		{"user", []Socket{with(plain("0.0.0.0", bound), func(s *Socket) { s.ReusePort, s.UID = Yes, UID{} })}, noBucket,
			asking(to("0.0.0.0"), func(r *Request) { r.ReusePort = Yes }), Unknown},
		{"v6only of the binder", []Socket{plain("0.0.0.0", bound)}, noBucket,
			asking(to("::"), func(r *Request) { r.V6Only = FlagUnknown }), Unknown},
		{"v6only of a socket", []Socket{with(plain("::", bound), func(s *Socket) { s.V6Only = FlagUnknown })}, noBucket, to("0.0.0.0"), Unknown},
		{"all of the binder, nothing there", nil, Bucket{}, Request{Addr: addr("::")}, Free},
		{"bucket, binder's SO_REUSEPORT unknown", []Socket{plain("0.0.0.0", bound)}, Bucket{},
			asking(to("0.0.0.0"), func(r *Request) { r.ReusePort = FlagUnknown }), Unknown},
		{"mapped address", []Socket{plain("0.0.0.0", bound)}, noBucket, to("::ffff:127.0.0.1"), Unknown},
		{"mapped address that meets wildcards", []Socket{plain("0.0.0.0", bound)}, Bucket{Known: true, MappedMeetsAny: true},
			to("::ffff:127.0.0.1"), Blocked},
		{"mapped address that meets wildcards, in another family", []Socket{plain("::ffff:0.0.0.0", bound)},
			Bucket{Known: true, MappedMeetsAny: true}, to("::ffff:127.0.0.1"), Blocked},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Port{Sockets: tt.sockets, Bucket: tt.bucket}
			if got := p.Bind(tt.request).Outcome; got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestUntil(t *testing.T) {
	reuseAddr := asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes })
	unsure := func(s Socket) Socket { s.ReuseAddr = FlagUnknown; return s }
	tests := []struct {
		name       string
		sockets    []Socket
		incomplete bool
		request    Request
		want       Verdict
	}{
		{
			name: "free", request: to("0.0.0.0"),
			want: Verdict{Outcome: Free, UntilKnown: true},
		},
		{
			name: "the last one", request: to("0.0.0.0"),
			sockets: []Socket{gone("127.0.0.1", time.Second), gone("127.0.0.1", 43*time.Second), gone("127.0.0.1", 2*time.Second)},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0, 1, 2}, Until: 43 * time.Second, UntilKnown: true},
		},
		{
			name: "those that do not conflict do not count", request: reuseAddr,
			sockets: []Socket{gone("127.0.0.1", time.Second), with(gone("127.0.0.1", time.Minute), func(s *Socket) { s.ReuseAddr = Yes })},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0}, Until: time.Second, UntilKnown: true},
		},
		{
			name: "a live one", request: to("0.0.0.0"),
			sockets: []Socket{gone("127.0.0.1", time.Minute), plain("127.0.0.1", lastAck)},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0, 1}, Forever: true, UntilKnown: true},
		},
		{
			name: "perhaps a live one", request: reuseAddr,
			sockets: []Socket{gone("127.0.0.1", time.Minute), unsure(plain("127.0.0.1", bound))},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0}, Doubtful: []int{1}, Until: time.Minute},
		},
		{
			name: "perhaps one that goes later", request: reuseAddr,
			sockets: []Socket{gone("127.0.0.1", time.Second), unsure(gone("127.0.0.1", time.Minute))},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0}, Doubtful: []int{1}, Until: time.Second},
		},
		{
			name: "perhaps one that goes earlier", request: reuseAddr,
			sockets: []Socket{gone("127.0.0.1", time.Minute), unsure(gone("127.0.0.1", time.Second))},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0}, Doubtful: []int{1}, Until: time.Minute, UntilKnown: true},
		},
		{
			name: "only doubt", request: reuseAddr,
			sockets: []Socket{unsure(gone("127.0.0.1", time.Second))},
			want:    Verdict{Outcome: Unknown, Doubtful: []int{0}},
		},
		{
			name: "gaps", request: to("0.0.0.0"), incomplete: true,
			sockets: []Socket{gone("127.0.0.1", time.Second)},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0}, Until: time.Second},
		},
		{
			name: "gaps, and a live one", request: to("0.0.0.0"), incomplete: true,
			sockets: []Socket{plain("127.0.0.1", established)},
			want:    Verdict{Outcome: Blocked, Blockers: []int{0}, Forever: true, UntilKnown: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Port{Sockets: tt.sockets, Incomplete: tt.incomplete}
			got := p.Bind(tt.request)
			if !slices.Equal(got.Blockers, tt.want.Blockers) || !slices.Equal(got.Doubtful, tt.want.Doubtful) ||
				got.Outcome != tt.want.Outcome || got.Until != tt.want.Until ||
				got.Forever != tt.want.Forever || got.UntilKnown != tt.want.UntilKnown {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

func BenchmarkBind(b *testing.B) {
	p := Port{Bucket: noBucket}
	for range 100 {
		p.Sockets = append(p.Sockets, with(gone("127.0.0.1", time.Second), func(s *Socket) { s.ReuseAddr = Yes }))
	}
	r := asking(to("0.0.0.0"), func(r *Request) { r.ReuseAddr = Yes })
	b.ReportAllocs()
	for b.Loop() {
		if p.Bind(r).Outcome != Free {
			b.Fatal("not free")
		}
	}
}

// What a restart closes: listeners and what waits in their queues at once, CLOSE_WAIT as soon as the peers
// confirm it.
func TestWhatEndsWithTheServer(t *testing.T) {
	any4 := netip.IPv4Unspecified()
	in := func(state sock.State) Socket {
		return Socket{Addr: any4, State: state, ReuseAddr: No, ReusePort: No, Count: 1}
	}
	queued := in(sock.StateEstablished)
	queued.Queued = true
	timeWait := in(sock.StateTimeWait)
	timeWait.Kind, timeWait.Expires = sock.KindTimeWait, time.Second
	unseen := in(sock.StateCloseWait)
	unseen.ReuseAddr = FlagUnknown
	for _, tt := range []struct {
		name    string
		sockets []Socket
		ends    bool
		want    Outcome
		until   time.Duration // of what is blocked; negative: forever
	}{
		{"listener", []Socket{in(sock.StateListen)}, true, Free, 0},
		{"queued", []Socket{in(sock.StateListen), queued}, false, Free, 0},
		{"close_wait", []Socket{in(sock.StateCloseWait)}, true, Unknown, 0},
		{"close_wait of another", []Socket{in(sock.StateCloseWait)}, false, Blocked, -1},
		{"close_wait and time_wait", []Socket{in(sock.StateCloseWait), timeWait}, true, Blocked, time.Second},
		{"close_wait with unknown flags, and time_wait", []Socket{unseen, timeWait}, true, Blocked, time.Second},
		{"established", []Socket{in(sock.StateEstablished)}, true, Blocked, -1},
	} {
		p := Port{Sockets: tt.sockets}
		v := p.Bind(Request{Addr: any4, ReuseAddr: FlagUnknown, ReusePort: No, ListenersAside: true, ServerEnds: tt.ends})
		if v.Outcome != tt.want || v.Outcome == Blocked && (!v.UntilKnown || v.Forever != (tt.until < 0) || !v.Forever && v.Until != tt.until) {
			t.Errorf("%s: %+v, want %v until %v", tt.name, v, tt.want, tt.until)
		}
	}
}
