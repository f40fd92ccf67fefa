package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// held folds sockets as one of port 80.
func heldOf(sockets ...netlinkdiag.Socket) *holders {
	h := new(holders)
	for i := range sockets {
		h.add(&sockets[i])
	}
	return h
}

// as80 are the sockets for bind(), in some order that does not change.
func as80(h *holders) []bindrule.Socket {
	out := h.sockets()
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
		Addr: localhost4, State: bindrule.State(netlinkdiag.StateCloseWait), UID: bindrule.UIDOf(7), Count: 2,
	}}
	if got := as80(heldOf(one, same)); !slices.Equal(got, want) {
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
			if got := as80(heldOf(base, other, base)); len(got) != 2 || got[0].Count+got[1].Count != 3 {
				t.Errorf("got %+v, want two groups of three sockets", got)
			}
		})
	}
}

func TestWhatSockDiagDoesNotSayIsUnknown(t *testing.T) {
	any6 := socket(netlinkdiag.StateClose, "[::]:80", "[::]:0")
	only := any6
	only.V6Only = true
	gone := timeWait("[::1]:80", "[::1]:4000", 7*time.Second)
	longer := timeWait("[::1]:80", "[::1]:4001", 8*time.Second)
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
			bindrule.Socket{Addr: localhost6, State: 6, Kind: bindrule.KindTimeWait, Count: 3, Expires: 8 * time.Second}},
		{"SYN_RECV has none either", []netlinkdiag.Socket{inState(netlinkdiag.StateSynRecv)},
			bindrule.Socket{Addr: localhost4, State: 3, Kind: bindrule.KindRequest, Count: 1}},
		{"another timer ends nothing", []netlinkdiag.Socket{retransmits},
			bindrule.Socket{Addr: localhost4, State: 9, UID: bindrule.UIDOf(0), Count: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := as80(heldOf(tt.sockets...)); !slices.Equal(got, []bindrule.Socket{tt.want}) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestMoreKindsOfSocketsThanFitLeaveAPortUnknown(t *testing.T) {
	var sockets []netlinkdiag.Socket
	for i := range maxGroupsPerPort + 1 {
		s := timeWait("127.0.0.1:80", "127.0.0.1:4000", time.Second)
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 80)
		sockets = append(sockets, s, s)
	}
	fits := heldOf(sockets[:2*maxGroupsPerPort]...)
	if n := len(fits.groups); fits.overflow || n != maxGroupsPerPort {
		t.Errorf("%d groups, overflow %v; want %d and no overflow", n, fits.overflow, maxGroupsPerPort)
	}
	over := heldOf(sockets...)
	if n := len(over.groups); !over.overflow || n != maxGroupsPerPort {
		t.Errorf("%d groups, overflow %v; want %d and overflow", n, over.overflow, maxGroupsPerPort)
	}
	// Those that did fit still count, and are not all.
	v := judged(t, newTaker(t, newFake(sockets...).judging(nil), onPort80()))
	for i, b := range v.Binds {
		want := bindrule.Blocked
		if b.ReuseAddr {
			want = bindrule.Unknown
		}
		if _, _, ok := b.Remaining(); b.Outcome != want || ok || b.BlockersKnown {
			t.Errorf("%s: %v, how long is known: %v, blockers: %v; want %v, and neither", bindRows(v)[i], b.Outcome, ok, b.BlockersKnown, want)
		}
	}
}

// A dump that begins anew begins with nothing.
func TestResetForgetsWhatHolds(t *testing.T) {
	f := newFold(watchedSet(t, 80), true, newClients(nil, sock.PortRange{}))
	s := inState(netlinkdiag.StateCloseWait)
	f.add(&s)
	f.reset()
	f.add(&s)
	if got := as80(&f.held[0]); len(got) != 1 || got[0].Count != 1 {
		t.Errorf("got %+v, want one socket", got)
	}
}

func watchedSet(t testing.TB, numbers ...uint16) ports.Set {
	t.Helper()
	cfg := ports.Config{MaxPorts: len(numbers)}
	for _, p := range numbers {
		cfg.Ports = append(cfg.Ports, ports.Spec{PortRange: sock.PortRange{First: p, Last: p}})
	}
	w, err := ports.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w.Update(time.Time{}, nil)
}

// BenchmarkFold folds a million sockets, with eBPF and without.
func BenchmarkFold(b *testing.B) {
	const million = 1_000_000
	for _, watched := range []int{1, 512} {
		numbers := make([]uint16, watched)
		for i := range numbers {
			numbers[i] = uint16(1000 + i)
		}
		set := watchedSet(b, numbers...)
		for _, kinds := range []struct {
			name string
			of   func(i int, s *netlinkdiag.Socket)
		}{
			{"time_wait", func(int, *netlinkdiag.Socket) {}},
			{"mixed", func(i int, s *netlinkdiag.Socket) { // as in a hash table: the next one is of another kind
				switch i * 7919 % 5 {
				case 0:
					s.State, s.Timer, s.UID = netlinkdiag.StateEstablished, netlinkdiag.TimerNone, 33
				case 1:
					s.State, s.Timer, s.UID = netlinkdiag.StateCloseWait, netlinkdiag.TimerNone, 33
				case 2:
					s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), s.Local.Port())
				}
			}},
		} {
			sockets := make([]netlinkdiag.Socket, 8192)
			for i := range sockets {
				s := timeWait("127.0.0.1:80", "127.0.0.1:4000", time.Duration(i)*time.Millisecond)
				s.Local = netip.AddrPortFrom(localhost4, numbers[i*31%watched])
				kinds.of(i, &s)
				sockets[i] = s
			}
			for _, holdAll := range []bool{false, true} {
				b.Run(fmt.Sprintf("ports=%d/%s/holdAll=%v", watched, kinds.name, holdAll), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						f := newFold(set, holdAll, newClients(nil, sock.PortRange{}))
						for i := range million {
							f.add(&sockets[i%len(sockets)])
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/socket")
				})
			}
		}
	}
}
