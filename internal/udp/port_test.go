package udp

import (
	"net/netip"
	"slices"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe/probetest"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// server is a socket with SO_REUSEADDR that a program has open.
func server(addr, process string) Socket {
	return Socket{
		Socket: bindrule.Socket{
			Addr: netip.MustParseAddr(addr), State: sock.StateClose, Count: 1, UID: bindrule.UIDOf(0),
			V6Only: bindrule.No, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No,
		},
		Cookie: 1, Inode: 1, Owner: owner.Owner{Process: process, PID: 1},
	}
}

func but(s Socket, change func(*Socket)) Socket {
	change(&s)
	return s
}

func port(sockets ...Socket) *Port {
	return &Port{Number: 53, InOrder: true, Crowded: bindrule.No, Sockets: sockets}
}

func TestSharedPort(t *testing.T) {
	many := func(s *Socket) { s.Multicast = true }
	broadcasts := func(s *Socket) { s.Broadcast = true }
	inUnit := func(s *Socket) { s.Owner.Unit = "dns.service" }
	for _, tt := range []struct {
		name    string
		sockets []Socket
		want    []string
		flag    string
	}{
		{"two servers", []Socket{server("0.0.0.0", "chronyd"), server("0.0.0.0", "ntpd")}, []string{"chronyd", "ntpd"}, "SO_REUSEADDR"},
		{"three of them", []Socket{server("0.0.0.0", "a"), server("0.0.0.0", "b"), server("0.0.0.0", "c")}, []string{"a", "b", "c"}, "SO_REUSEADDR"},
		{"by SO_REUSEPORT", []Socket{
			but(server("::", "a"), func(s *Socket) { s.ReuseAddr, s.ReusePort = bindrule.No, bindrule.Yes }),
			but(server("::", "b"), func(s *Socket) { s.ReuseAddr, s.ReusePort = bindrule.No, bindrule.Yes }),
		}, []string{"a", "b"}, "SO_REUSEPORT"},
		{"dual stack", []Socket{server("0.0.0.0", "a"), server("::", "b")}, []string{"a", "b"}, "SO_REUSEADDR"},
		{"a half each", []Socket{server("0.0.0.0", "a"), but(server("::", "b"), func(s *Socket) { s.V6Only = bindrule.Yes })}, nil, ""},
		{"a particular address", []Socket{server("0.0.0.0", "a"), server("192.0.2.1", "b")}, nil, ""},
		{"two devices", []Socket{server("0.0.0.0", "a"), but(server("0.0.0.0", "b"), func(s *Socket) { s.Ifindex = 2 })}, nil, ""},
		{"workers of one server", []Socket{server("0.0.0.0", "a"), server("0.0.0.0", "a")}, nil, ""},
		{"workers of one unit", []Socket{but(server("0.0.0.0", "a"), inUnit), but(server("0.0.0.0", "b"), inUnit)}, nil, ""},
		{"multicast", []Socket{but(server("0.0.0.0", "avahi"), many), but(server("0.0.0.0", "browser"), many)}, nil, ""},
		{"one for multicast", []Socket{but(server("0.0.0.0", "avahi"), many), server("0.0.0.0", "browser")}, nil, ""},
		{"broadcast", []Socket{but(server("0.0.0.0", "a"), broadcasts), but(server("0.0.0.0", "b"), broadcasts)}, nil, ""},
		{"one that may broadcast", []Socket{but(server("0.0.0.0", "chronyd"), broadcasts), server("0.0.0.0", "ntpd")}, []string{"chronyd", "ntpd"}, "SO_REUSEADDR"},
		{"a multicast address", []Socket{server("224.0.0.251", "a"), server("224.0.0.251", "b")}, nil, ""},
		{"a connected one", []Socket{server("127.0.0.1", "a"), but(server("127.0.0.1", "b"), func(s *Socket) { s.State = sock.StateEstablished })}, nil, ""},
		{"flags not known", []Socket{
			but(server("0.0.0.0", "a"), func(s *Socket) { s.ReuseAddr = bindrule.FlagUnknown }),
			but(server("0.0.0.0", "b"), func(s *Socket) { s.ReuseAddr = bindrule.FlagUnknown }),
		}, nil, ""},
		{"owner not known", []Socket{server("0.0.0.0", "a"), but(server("0.0.0.0", ""), func(s *Socket) { s.Owner = owner.Owner{} })}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			of, ok := port(tt.sockets...).Shared()
			var names []string
			for _, o := range of.Owners() {
				names = append(names, o.Process)
			}
			slices.Sort(names)
			if ok != (tt.want != nil) || ok && (!slices.Equal(names, tt.want) || of.Flag != tt.flag) {
				t.Errorf("got %v, %q, %v, want %v, %q", names, of.Flag, ok, tt.want, tt.flag)
			}
		})
	}
}

