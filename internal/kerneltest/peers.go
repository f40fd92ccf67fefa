package kerneltest

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long the kernel gets for what takes it microseconds on loopback
// of a host that is not busy.
const settle = 20 * time.Second

var errTimeout = errors.New("timed out")

// Peer is a connection of a Listener: its two ends.
type Peer struct {
	// Local is the socket on the listener's port. It is nil in syn_recv, whose
	// socket has no descriptor, and in time_wait, whose was closed.
	Local *Socket

	// Remote is the other end. It is nil in close and time_wait.
	Remote *Socket

	// Addr is the remote address, zero in close. It is an IPv4 address also
	// where the local socket is v4-mapped.
	Addr netip.AddrPort
}

// Close closes both ends and resets the connection. A TIME_WAIT socket stays.
func (p *Peer) Close() error {
	var errs []error
	for _, s := range []*Socket{p.Local, p.Remote} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// Peers makes n sockets in the given state on the listener's local port. Their
// remote ends have the address from. Peers returns when all are in that state,
// and closes them when the test ends.
//
// On a dual-stack listener, an IPv4 address makes v4-mapped sockets. Listening
// sockets come from Listen. The listener must not be bound to a device, and its
// accept queue must be empty.
func (l *Listener) Peers(t testing.TB, state State, n int, from netip.Addr) []*Peer {
	t.Helper()
	peers, err := l.OpenPeers(state, n, from)
	for _, p := range peers {
		t.Cleanup(func() { _ = p.Close() })
	}
	if err != nil {
		SkipOrFatal(t, err)
	}
	return peers
}

// OpenPeers is Peers without a test. The caller closes each Peer.
func (l *Listener) OpenPeers(state State, n int, from netip.Addr) (peers []*Peer, err error) {
	for range n {
		p := new(Peer)
		peers = append(peers, p)
		if err = l.open(p, state, from.Unmap()); err != nil {
			break
		}
	}
	if err == nil {
		err = l.verify(peers, state)
	}
	if err != nil {
		for _, p := range peers {
			_ = p.Close()
		}
		return nil, fmt.Errorf("make %d %v sockets on port %d from %v: %w", n, state, l.Port(), from, err)
	}
	return peers, nil
}

// Queue connects n clients from the given address and accepts none of them. It
// returns the clients. Where the accept queue is full, some are still connecting.
func (l *Listener) Queue(t testing.TB, n int, from netip.Addr) []*Socket {
	t.Helper()
	var clients []*Socket
	for range n {
		c, err := l.client(from.Unmap())
		clients = append(clients, closeAtEnd(t, c, err))
		if err := c.connect(l.Target(from.Unmap())); err != nil {
			t.Fatal(err)
		}
	}
	return clients
}

// open brings one connection into the state.
func (l *Listener) open(p *Peer, state State, from netip.Addr) (err error) {
	switch state {
	case StateClose:
		return l.openBound(p, from)
	case StateListen:
		return errors.New("a listening socket is no peer: use Listen")
	}
	if p.Remote, err = l.client(from); err != nil {
		return err
	}
	connect := func() error { return l.connect(p, from) }
	switch state {
	case StateSynSent:
		return l.openSynSent(p, from)
	case StateSynRecv: // the client does not see the SYN-ACK
		return inOrder(p.Remote.Deafen, connect)
	}
	accept := func() error { return l.accept(p) }
	if err := inOrder(connect, accept); err != nil {
		return err
	}
	switch state {
	case StateEstablished:
		return nil
	case StateFinWait2:
		return p.Local.Shutdown()
	case StateCloseWait:
		return p.Remote.Shutdown()
	case StateFinWait1:
		return p.finUnseen()
	case StateClosing:
		return inOrder(p.finUnseen, p.Remote.Shutdown)
	case StateLastAck:
		closeWait := func() error { return p.Local.await(StateCloseWait) }
		return inOrder(p.Remote.Shutdown, closeWait, p.finUnseen)
	case StateTimeWait:
		return p.timeWait()
	default:
		return fmt.Errorf("%v is not a TCP state", state)
	}
}

// timeWait closes the local end, then the remote end.
func (p *Peer) timeWait() error {
	err := inOrder(
		p.Local.Orphan,
		// Two FINs that cross would put both ends into TIME_WAIT.
		func() error { return WaitFor(p.Remote.fd, unix.POLLRDHUP) },
		p.Remote.Orphan,
	)
	if err != nil {
		return fmt.Errorf("close both ends: %w", err)
	}
	p.Local, p.Remote = nil, nil
	return nil
}

// finUnseen sends a FIN that the remote end never sees.
func (p *Peer) finUnseen() error {
	// A socket that is closed with unread data sends a reset (tcp_close).
	// Without it, half-closed connections of a process that dies would keep the
	// namespace until their retransmissions give up.
	if _, err := unix.Write(p.Local.fd, []byte{0}); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := WaitFor(p.Remote.fd, unix.POLLIN); err != nil {
		return fmt.Errorf("wait for data: %w", err)
	}
	return inOrder(p.Remote.Deafen, p.Local.Shutdown)
}

// connect connects the client, and fills in its address.
func (l *Listener) connect(p *Peer, from netip.Addr) error {
	err := p.Remote.connect(l.Target(from))
	p.Addr = p.Remote.local
	return err
}

// accept takes the connection of the client from the accept queue.
func (l *Listener) accept(p *Peer) error {
	if err := WaitFor(l.fd, unix.POLLIN); err != nil {
		return fmt.Errorf("accept from %v: %w", p.Addr, err)
	}
	fd, sa, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("accept from %v: %w", p.Addr, err)
	}
	p.Local = &Socket{fd: fd}
	if got := unmap(AddrPort(sa)); got != p.Addr {
		return fmt.Errorf("accept from %v: accept queue held a connection from %v", p.Addr, got)
	}
	return p.Local.readLocal()
}

