package kerneltest

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultBacklog is the listen(2) backlog of a zero Options.
const DefaultBacklog = 1024

// Options are the flags of a socket. The zero value sets none.
type Options struct {
	ReuseAddr, ReusePort bool
	V6Only               *bool  // nil: net.ipv6.bindv6only decides
	Backlog              int    // 0: DefaultBacklog; negative: 0
	Device               string // SO_BINDTODEVICE
	MPTCP                bool   // IPPROTO_MPTCP
}

// Socket is a socket made by this package.
type Socket struct {
	fd    int // -1 after Close
	local netip.AddrPort
}

// Listener is a TCP socket in LISTEN.
type Listener struct {
	Socket
	ns   *NetNS
	opts Options
}

// FD returns the descriptor, which is non-blocking and close-on-exec. It belongs
// to the Socket. It is -1 after Close.
func (s *Socket) FD() int { return s.fd }

// Addr returns the local address that getsockname(2) returned when the socket
// was made. It is v4-mapped for an IPv6 socket bound to an IPv4 address.
func (s *Socket) Addr() netip.AddrPort { return s.local }

// Port returns the local port.
func (s *Socket) Port() uint16 { return s.local.Port() }

// Close closes the socket and resets its connection, so that the kernel keeps
// nothing of it. It may be called again.
func (s *Socket) Close() error {
	if s.fd >= 0 {
		_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	return s.Orphan()
}

// Orphan closes the socket as an application does: the kernel then ends the
// connection, if there is one.
func (s *Socket) Orphan() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// Shutdown sends a FIN: it closes the sending direction.
func (s *Socket) Shutdown() error {
	if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil {
		return fmt.Errorf("shutdown %v: %w", s.local, err)
	}
	return nil
}

// Deafen makes the socket drop all packets before TCP sees them, as if the
// network lost them.
func (s *Socket) Deafen() error {
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(drop)), Filter: &drop[0]})
	if err != nil {
		return fmt.Errorf("setsockopt SO_ATTACH_FILTER: %w", err)
	}
	return nil
}

// State reads the state of a TCP socket from TCP_INFO.
func (s *Socket) State() (State, error) {
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("getsockopt TCP_INFO: %w", err)
	}
	return State(info.State), nil
}

// Listen opens a listening TCP socket. The address decides on the family: a
// v4-mapped address makes an IPv6 socket, `::` a dual-stack socket unless V6Only
// says otherwise. Port 0 takes a free port.
func (n *NetNS) Listen(t testing.TB, addr netip.AddrPort, opts Options) *Listener {
	t.Helper()
	l, err := n.OpenListener(addr, opts)
	return closeAtEnd(t, l, err)
}

// OpenListener is Listen without a test. The caller closes the Listener.
func (n *NetNS) OpenListener(addr netip.AddrPort, opts Options) (*Listener, error) {
	s, err := n.OpenBound(addr, opts)
	if err != nil {
		return nil, err
	}
	backlog := opts.Backlog
	switch {
	case backlog == 0:
		backlog = DefaultBacklog
	case backlog < 0:
		backlog = 0
	}
	if err := unix.Listen(s.fd, backlog); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("listen %v: %w", addr, err)
	}
	return &Listener{Socket: *s, ns: n, opts: opts}, nil
}

// Bind opens a TCP socket that is bound, and does not listen.
func (n *NetNS) Bind(t testing.TB, addr netip.AddrPort, opts Options) *Socket {
	t.Helper()
	s, err := n.OpenBound(addr, opts)
	return closeAtEnd(t, s, err)
}

// OpenBound is Bind without a test. The caller closes the Socket.
func (n *NetNS) OpenBound(addr netip.AddrPort, opts Options) (*Socket, error) {
	return n.open(unix.SOCK_STREAM, addr, opts)
}