func TestRestartBlocked(t *testing.T) {
	plain := func(s *Socket) { s.ReuseAddr = bindrule.No }
	child := func(s *Socket) { s.ReuseAddr, s.State, s.Owner.Process = bindrule.No, sock.StateEstablished, "child" }
	for _, tt := range []struct {
		name    string
		sockets []Socket
		want    bool
	}{
		{"alone", []Socket{but(server("0.0.0.0", "a"), plain)}, false},
		{"its own connections", []Socket{but(server("0.0.0.0", "a"), plain), but(server("127.0.0.1", "a"), func(s *Socket) { s.State = sock.StateEstablished })}, false},
		{"a child has one", []Socket{but(server("0.0.0.0", "a"), plain), but(server("127.0.0.1", "a"), child)}, true},
		{"shared by the flag", []Socket{server("0.0.0.0", "a"), server("0.0.0.0", "b")}, false},
		{"another address", []Socket{but(server("127.0.0.1", "a"), plain), but(server("127.0.0.2", "b"), plain)}, false},
		{"a client", []Socket{but(server("0.0.0.0", "a"), func(s *Socket) { s.Chosen = true }), but(server("127.0.0.1", "b"), child)}, false},
		{"of the kernel", []Socket{but(server("0.0.0.0", ""), func(s *Socket) { s.Kernel, s.Owner = true, owner.Owner{} }), but(server("127.0.0.1", "b"), child)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := port(tt.sockets...).RestartBlocked(); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestGroups(t *testing.T) {
	old := but(server("0.0.0.0", "old"), func(s *Socket) { s.Cookie, s.ReuseAddr = 1, bindrule.No })
	young := but(server("0.0.0.0", "young"), func(s *Socket) { s.Cookie = 2 })
	client := but(server("127.0.0.1", "old"), func(s *Socket) { s.Cookie, s.State, s.Count = 3, sock.StateEstablished, 40 })
	got := port(young, client, old, server("::", "other")).Groups()
	if len(got) != 2 {
		t.Fatalf("got %+v", got)
	}
	if g := got[0]; g.Owner.Process != "old" || g.Sockets != 2 || g.ReuseAddr != bindrule.No || g.ReusePort != bindrule.No || g.Connected != 40 {
		t.Errorf("got %+v", g)
	}
	if g := got[1]; g.Addr != netip.IPv6Unspecified() || g.Sockets != 1 || g.ReuseAddr != bindrule.Yes || g.Connected != 0 {
		t.Errorf("got %+v", g)
	}
}

// Who opens many sockets does not displace others.
func TestGroupsAreBoundedFairly(t *testing.T) {
	p := port()
	for i := range uint64(100) {
		p.Sockets = append(p.Sockets, but(server(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}).String(), "many"), func(s *Socket) {
			s.UID, s.Cookie = bindrule.UIDOf(1000), 1000+i
		}))
	}
	p.Sockets = append(p.Sockets, but(server("192.0.2.1", "late"), func(s *Socket) { s.Cookie = 5000 }))
	kept, leftOut := Bounded(p.Groups(), 16)
	if len(kept) != 16 || leftOut != 85 || kept[0].Cookie != 1000 || kept[15].Owner.Process != "late" {
		t.Errorf("%d groups and %d more: %+v", len(kept), leftOut, kept)
	}
	if asks := p.Asks(); len(asks) != 101 || asks[0].Cookie != 1000 || asks[1].Cookie != 5000 || asks[100].Cookie != 1099 {
		t.Errorf("asks for %v", asks)
	}
}

// Without eBPF, sock_diag shows the sockets.
func TestReadWithoutFlags(t *testing.T) {
	diag := func(number uint16, addr string, state sock.State, cookie uint64) netlinkdiag.Socket {
		return netlinkdiag.Socket{
			Family: sock.FamilyIPv4,
			Local:  netip.AddrPortFrom(netip.MustParseAddr(addr), number), State: state, Cookie: cookie, Inode: uint32(cookie), UID: 7, Ifindex: 3,
		}
	}
	ns := &probetest.Namespace{
		UDP:         []netlinkdiag.Socket{diag(53, "127.0.0.1", sock.StateEstablished, 1), diag(53, "0.0.0.0", sock.StateClose, 2), diag(54, "0.0.0.0", sock.StateClose, 3)},
		DeviceNames: map[uint32]string{3: "eth0"},
	}
	found, err := Read(t.Context(), ns, []uint16{55, 53})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 || found[0].Number != 55 || len(found[0].Sockets) != 0 || found[1].Number != 53 || len(found[1].Sockets) != 2 {
		t.Fatalf("got %+v", found)
	}
	s := found[1].Sockets[1]
	if s.Connected() || s.Inode != 2 || s.UID != bindrule.UIDOf(7) || s.ReuseAddr != bindrule.FlagUnknown || s.Interface != "eth0" {
		t.Errorf("got %+v", s)
	}
	rule, _ := found[1].Rule(nil)
	for flag, want := range map[bindrule.Flag]bindrule.Outcome{bindrule.No: bindrule.Blocked, bindrule.Yes: bindrule.Unknown} {
		request := bindrule.Request{Addr: netip.IPv4Unspecified(), Ifindex: 3, ReuseAddr: flag, ReusePort: bindrule.No}
		if got := rule.Bind(request).Outcome; got != want {
			t.Errorf("SO_REUSEADDR %v: %v, want %v", flag, got, want)
		}
	}
}

// A port with very many sockets keeps a bounded number, and those that anybody can send to.
func TestReadIsBoundedWithoutFlags(t *testing.T) {
	ns := &probetest.Namespace{}
	for i := range uint64(2 * maxSockets) {
		ns.UDP = append(ns.UDP, netlinkdiag.Socket{Family: sock.FamilyIPv4, Local: netip.MustParseAddrPort("127.0.0.1:53"), State: sock.StateEstablished, Cookie: i + 1})
	}
	ns.UDP = append(ns.UDP, netlinkdiag.Socket{Family: sock.FamilyIPv4, Local: netip.MustParseAddrPort("0.0.0.0:53"), State: sock.StateClose, Cookie: 9999})
	found, err := Read(t.Context(), ns, []uint16{53})
	if err != nil {
		t.Fatal(err)
	}
	p := &found[0]
	if len(p.Sockets) != maxSockets || !p.Incomplete || len(p.Groups()) != 1 {
		t.Errorf("%d sockets, incomplete %v, %d groups", len(p.Sockets), p.Incomplete, len(p.Groups()))
	}
}