// openSynSent connects from the listener's port to a socket that does not
// answer. A listener there would be another listening port in the namespace.
// Instead TCP_REPAIR makes the socket established, with the pair of addresses
// that receives the SYN.
func (l *Listener) openSynSent(p *Peer, from netip.Addr) error {
	return inOrder(
		p.Remote.Deafen,
		func() error { return p.Remote.setRepair(1) }, // it also closes without a packet
		func() error { return l.connect(p, from) },
		func() error { return l.openBound(p, from) },
		func() error { return p.Local.connect(l.sameFamily(p.Addr)) },
	)
}

// openBound binds a socket to the address that the listener accepts on.
func (l *Listener) openBound(p *Peer, from netip.Addr) error {
	addr := l.sameFamily(l.Target(from))
	var err error
	if p.Local, err = l.ns.socket(Family(addr.Addr()), unix.SOCK_STREAM, Options{}); err != nil {
		return err
	}
	return inOrder(
		// TCP_REPAIR sets sk_reuse to SK_FORCE_REUSE, which no listener conflicts
		// with (inet_csk_get_port). Leaving it clears sk_reuse.
		func() error { return p.Local.setRepair(1) },
		func() error { return p.Local.bind(addr) },
		func() error { return p.Local.setRepair(0) },
		func() error {
			return p.Local.setOptions(Options{ReuseAddr: l.opts.ReuseAddr, ReusePort: l.opts.ReusePort})
		},
	)
}

// inOrder takes the steps until one returns an error.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// sameFamily converts an IPv4 address to a v4-mapped one where the listener is
// an IPv6 socket.
func (l *Listener) sameFamily(addr netip.AddrPort) netip.AddrPort {
	if l.local.Addr().Is4() {
		return addr
	}
	return netip.AddrPortFrom(netip.AddrFrom16(addr.Addr().As16()), addr.Port())
}

func (s *Socket) setRepair(value int) error {
	return s.set("TCP_REPAIR", unix.IPPROTO_TCP, unix.TCP_REPAIR, value)
}

// client makes a socket bound to the source address. connect(2) chooses the port.
func (l *Listener) client(from netip.Addr) (*Socket, error) {
	s, err := l.ns.socket(Family(from), unix.SOCK_STREAM, Options{})
	if err != nil {
		return nil, err
	}
	err = inOrder(
		func() error {
			return s.set("IP_BIND_ADDRESS_NO_PORT", unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		},
		func() error { return s.bind(netip.AddrPortFrom(from, 0)) },
	)
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Target returns the address where a client at the address from reaches the
// listener.
func (l *Listener) Target(from netip.Addr) netip.AddrPort {
	addr := l.local.Addr().Unmap()
	switch {
	case !addr.IsUnspecified():
	case !from.IsLoopback():
		addr = from // an address of this host; loopback addresses do not reach it
	case from.Is4():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		addr = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(addr, l.local.Port())
}

// until calls check until it no longer returns errTimeout, for settle at most.
func until(check func() error) error {
	for deadline := time.Now().Add(settle); ; time.Sleep(time.Millisecond) {
		err := check()
		if !errors.Is(err, errTimeout) || time.Now().After(deadline) {
			return err
		}
	}
}

// await waits until the socket is in the state.
func (s *Socket) await(want State) error {
	return until(func() error {
		got, err := s.State()
		if err == nil && got != want {
			err = fmt.Errorf("socket %v is in %v, want %v: %w", s.local, got, want, errTimeout)
		}
		return err
	})
}

// verify waits until the local socket of every peer is in the state.
func (l *Listener) verify(peers []*Peer, want State) error {
	var unowned []*Peer // their local sockets have no descriptor
	for _, p := range peers {
		if p.Local == nil {
			unowned = append(unowned, p)
		} else if err := p.Local.await(want); err != nil {
			return err
		}
	}
	if len(unowned) == 0 {
		return nil
	}
	// By both ends: clients of two listeners on the same port may have the same port.
	type pair struct{ local, remote netip.AddrPort }
	return until(func() error {
		sockets, err := l.ns.TCPSockets()
		if err != nil {
			return err
		}
		states := make(map[pair]State)
		for _, s := range sockets {
			states[pair{unmap(s.Local), unmap(s.Remote)}] = s.State
		}
		for _, p := range unowned {
			if got := states[pair{l.Target(p.Addr.Addr()), p.Addr}]; got != want {
				return fmt.Errorf("socket to %v is in %v, want %v: %w", p.Addr, got, want, errTimeout)
			}
		}
		return nil
	})
}
