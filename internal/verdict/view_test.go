package verdict

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/linux"
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

func TestMoreKindsOfSocketsThanFitLeaveAPortUnknown(t *testing.T) {
	var sockets []netlinkdiag.Socket
	for i := range maxGroupsPerPort + 1 {
		s := diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4000", time.Second)
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 80)
		sockets = append(sockets, s, s)
	}
	fits := viewOf(sockets[:2*maxGroupsPerPort]...)
	if n := len(fits.groups); fits.overflow || n != maxGroupsPerPort {
		t.Errorf("%d groups, overflow %v; want %d and no overflow", n, fits.overflow, maxGroupsPerPort)
	}
	over := viewOf(sockets...)
	if n := len(over.groups); !over.overflow || n != maxGroupsPerPort {
		t.Errorf("%d groups, overflow %v; want %d and overflow", n, over.overflow, maxGroupsPerPort)
	}
	for _, tt := range []struct {
		view *View
		want bool
	}{{fits, false}, {over, true}} {
		if got := tt.view.Port(linux.Timers{}, time.Time{}).Incomplete; got != tt.want {
			t.Errorf("the port is incomplete: %v, want %v", got, tt.want)
		}
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
