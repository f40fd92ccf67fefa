package kerneltest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Kinds are the combinations of listener and client that the kernel's tables
// tell apart.
var Kinds = []struct {
	name   string
	Addr   string
	From   string
	V6Only *bool
	ipv6   bool   // the table the sockets are in
	local  string // their local address there
	remote string
}{
	{"ipv4", "127.0.0.1", "127.0.0.2", nil, false, "127.0.0.1", "127.0.0.2"},
	{"ipv4 wildcard", "0.0.0.0", "127.0.0.2", nil, false, "127.0.0.1", "127.0.0.2"},
	{"ipv6", "::1", "::1", nil, true, "::1", "::1"},
	{"ipv6 wildcard v6only", "::", "::1", new(true), true, "::1", "::1"},
	{"dual-stack ipv6", "::", "::1", new(false), true, "::1", "::1"},
	{"dual-stack v4-mapped", "::", "127.0.0.2", new(false), true, "::ffff:127.0.0.1", "::ffff:127.0.0.2"},
	{"v4-mapped", "::ffff:127.0.0.1", "127.0.0.2", nil, true, "::ffff:127.0.0.1", "::ffff:127.0.0.2"},
}

func TestPeersAreInTheirState(t *testing.T) {
	const n = 5
	for _, k := range Kinds {
		for _, state := range States() {
			if state == StateListen || state == StateClose {
				continue
			}
			t.Run(k.name+"/"+state.String(), func(t *testing.T) {
				ns := New(t)
				l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(k.Addr), 4840), Options{V6Only: k.V6Only})
				peers := l.Peers(t, state, n, netip.MustParseAddr(k.From))

				sockets, err := ns.TCPSockets()
				if err != nil {
					t.Fatal(err)
				}
				remotes := make(map[netip.AddrPort]bool)
				for _, s := range sockets {
					if s.Local.Port() != 4840 {
						continue
					}
					if s.State == StateListen {
						if s.Local.Addr().String() != k.Addr || s.IPv6 != k.ipv6 {
							t.Errorf("listener is %+v, want %s", s, k.Addr)
						}
						continue
					}
					if s.State != state || s.IPv6 != k.ipv6 ||
						s.Local.Addr().String() != k.local || s.Remote.Addr().String() != k.remote {
						t.Errorf("socket is %+v, want state %v, ipv6 %v, %s to %s", s, state, k.ipv6, k.local, k.remote)
					}
					remotes[unmap(s.Remote)] = true
				}
				for _, p := range peers {
					if !remotes[p.Addr] {
						t.Errorf("no socket to %v", p.Addr)
					}
				}
				if len(remotes) != n {
					t.Errorf("%d sockets on the port, want %d", len(remotes), n)
				}
				for _, s := range sockets {
					if s.State == StateListen && s.Local.Port() != 4840 {
						t.Errorf("another listener: %+v", s)
					}
				}
			})
		}
	}
}

func TestStatesHaveNodeExportersNames(t *testing.T) {
	var names []string
	for _, s := range States() {
		names = append(names, s.String())
	}
	want := "established syn_sent syn_recv fin_wait1 fin_wait2 time_wait close close_wait last_ack listen closing"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("states are %s, want %s", got, want)
	}
	if got := StateClosing; got != 11 {
		t.Errorf("closing is %d, want 11", got)
	}
}

func TestPeersInCloseAreBoundToTheListenersPort(t *testing.T) {
	for _, k := range Kinds {
		t.Run(k.name, func(t *testing.T) {
			ns := New(t)
			l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(k.Addr), 4840), Options{V6Only: k.V6Only, ReuseAddr: true})
			for _, p := range l.Peers(t, StateClose, 2, netip.MustParseAddr(k.From)) {
				sa, err := unix.Getsockname(p.Local.FD())
				if err != nil {
					t.Fatal(err)
				}
				if got, want := AddrPort(sa).String(), netip.AddrPortFrom(netip.MustParseAddr(k.local), 4840).String(); got != want {
					t.Errorf("bound to %s, want %s", got, want)
				}
				if got, err := p.Local.State(); err != nil || got != StateClose {
					t.Errorf("state %v, %v, want close", got, err)
				}
				if got := sockopt(t, p.Local, unix.SO_REUSEADDR); got != 1 {
					t.Errorf("SO_REUSEADDR is %d, want the listener's 1", got)
				}
			}
		})
	}
}

func TestListeningSocketIsNoPeer(t *testing.T) {
	ns := New(t)
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), Options{})
	_, err := l.OpenPeers(StateListen, 1, netip.MustParseAddr("127.0.0.1"))
	const want = "make 1 listen sockets on port 4840 from 127.0.0.1: a listening socket is no peer: use Listen"
	if err == nil || err.Error() != want {
		t.Fatalf("error %v, want %s", err, want)
	}
}