// ListenUDP opens a bound UDP socket. Backlog and MPTCP do not apply.
func (n *NetNS) ListenUDP(t testing.TB, addr netip.AddrPort, opts Options) *Socket {
	t.Helper()
	s, err := n.open(unix.SOCK_DGRAM, addr, opts)
	return closeAtEnd(t, s, err)
}

// DialUDP opens a UDP socket that is bound to local and connected to remote.
func (n *NetNS) DialUDP(t testing.TB, local, remote netip.AddrPort, opts Options) *Socket {
	t.Helper()
	s := n.ListenUDP(t, local, opts)
	if err := s.connect(remote); err != nil {
		t.Fatal(err)
	}
	return s
}

// closeAtEnd closes the socket when the test ends, or ends the test on err.
func closeAtEnd[S io.Closer](t testing.TB, s S, err error) S {
	t.Helper()
	if err != nil {
		SkipOrFatal(t, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// open makes a socket, sets its options and binds it.
func (n *NetNS) open(typ int, addr netip.AddrPort, opts Options) (*Socket, error) {
	s, err := n.socket(Family(addr.Addr()), typ, opts)
	if err != nil {
		return nil, fmt.Errorf("open socket for %v: %w", addr, err)
	}
	if err := s.bind(addr); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// socket makes a socket inside the namespace and sets its options.
func (n *NetNS) socket(family, typ int, opts Options) (*Socket, error) {
	proto := 0
	if opts.MPTCP && typ == unix.SOCK_STREAM {
		proto = unix.IPPROTO_MPTCP
	}
	s := &Socket{fd: -1}
	err := n.Run(func() (err error) {
		s.fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.setOptions(opts); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Socket) setOptions(o Options) error {
	var errs []error
	if o.ReuseAddr {
		errs = append(errs, s.set("SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if o.ReusePort {
		errs = append(errs, s.set("SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if o.V6Only != nil {
		errs = append(errs, s.set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, boolint(*o.V6Only)))
	}
	if o.Device != "" {
		if err := unix.BindToDevice(s.fd, o.Device); err != nil {
			errs = append(errs, fmt.Errorf("setsockopt SO_BINDTODEVICE %s: %w", o.Device, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Socket) set(name string, level, opt, value int) error {
	if err := unix.SetsockoptInt(s.fd, level, opt, value); err != nil {
		return fmt.Errorf("setsockopt %s: %w", name, err)
	}
	return nil
}

func (s *Socket) bind(addr netip.AddrPort) error {
	if err := unix.Bind(s.fd, Sockaddr(addr)); err != nil {
		return fmt.Errorf("bind %v: %w", addr, err)
	}
	return s.readLocal()
}

func (s *Socket) readLocal() error {
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	s.local = AddrPort(sa)
	return nil
}

// connect starts to connect. A TCP socket may still be in SYN_SENT afterwards.
func (s *Socket) connect(remote netip.AddrPort) error {
	err := unix.Connect(s.fd, Sockaddr(remote))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("connect %v to %v: %w", s.local, remote, err)
	}
	return s.readLocal()
}

// Family returns the address family of a socket for addr: AF_INET for IPv4,
// AF_INET6 for anything else, also for a v4-mapped address.
func Family(addr netip.Addr) int {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// Sockaddr converts an address without a zone for bind(2) and connect(2).
func Sockaddr(addr netip.AddrPort) unix.Sockaddr {
	if addr.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
}

// AddrPort converts an address that the kernel returned. It returns zero for
// anything but an IP address, and leaves out the zone.
func AddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	default:
		return netip.AddrPort{}
	}
}

// unmap gives the address without the v4-mapped prefix.
func unmap(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

func boolint(b bool) int {
	if b {
		return 1
	}
	return 0
}

// WaitFor waits until the descriptor has one of the poll(2) events.
func WaitFor(fd int, events int16) error {
	deadline := time.Now().Add(settle)
	for time.Now().Before(deadline) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return errTimeout
}
