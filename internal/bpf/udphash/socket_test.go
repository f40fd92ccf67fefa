package udphash_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

const port = 5300

// on returns what is on the port.
func on(t *testing.T, r *udphash.Reader, ns *kerneltest.NetNS) *udphash.Port {
	t.Helper()
	got, err := r.Read(ns.FD(), []uint16{port, 5301})
	if err != nil {
		t.Fatal(err)
	}
	if got[port] == nil || got[5301] == nil || len(got[5301].Sockets) != 0 {
		t.Fatalf("got %+v", got)
	}
	return got[port]
}

func inode(t *testing.T, s *kerneltest.Socket) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(s.FD(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestSocketsHaveTheirFlags(t *testing.T) {
	r := newReader(t)
	for _, addr := range []string{"0.0.0.0", "127.0.0.1", "::", "::1", "::ffff:127.0.0.1"} {
		for _, flags := range []sock.ReuseFlags{{}, {ReuseAddr: true}, {ReusePort: true}, {ReuseAddr: true, ReusePort: true}} {
			for _, v6only := range []bool{false, true} {
				a := netip.MustParseAddr(addr)
				if v6only && a != netip.IPv6Unspecified() {
					continue
				}
				t.Run(fmt.Sprintf("%s/%+v/%v", addr, flags, v6only), func(t *testing.T) {
					ns := kerneltest.New(t)
					opts := kerneltest.Options{ReuseAddr: flags.ReuseAddr, ReusePort: flags.ReusePort, Device: "lo"}
					if a.Is6() && !a.Is4In6() {
						opts.V6Only = &v6only
					}
					s := ns.ListenUDP(t, netip.AddrPortFrom(a, port), opts)
					if err := unix.Fchown(s.FD(), 1000, -1); err != nil {
						t.Fatal(err)
					}
					got := on(t, r, ns)
					if len(got.Sockets) != 1 || got.Missed {
						t.Fatalf("got %+v", got)
					}
					x := got.Sockets[0]
					only6 := v6only || a.Is6() && !a.Is4In6() && !a.IsUnspecified()
					if x.Addr != a || x.ReuseFlags != flags || x.V6Only != only6 || x.UID != 1000 || x.Ifindex != 1 ||
						x.State != sock.StateClose || x.Inode != inode(t, s) || x.Count != 1 || x.Kernel || !x.NamedPort || x.Multicast || x.Broadcast {
						t.Errorf("got %+v", x)
					}
				})
			}
		}
	}
}

// The kernel puts a new socket before the others, except an IPv6 one with SO_REUSEPORT.
func TestSocketsAreInTheOrderOfTheKernel(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	opts := kerneltest.Options{ReuseAddr: true, ReusePort: true}
	first := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:5300"), opts)
	second := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:5300"), opts)
	third := ns.ListenUDP(t, netip.MustParseAddrPort("[::1]:5300"), opts)
	var got []uint64
	for _, s := range on(t, r, ns).Sockets {
		got = append(got, s.Inode)
	}
	if want := []uint64{inode(t, second), inode(t, first), inode(t, third)}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// A QUIC server has a connected socket for each client.
func TestConnectedSocketsAreFolded(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	opts := kerneltest.Options{ReusePort: true}
	ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:5300"), opts)
	for i := range uint16(300) {
		ns.DialUDP(t, netip.MustParseAddrPort("127.0.0.1:5300"), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), 9+i), opts)
	}
	got := on(t, r, ns)
	if len(got.Sockets) != 2 || got.Missed || got.Crowd < 301 {
		t.Fatalf("got %+v", got)
	}
	if c, u := got.Sockets[0], got.Sockets[1]; c.State != sock.StateEstablished || c.Count != 300 || u.State != sock.StateClose || u.Count != 1 {
		t.Errorf("got %+v", got.Sockets)
	}
}

// A port with more sockets than its share says so, and does not take the share of another one. Its oldest socket
// is there: a server's, where another user has opened many on other addresses.
func TestSocketsBeyondTheShareOfAPort(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	server := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.53:5301"), kerneltest.Options{ReuseAddr: true})
	var newest *kerneltest.Socket
	for range 600 {
		newest = ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:5301"), kerneltest.Options{ReuseAddr: true})
	}
	ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:5300"), kerneltest.Options{})
	got, err := r.Read(ns.FD(), []uint16{5301, port})
	if err != nil {
		t.Fatal(err)
	}
	p := got[5301]
	if !p.Missed || len(p.Sockets) != 256 {
		t.Errorf("%d sockets, missed %v", len(p.Sockets), p.Missed)
	}
	there := make(map[uint64]int)
	for _, s := range p.Sockets {
		there[s.Inode]++
	}
	if len(there) != 256 || there[inode(t, server)] != 1 || p.Sockets[0].Inode != inode(t, newest) {
		t.Errorf("%d different sockets, the oldest %d times, the first is the newest: %v", len(there), there[inode(t, server)], p.Sockets[0].Inode == inode(t, newest))
	}
	if p := got[port]; p.Missed || len(p.Sockets) != 1 {
		t.Errorf("%d sockets beside, missed %v", len(p.Sockets), p.Missed)
	}
}

func TestManyPortsAreReadInSeveralRuns(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:65000"), kerneltest.Options{})
	numbers := make([]uint16, 65535)
	for i := range numbers {
		numbers[i] = uint16(i + 1)
	}
	got, err := r.Read(ns.FD(), numbers)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range got {
		n += len(p.Sockets)
	}
	if len(got) != len(numbers) || n != 1 || len(got[65000].Sockets) != 1 {
		t.Errorf("%d ports with %d sockets", len(got), n)
	}
}

func TestPortsThatTheKernelChooses(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	s := ns.ListenUDP(t, netip.MustParseAddrPort("127.0.0.1:0"), kerneltest.Options{})
	got, err := r.Read(ns.FD(), []uint16{s.Port()})
	if err != nil {
		t.Fatal(err)
	}
	if p := got[s.Port()]; len(p.Sockets) != 1 || p.Sockets[0].NamedPort {
		t.Errorf("got %+v", p)
	}
}

func TestSocketsThatServeMany(t *testing.T) {
	r := newReader(t)
	for name, join := range map[string]func(fd int) error{
		"broadcast": func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) },
		"multicast": func(fd int) error {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: 1})
		},
		"multicast6": func(fd int) error {
			return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 2, 15: 0xfb}, Interface: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.New(t)
			at := "0.0.0.0:5300"
			if name == "multicast6" {
				at = "[::]:5300"
			}
			s := ns.ListenUDP(t, netip.MustParseAddrPort(at), kerneltest.Options{ReuseAddr: true})
			if got := on(t, r, ns); len(got.Sockets) != 1 || got.Sockets[0].Multicast || got.Sockets[0].Broadcast {
				t.Fatalf("before: %+v", got.Sockets)
			}
			if err := join(s.FD()); err != nil {
				t.Fatal(err)
			}
			if got := on(t, r, ns); len(got.Sockets) != 1 || got.Sockets[0].Broadcast != (name == "broadcast") || got.Sockets[0].Multicast == got.Sockets[0].Broadcast {
				t.Errorf("after: %+v", got.Sockets)
			}
		})
	}
}

func TestSocketsOfTheKernel(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	ns.AddVXLAN(t, "tunnel0", port)
	got := on(t, r, ns)
	if len(got.Sockets) == 0 {
		t.Fatal("no socket")
	}
	for _, s := range got.Sockets {
		if function, _, _ := strings.Cut(s.Handler, " "); !s.Kernel || function != "vxlan_rcv" {
			t.Errorf("got %+v", s)
		}
	}
}
