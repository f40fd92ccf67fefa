package timewait

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const (
	// Clients bind to ports from this one on, so that no two connections ever
	// have the same pair of addresses: the second would take over the
	// TIME_WAIT socket of the first.
	firstClientPort = 1024
	portsPerClient  = 1<<16 - firstClientPort

	maxWorkers = 8

	// Up to this number, sockets are looked at one by one.
	maxListed = 50_000

	// settle is how long the kernel gets for what takes it microseconds, or a
	// retransmission, on a host that is not busy. TIME_WAIT lasts a minute.
	settle = 45 * time.Second
)

// errNotYet is returned while sockets are on their way into TIME_WAIT.
var errNotYet = errors.New("not all are in time_wait yet")

// maker makes connections and closes them from the listener's end first.
type maker struct {
	ns     *kerneltest.NetNS
	count  int
	before int // TIME_WAIT sockets in the namespace that were there before
	client netip.Addr
	ports  []*port
	target map[netip.AddrPort]*port
	todo   atomic.Int64 // connections that no worker has begun
}

// port is a listener and its clients, which have indexes from 0 on.
type port struct {
	listener *kerneltest.Listener
	target   netip.AddrPort
	client   netip.Addr   // of the client with index 0
	shift    int          // so that listeners do not use a client address at the same time
	next     atomic.Int64 // index of the next client
}

func newMaker(ns *kerneltest.NetNS, o Options, before int) *maker {
	m := &maker{ns: ns, count: o.Count, before: before, client: o.Client.Unmap(), target: make(map[netip.AddrPort]*port)}
	if !m.client.IsValid() {
		m.client = netip.AddrFrom4([4]byte{127, 1, 0, 1})
		if o.Listeners[0].Addr().Addr().Unmap().Is6() {
			m.client = netip.IPv6Loopback()
		}
	}
	for i, l := range o.Listeners {
		p := &port{listener: l, target: l.Target(m.client), client: m.client, shift: i * portsPerClient / len(o.Listeners)}
		m.ports = append(m.ports, p)
		m.target[p.target] = p
	}
	return m
}

// run makes the connections, closes them, and waits for TIME_WAIT.
func (m *maker) run() error {
	if m.client.Is6() && m.count > len(m.ports)*portsPerClient {
		return m.usedUp()
	}
	m.todo.Store(int64(m.count))
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	errs := make(chan error, workers)
	for range workers {
		go func() { errs <- m.ns.Run(m.work) }()
	}
	var first error // the others are the same, or follow from it
	for range workers {
		if err := <-errs; first == nil {
			first = err
		}
	}
	if first != nil {
		return first
	}
	return m.await()
}

// work makes connections until there are enough.
func (m *maker) work() error {
	for {
		ticket := m.todo.Add(-1)
		if ticket < 0 {
			return nil
		}
		if err := m.connectAndClose(m.ports[int(ticket)%len(m.ports)]); err != nil {
			m.todo.Store(0)
			return err
		}
	}
}

