//go:build linux

package bindtrace

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// What was in the way of a UDP bind is captured, and nothing else.
func TestCaptureOfUDP(t *testing.T) {
	at := func(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, testPort) }
	udp := func(t *testing.T, ns *kerneltest.NetNS, addr netip.Addr, opts kerneltest.Options) Blocker {
		t.Helper()
		b := open(t, ns.ListenUDP(t, at(addr), opts), sock.StateClose, sock.ReuseFlags{ReuseAddr: opts.ReuseAddr, ReusePort: opts.ReusePort})
		b.V6Only = addr == v6lo || opts.V6Only != nil && *opts.V6Only
		return b
	}
	plain, reuseAddr, reusePort := kerneltest.Options{}, kerneltest.Options{ReuseAddr: true}, kerneltest.Options{ReusePort: true}
	only6 := kerneltest.Options{V6Only: new(true)}
	for _, s := range []struct {
		name string
		make func(t *testing.T, ns *kerneltest.NetNS) []Blocker
		addr netip.Addr
		opts kerneltest.Options
	}{
		{"a socket", func(t *testing.T, ns *kerneltest.NetNS) []Blocker { return []Blocker{udp(t, ns, v4any, plain)} }, v4lo, plain},
		{"one that lacks the flag", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			return []Blocker{udp(t, ns, v4any, plain)}
		}, v4any, reuseAddr},
		{"one of two", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			udp(t, ns, v4lo2, plain)
			return []Blocker{udp(t, ns, v4lo, reusePort)}
		}, v4lo, plain},
		{"dual stack", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			return []Blocker{udp(t, ns, v6any, plain)}
		}, v4lo, plain},
		{"not the IPv6 half", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			udp(t, ns, v6any, only6)
			return []Blocker{udp(t, ns, v4any, plain)}
		}, v4any, plain},
		{"both halves", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			return []Blocker{udp(t, ns, v6lo, plain), udp(t, ns, v4any, plain)}
		}, v6any, plain},
		{"a connected one", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			peer := netip.MustParseAddrPort("127.0.0.9:9")
			b := open(t, ns.DialUDP(t, at(v4lo), peer, plain), sock.StateEstablished, sock.ReuseFlags{})
			b.Peer, b.NamedPort = peer, true
			return []Blocker{b}
		}, v4any, plain},
		{"not TCP", func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
			ns.Listen(t, at(v4any), plain)
			return []Blocker{udp(t, ns, v4any, plain)}
		}, v4any, plain},
	} {
		t.Run(s.name, func(t *testing.T) {
			eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
				mustCapture(t, tr)
				ns := kerneltest.New(t)
				want := s.make(t, ns)
				mustFailUDP(t, ns, at(s.addr), s.opts)
				e := nextEvent(t, tr, uint32(ns.Inode()))
				if e.Protocol != sock.UDP {
					t.Errorf("protocol %v", e.Protocol)
				}
				checkBlockers(t, e, want)
			})
		})
	}
}

// mustFailUDP binds with EADDRINUSE.
func mustFailUDP(t *testing.T, ns *kerneltest.NetNS, addr netip.AddrPort, opts kerneltest.Options) {
	t.Helper()
	err := ns.Run(func() error {
		fd, err := unix.Socket(kerneltest.Family(addr.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		for option, set := range map[int]bool{unix.SO_REUSEADDR: opts.ReuseAddr, unix.SO_REUSEPORT: opts.ReusePort} {
			if set {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
					return err
				}
			}
		}
		return unix.Bind(fd, kerneltest.Sockaddr(addr))
	})
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("bind to %v: %v, want EADDRINUSE", addr, err)
	}
}

// A server with a socket for each client has more than the event has room for: the one that anybody can send to
// is among those that are captured, wherever it is in the list.
func TestCaptureOfAServerWithManyClients(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		opts := kerneltest.Options{ReusePort: true}
		s := ns.ListenUDP(t, netip.AddrPortFrom(v4lo, testPort), opts)
		for i := range uint16(100) {
			ns.DialUDP(t, netip.AddrPortFrom(v4lo, testPort), netip.AddrPortFrom(v4lo2, 9+i), opts)
		}
		mustFailUDP(t, ns, netip.AddrPortFrom(v4any, testPort), kerneltest.Options{})
		e := nextEvent(t, tr, uint32(ns.Inode()))
		if e.Captured != CaptureSome || len(e.Blockers) != MaxBlockers {
			t.Fatalf("captured %v: %d sockets", e.Captured, len(e.Blockers))
		}
		want := open(t, s, sock.StateClose, sock.ReuseFlags{ReusePort: true})
		if got := e.Blockers[0]; got.Inode != want.Inode || got.State != sock.StateClose || !got.Own {
			t.Errorf("first is %+v, want %+v", got, want)
		}
	})
}

// The kernel has sockets that no process can have open.
func TestCaptureOfASocketOfTheKernel(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		ns.AddVXLAN(t, "tunnel0", testPort)
		mustFailUDP(t, ns, netip.AddrPortFrom(v4any, testPort), kerneltest.Options{})
		e := nextEvent(t, tr, uint32(ns.Inode()))
		if e.Captured != CaptureAll || len(e.Blockers) == 0 {
			t.Fatalf("captured %v: %+v", e.Captured, e.Blockers)
		}
		for _, b := range e.Blockers {
			if !b.Kernel || b.Own {
				t.Errorf("got %+v", b)
			}
		}
	})
}