func TestPeersRefusesForeignConnectionInAcceptQueue(t *testing.T) {
	ns := New(t)
	from := netip.MustParseAddr("127.0.0.2")
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), Options{})
	queued := l.Queue(t, 1, from)[0].Addr()
	_, err := l.OpenPeers(StateEstablished, 1, netip.MustParseAddr("127.0.0.3"))
	if want := fmt.Sprintf("accept queue held a connection from %v", queued); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Fatalf("error %v, want %s", err, want)
	}
}

func TestQueueStaysInAcceptQueue(t *testing.T) {
	ns := New(t)
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), Options{Backlog: 2})
	l.Queue(t, 3, netip.MustParseAddr("127.0.0.2"))
	// tcp_get_info fills tcpi_unacked with the length of the accept queue.
	var info *unix.TCPInfo
	Eventually(t, "accept queue holds 3", func() bool {
		var err error
		if info, err = unix.GetsockoptTCPInfo(l.FD(), unix.IPPROTO_TCP, unix.TCP_INFO); err != nil {
			t.Fatal(err)
		}
		return info.Unacked == 3
	})
	if info.Sacked != 2 {
		t.Errorf("accept queue limit is %d, want 2", info.Sacked)
	}
}

func TestSocketsHaveTheFlagsAskedForAndNoOthers(t *testing.T) {
	ns := New(t)
	for _, reuseAddr := range []bool{false, true} {
		for _, reusePort := range []bool{false, true} {
			opts := Options{ReuseAddr: reuseAddr, ReusePort: reusePort}
			t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
				addr := netip.MustParseAddrPort("127.0.0.1:0")
				for name, s := range map[string]*Socket{
					"listener": &ns.Listen(t, addr, opts).Socket,
					"bound":    ns.Bind(t, addr, opts),
					"udp":      ns.ListenUDP(t, addr, opts),
				} {
					if got := sockopt(t, s, unix.SO_REUSEADDR); got != boolint(reuseAddr) {
						t.Errorf("%s: SO_REUSEADDR is %d, want %v", name, got, reuseAddr)
					}
					if got := sockopt(t, s, unix.SO_REUSEPORT); got != boolint(reusePort) {
						t.Errorf("%s: SO_REUSEPORT is %d, want %v", name, got, reusePort)
					}
				}
			})
		}
	}
}

func TestV6OnlyIsSet(t *testing.T) {
	ns := New(t)
	for _, want := range []bool{false, true} {
		ns.Sysctl(t, "net.ipv6.bindv6only", fmt.Sprint(boolint(!want))) // the default
		l := ns.Listen(t, netip.MustParseAddrPort("[::]:0"), Options{V6Only: &want})
		got, err := unix.GetsockoptInt(l.FD(), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			t.Fatal(err)
		}
		if got != boolint(want) {
			t.Errorf("IPV6_V6ONLY is %d, want %v", got, want)
		}
	}
}

func TestListenReportsBindConflict(t *testing.T) {
	ns := New(t)
	addr := netip.MustParseAddrPort("127.0.0.1:4840")
	ns.Listen(t, addr, Options{})
	_, err := ns.OpenListener(addr, Options{})
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("error %v, want EADDRINUSE", err)
	}
}

func TestDialUDPIsConnected(t *testing.T) {
	ns := New(t)
	server := ns.ListenUDP(t, netip.MustParseAddrPort("[::1]:0"), Options{})
	client := ns.DialUDP(t, netip.MustParseAddrPort("[::1]:0"), server.Addr(), Options{})
	sa, err := unix.Getpeername(client.FD())
	if err != nil {
		t.Fatal(err)
	}
	if got := AddrPort(sa); got != server.Addr() {
		t.Errorf("connected to %v, want %v", got, server.Addr())
	}
}

func TestBindsToDevice(t *testing.T) {
	ns := New(t)
	addr := netip.MustParseAddr("192.0.2.1")
	ns.AddDummy(t, "dummy0", netip.PrefixFrom(addr, 24), netip.MustParsePrefix("2001:db8::1/64"))
	l := ns.Listen(t, netip.AddrPortFrom(addr, 4840), Options{Device: "dummy0"})
	got, err := unix.GetsockoptString(l.FD(), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	if err != nil {
		t.Fatal(err)
	}
	if got != "dummy0" {
		t.Errorf("bound to device %q, want dummy0", got)
	}
	// Its addresses can be bound at once. A tentative address cannot.
	ns.Listen(t, netip.MustParseAddrPort("[2001:db8::1]:4840"), Options{})
}

func TestPeersOnDummyAddress(t *testing.T) {
	ns := New(t)
	addr := netip.MustParseAddr("192.0.2.1")
	ns.AddDummy(t, "dummy0", netip.PrefixFrom(addr, 24))
	l := ns.Listen(t, netip.MustParseAddrPort("0.0.0.0:4840"), Options{})
	for _, state := range []State{StateEstablished, StateSynSent, StateSynRecv, StateTimeWait} {
		l.Peers(t, state, 2, addr)
	}
}

func sockopt(t *testing.T, s *Socket, opt int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(s.FD(), unix.SOL_SOCKET, opt)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