// connectAndClose connects a client, closes the end of the listener, and then
// the client. Workers share the listeners, so one may close what another
// connected. As each closes as many as it connects, none waits forever.
func (m *maker) connectAndClose(p *port) error {
	fd, client, err := m.openClient(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	target := kerneltest.Sockaddr(p.target)
	err = unix.Connect(fd, target)
	for errors.Is(err, unix.EINTR) {
		err = unix.Connect(fd, target)
	}
	if err != nil && !errors.Is(err, unix.EISCONN) {
		return fmt.Errorf("connect %v to %v: %w", client, p.target, err)
	}
	if err := p.closeAccepted(); err != nil {
		return err
	}
	// The FIN may wait for ksoftirqd. If the client's FIN crossed it, both ends
	// would go through CLOSING to TIME_WAIT.
	if err := kerneltest.WaitFor(fd, unix.POLLRDHUP); err != nil {
		return fmt.Errorf("wait for FIN of %v at %v: %w", p.target, client, err)
	}
	return nil
}

// openClient makes a socket that is bound to an address and port that no other
// client of the listener had.
func (m *maker) openClient(p *port) (fd int, client netip.AddrPort, err error) {
	fd, err = unix.Socket(kerneltest.Family(m.client), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, client, fmt.Errorf("socket: %w", err)
	}
	for {
		i := int(p.next.Add(1) - 1)
		if m.client.Is6() && i >= portsPerClient {
			err = m.usedUp()
			break
		}
		client = p.clientAddr(i)
		if m.isLocalPort(client.Port()) {
			continue
		}
		err = unix.Bind(fd, kerneltest.Sockaddr(client))
		if err == nil {
			return fd, client, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			err = fmt.Errorf("bind %v: %w", client, err)
			break
		}
	}
	_ = unix.Close(fd)
	return -1, client, err
}

func (m *maker) usedUp() error {
	return fmt.Errorf("client ports of %v used up: use more local ports", m.client)
}

func (m *maker) isLocalPort(number uint16) bool {
	for _, p := range m.ports {
		if p.target.Port() == number {
			return true
		}
	}
	return false
}

// closeAccepted takes a client's connection from the accept queue and closes it.
func (p *port) closeAccepted() error {
	fd, sa, err := unix.Accept4(p.listener.FD(), unix.SOCK_CLOEXEC)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		if err := kerneltest.WaitFor(p.listener.FD(), unix.POLLIN); err != nil {
			return fmt.Errorf("accept on %v: %w", p.target, err)
		}
		fd, sa, err = unix.Accept4(p.listener.FD(), unix.SOCK_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("accept on %v: %w", p.target, err)
	}
	_ = unix.Close(fd)
	if from := kerneltest.AddrPort(sa); !p.hasClient(from) {
		_ = p.closeAccepted() // another worker may wait for that one
		return fmt.Errorf("accept on %v: accept queue held a connection from %v", p.target, from)
	}
	return nil
}

// await waits until the sockets are there. The listener's end of the last ones
// is in FIN_WAIT1 until softirq, on a busy host a thread, has handled the
// client's FIN, and the client in LAST_ACK until the ACK is back.
func (m *maker) await() error {
	check := m.checkEach
	if m.count > maxListed {
		check = m.checkNumber
	}
	for deadline := time.Now().Add(settle); ; time.Sleep(10 * time.Millisecond) {
		err := check()
		if !errors.Is(err, errNotYet) || time.Now().After(deadline) {
			return err
		}
	}
}

// checkEach returns errNotYet unless all sockets are in TIME_WAIT, and nothing
// is left of their clients.
func (m *maker) checkEach() error {
	sockets, err := m.ns.TCPSockets()
	if err != nil {
		return err
	}
	made := 0
	for _, s := range sockets {
		local, remote := unmap(s.Local), unmap(s.Remote)
		ours := m.target[local] != nil && m.target[local].hasClient(remote)
		if ours && s.State == kerneltest.StateTimeWait {
			made++
		} else if ours || m.target[remote] != nil && m.target[remote].hasClient(local) {
			return fmt.Errorf("socket %v to %v is in %v: %w", local, remote, s.State, errNotYet)
		}
	}
	if made != m.count {
		return fmt.Errorf("%d are there: %w", made, errNotYet)
	}
	return nil
}

// checkNumber returns errNotYet while there are too few sockets.
func (m *maker) checkNumber() error {
	n, err := m.ns.TimeWaitCount()
	switch {
	case err != nil:
		return err
	case n < m.count:
		return fmt.Errorf("%d are there: %w", n, errNotYet)
	case n > m.before+m.count:
		return fmt.Errorf("%d are there, and %d were before", n, m.before)
	}
	return nil
}

// hasClient says whether the maker opened a client with the address.
func (p *port) hasClient(addr netip.AddrPort) bool {
	i, ok := p.index(unmap(addr))
	return ok && i >= 0 && i < int(p.next.Load())
}

// clientAddr is the address of a client, and index its inverse.
func (p *port) clientAddr(index int) netip.AddrPort {
	addr, number := p.client, firstClientPort+(index+p.shift)%portsPerClient
	if addr.Is4() {
		addr = fromUint32(toUint32(addr) + uint32(index/portsPerClient))
	}
	return netip.AddrPortFrom(addr, uint16(number))
}

func (p *port) index(client netip.AddrPort) (int, bool) {
	i := (int(client.Port()) - firstClientPort - p.shift + portsPerClient) % portsPerClient
	if client.Addr().Is4() && p.client.Is4() {
		return i + (int(toUint32(client.Addr()))-int(toUint32(p.client)))*portsPerClient, true
	}
	return i, client.Addr() == p.client
}

func toUint32(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromUint32(v uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

// unmap gives the address without the v4-mapped prefix.
func unmap(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}
