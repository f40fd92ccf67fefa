package snapshot

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// remoteSockets counts the sockets of /proc/net/tcp and tcp6 to a remote port.
func remoteSockets(t *testing.T, ns *kerneltest.NetNS, number uint16) ports.RemotePort {
	t.Helper()
	sockets, err := ns.TCPSockets()
	if err != nil {
		t.Fatal(err)
	}
	p := ports.RemotePort{Number: number}
	for _, s := range sockets {
		if s.Remote.Port() != number {
			continue
		}
		family := netlinkdiag.FamilyIPv4
		if s.Local.Addr().Is6() {
			family = netlinkdiag.FamilyIPv6
		}
		p.Of(family)[s.State]++
	}
	return p
}

func TestKernelSocketsToRemotePorts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		local []watch.Spec
		more  sock.PortRange // remote watched that nothing is connected to
	}{
		{"alone", nil, sock.PortRange{}},
		{"beside watched ports", []watch.Spec{{PortRange: one(4840)}, {PortRange: sock.PortRange{First: 100, Last: 105}}}, sock.PortRange{}},
		{"beyond what the kernel filters", []watch.Spec{{PortRange: sock.PortRange{First: 10000, Last: 11500}}}, sock.PortRange{First: 20000, Last: 20010}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			for _, addr := range []string{"127.0.0.1:4840", "[::1]:4841", "[::]:4842"} {
				l := ns.Listen(t, netip.MustParseAddrPort(addr), kerneltest.Options{})
				from := localhost4
				if addr == "[::1]:4841" {
					from = localhost6
				}
				for n, state := range kerneltest.States() {
					switch state {
					case kerneltest.StateListen, kerneltest.StateClose, kerneltest.StateSynRecv:
						continue
					}
					l.Peers(t, state, n+1, from)
				}
			}
			// IPv4 on a socket of AF_INET6.
			mapped := ns.Listen(t, netip.MustParseAddrPort("[::ffff:127.0.0.1]:4843"), kerneltest.Options{})
			mapped.Peers(t, kerneltest.StateEstablished, 2, netip.MustParseAddr("::ffff:127.0.0.1"))

			remote := []sock.PortRange{{First: 4840, Last: 4843}, {First: 4842, Last: 4842}}
			if tt.more != (sock.PortRange{}) {
				remote = append(remote, tt.more)
			}
			taker := clientTaker(t, ns, watch.Config{Ports: tt.local, MaxPorts: 2000, Retention: retention}, remote...)
			// Sockets in passing states stay in theirs for seconds, TIME_WAIT for a minute: what
			// counts is that both look at the same moment.
			inProc := func() (all []ports.RemotePort) {
				for _, number := range watch.NewFixed(remote).Numbers() {
					all = append(all, remoteSockets(t, ns, number))
				}
				return all
			}
			var got, want []ports.RemotePort
			for before := []ports.RemotePort(nil); want == nil || !slices.Equal(before, want); {
				before = inProc()
				s := taker.Take(t.Context())
				if s.Remote.Err != nil {
					t.Fatal(s.Remote.Err)
				}
				got, want = s.Remote.Data, inProc()
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if n := len(got); tt.more == (sock.PortRange{}) && n != 4 || tt.more != (sock.PortRange{}) && n != 15 {
				t.Errorf("%d ports", n)
			}
			if got[0].IPv4[netlinkdiag.StateEstablished] == 0 || got[1].IPv6[netlinkdiag.StateEstablished] == 0 {
				t.Errorf("got %+v, want established ones", got)
			}
		})
	}
}

// connectUntilNoneIsLeft connects until no local port is left, and returns the descriptors.
func connectUntilNoneIsLeft(t *testing.T, ns *kerneltest.NetNS, from netip.Addr, to netip.AddrPort) (fds []int) {
	t.Helper()
	err := ns.Run(func() error {
		for {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			if from.IsValid() {
				// The port is chosen by connect().
				if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
					return err
				}
				if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
					return err
				}
			}
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
				return err
			}
		}
	})
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatalf("connect to %v: %v, want %v", to, err, unix.EADDRNOTAVAIL)
	}
	return fds
}

func TestKernelEphemeralPortsThatAreUsedUp(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "50000 50019")
	ns.Sysctl(t, "net.ipv4.tcp_tw_reuse", "0")
	taker := clientTaker(t, ns, discovering())
	used := func() []uint64 {
		t.Helper()
		s := taker.Take(t.Context())
		if s.Ephemeral.Err != nil || s.Ephemeral.Data.Error != 0 {
			t.Fatalf("%+v", s.Ephemeral)
		}
		if len(s.Ephemeral.Data.IPv6) != 0 {
			t.Errorf("ipv6: %v, want none", s.Ephemeral.Data.IPv6)
		}
		return s.Ephemeral.Data.IPv4
	}
	check := func(what string, want ...uint64) {
		t.Helper()
		if got := used(); !slices.Equal(got, want) {
			t.Errorf("%s: %v in use, want %v", what, got, want)
		}
	}
	check("none")

	first, second := netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("127.0.0.2:80")
	ns.Listen(t, first, kerneltest.Options{})
	ns.Listen(t, second, kerneltest.Options{})
	fds := connectUntilNoneIsLeft(t, ns, netip.Addr{}, first)
	check("one destination is exhausted", 20)
	connectUntilNoneIsLeft(t, ns, netip.Addr{}, second)
	check("and another", 20, 20)
	connectUntilNoneIsLeft(t, ns, netip.MustParseAddr("127.0.0.9"), first)
	check("and the first from another address", 20, 20, 20)

	// A closing client keeps its port.
	for _, fd := range fds[:5] {
		_ = unix.Close(fd)
	}
	check("some are closing", 20, 20, 20)
}

func TestKernelServerAmongEphemeralPortsIsNoClient(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "50000 50099")
	taker := clientTaker(t, ns, discovering())
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:50050"), kerneltest.Options{})
	l.Peers(t, kerneltest.StateEstablished, 6, netip.MustParseAddr("127.0.1.1"))
	check := func(what string) {
		t.Helper()
		s := taker.Take(t.Context())
		// Each of the server's own would be a destination of 1.
		if s.Ephemeral.Err != nil || !slices.Equal(s.Ephemeral.Data.IPv4, []uint64{6}) {
			t.Errorf("%s: %+v, %v, want the clients' 6 only", what, s.Ephemeral.Data, s.Ephemeral.Err)
		}
	}
	check("listening")
	_ = l.Close()
	check("after the listener went")
}
