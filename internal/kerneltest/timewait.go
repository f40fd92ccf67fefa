package kerneltest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Clients bind to ports of this range themselves, so that no two
	// connections ever have the same pair of addresses: the second would take
	// over the first one's TIME_WAIT socket.
	firstClientPort     = 1024
	clientPortsPerAddr  = 1<<16 - firstClientPort
	clientAddrsSpare    = 4 // addresses' worth of ports that may be taken already
	defaultWorkersLimit = 8

	maxMissing = 100 // more is not chance

	maxListed = 50_000 // sockets that are looked at one by one
)

// TimeWaitOptions says which TIME_WAIT sockets to make.
type TimeWaitOptions struct {
	// Count is how many, over all ports.
	Count int

	// Ports are the local ports, which get equal shares. Ignored when there
	// are Listeners.
	Ports []uint16

	// Addr is the address to listen on for that time; default 127.0.0.1.
	Addr netip.Addr

	// Options are the flags of those listeners, which the TIME_WAIT sockets
	// inherit.
	Options Options

	// Listeners to connect to, instead of Ports, Addr and Options. Their
	// accept queues must be empty.
	Listeners []*Listener

	// Client is the first remote address; default ::1 where the listeners are
	// bound to an IPv6 address, `::` included, and else 127.1.0.1. An IPv4
	// client of a dual-stack listener makes v4-mapped sockets.
	//
	// IPv4 addresses are counted up from there when the ports of one are used
	// up. Of IPv6 there is only the one, good for 64,512 sockets per port less
	// those that are in use.
	Client netip.Addr

	// Workers is the number of threads; default GOMAXPROCS, at most 8.
	Workers int
}

// TimeWait is MakeTimeWait for a test.
func (n *NetNS) TimeWait(t testing.TB, o TimeWaitOptions) {
	t.Helper()
	if err := MakeTimeWait(n, o); err != nil {
		skipOrFatal(t, err)
	}
}

// MakeTimeWait makes TIME_WAIT sockets, and checks by /proc/net/sockstat that
// there are as many more as asked for. It raises net.ipv4.tcp_max_tw_buckets of
// the namespace when that is too low for them. They live for 60 s
// (TCP_TIMEWAIT_LEN).
func MakeTimeWait(ns *NetNS, o TimeWaitOptions) error {
	if err := makeTimeWait(ns, o); err != nil {
		return fmt.Errorf("make %d time_wait sockets: %w", o.Count, err)
	}
	return nil
}

// openListeners opens those that the options ask for, up to the first error.
func openListeners(ns *NetNS, o TimeWaitOptions) ([]*Listener, error) {
	addr := o.Addr
	if !addr.IsValid() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	var opened []*Listener
	for _, port := range o.Ports {
		l, err := ns.OpenListener(netip.AddrPortFrom(addr, port), o.Options)
		if err != nil {
			return opened, err
		}
		opened = append(opened, l)
	}
	return opened, nil
}

func makeTimeWait(ns *NetNS, o TimeWaitOptions) (err error) {
	listeners := o.Listeners
	if len(listeners) == 0 {
		opened, err := openListeners(ns, o)
		defer func() {
			for _, l := range opened {
				_ = l.Close()
			}
		}()
		if err != nil {
			return err
		}
		listeners = opened
	}
	if len(listeners) == 0 {
		return errors.New("no port")
	}

	before, err := ns.TimeWaitCount()
	if err != nil {
		return err
	}
	if err := ns.raiseTimeWaitLimit(before + o.Count); err != nil {
		return err
	}
	restore, err := ns.protectTimeWait()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	maker := newTimeWaitMaker(ns, listeners, o)
	if err := maker.run(o.Count, o.Workers); err != nil {
		return err
	}
	// sockstat does not count a socket whose FIN is still on its way: it would be made again.
	if o.Count <= maxListed {
		if err := maker.awaitFINs(); err != nil {
			return err
		}
	}
	after, err := ns.TimeWaitCount()
	if err != nil {
		return err
	}
	// One in some ten thousand goes without TIME_WAIT, by a reset that crossed its FIN.
	for range 3 {
		missing := o.Count - after
		if before > 0 || missing <= 0 || missing > maxMissing {
			break
		}
		if err := maker.run(missing, 1); err != nil {
			return err
		}
		if after, err = ns.TimeWaitCount(); err != nil {
			return err
		}
	}
	// Older ones may have expired meanwhile. On Linux 6.1 FINs cross now and then, and the
	// client's end is in TIME_WAIT as well.
	if after > before+o.Count+maxMissing || after < o.Count {
		return fmt.Errorf("sockstat counts %d, and %d before", after, before)
	}
	if o.Count > maxListed {
		return nil
	}
	return maker.awaitFINs()
}

func (n *NetNS) raiseTimeWaitLimit(count int) error {
	const name = "net.ipv4.tcp_max_tw_buckets"
	value, err := n.GetSysctl(name)
	if err != nil {
		return err
	}
	limit, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, err)
	}
	if limit > count {
		return nil
	}
	return n.SetSysctl(name, strconv.Itoa(count+1))
}

// protectTimeWait keeps resets from ending TIME_WAIT sockets until restore. With
// several CPUs a client's delayed ACK can arrive after its FIN; TIME_WAIT
// answers it (tcp_timewait_state_process), and the client, gone by then, resets.
func (n *NetNS) protectTimeWait() (restore func() error, err error) {
	const name = "net.ipv4.tcp_rfc1337"
	value, err := n.GetSysctl(name)
	if err != nil {
		return nil, err
	}
	if err := n.SetSysctl(name, "1"); err != nil {
		return nil, err
	}
	return func() error { return n.SetSysctl(name, value) }, nil
}

// timeWaitMaker makes connections and closes them from the listener's side
// first. Workers share the listeners, so one may accept what another connected:
// the address of the client says whose it is.
type timeWaitMaker struct {
	ns     *NetNS
	client netip.Addr
	ports  []*timeWaitPort
	todo   atomic.Int64 // connections nobody has begun
}

// timeWaitPort is a listener and its clients.
type timeWaitPort struct {
	listener *Listener
	target   netip.AddrPort
	first    netip.Addr // address of the first client
	shift    int        // so that listeners do not use a client address at the same time

	next atomic.Int64 // index of the first client never used

	// clients holds, by index, what became of a client: 0, its descriptor + 1
	// once it is connected, or acceptedFirst. Whoever comes second, the worker
	// that connected it or the one that closed the accepted end, closes it. No
	// descriptor is closed while connect may still be using it.
	clients []atomic.Int32
}

const acceptedFirst = -1

func newTimeWaitMaker(ns *NetNS, listeners []*Listener, o TimeWaitOptions) *timeWaitMaker {
	client := o.Client.Unmap()
	if !client.IsValid() {
		client = netip.AddrFrom4([4]byte{127, 1, 0, 1})
		if listeners[0].local.Addr().Unmap().Is6() {
			client = netip.IPv6Loopback()
		}
	}
	addrs := 1
	if client.Is4() {
		addrs = o.Count/len(listeners)/clientPortsPerAddr + clientAddrsSpare
	}
	m := &timeWaitMaker{ns: ns, client: client}
	for i, l := range listeners {
		m.ports = append(m.ports, &timeWaitPort{
			listener: l,
			target:   l.target(client),
			first:    client,
			shift:    i * clientPortsPerAddr / len(listeners),
			clients:  make([]atomic.Int32, addrs*clientPortsPerAddr),
		})
	}
	return m
}

// awaitFINs waits until every socket is in TIME_WAIT, and the other end of it gone. One in some
// ten thousand is not, for a while, where a FIN or its ACK has to be sent again: in fin_wait2,
// which sockstat counts as well, with its client in last_ack.
func (m *timeWaitMaker) awaitFINs() error {
	for deadline := time.Now().Add(settle); ; time.Sleep(10 * time.Millisecond) {
		sockets, err := m.ns.TCPSockets()
		if err != nil {
			return err
		}
		waiting := slices.IndexFunc(sockets, func(s TCPSocket) bool {
			return s.State != StateTimeWait && (m.made(s.Local, s.Remote) || m.made(s.Remote, s.Local))
		})
		switch {
		case waiting < 0:
			return nil
		case time.Now().After(deadline):
			s := sockets[waiting]
			return fmt.Errorf("socket %v to %v stays in %v: %w", s.Local, s.Remote, s.State, errTimeout)
		}
	}
}

// made says whether the maker connected a client to the listener.
func (m *timeWaitMaker) made(listener, client netip.AddrPort) bool {
	return slices.ContainsFunc(m.ports, func(p *timeWaitPort) bool {
		_, ok := p.index(unmap(client))
		return ok && unmap(listener) == p.target
	})
}

func (m *timeWaitMaker) run(count, workers int) error {
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), defaultWorkersLimit)
	}
	if m.client.Is6() && count > len(m.ports)*clientPortsPerAddr {
		return m.usedUp()
	}
	m.todo.Store(int64(count))
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
	for _, p := range m.ports {
		p.closeClients()
	}
	return first
}

// work makes connections until there are enough.
func (m *timeWaitMaker) work() error {
	for {
		ticket := m.todo.Add(-1)
		if ticket < 0 {
			return nil
		}
		p := m.ports[int(ticket)%len(m.ports)]
		err := m.connectOne(p)
		if err == nil {
			err = p.acceptOne()
		}
		if err != nil {
			m.todo.Store(0)
			return err
		}
	}
}

// connectOne connects a client.
func (m *timeWaitMaker) connectOne(p *timeWaitPort) error {
	fd, i, err := m.openClient(p)
	if err != nil {
		return err
	}
	target := sockaddr(p.target)
	err = unix.Connect(fd, target)
	for errors.Is(err, unix.EINTR) {
		err = unix.Connect(fd, target)
	}
	if err != nil && !errors.Is(err, unix.EISCONN) {
		_ = unix.Close(fd)
		return fmt.Errorf("connect %v to %v: %w", p.clientAddr(i), p.target, err)
	}
	if p.clients[i].Swap(int32(fd)+1) == acceptedFirst {
		return p.closeClient(i, fd)
	}
	return nil
}

// openClient makes a socket, bound to an address and port that no other client
// of the listener had, and returns its index.
func (m *timeWaitMaker) openClient(p *timeWaitPort) (fd, index int, err error) {
	fd, err = unix.Socket(family(m.client), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("socket: %w", err)
	}
	for {
		i := int(p.next.Add(1) - 1)
		if i >= len(p.clients) {
			_ = unix.Close(fd)
			return -1, 0, m.usedUp()
		}
		addr := p.clientAddr(i)
		if m.isLocalPort(addr.Port()) {
			continue
		}
		err := unix.Bind(fd, sockaddr(addr))
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			_ = unix.Close(fd)
			return -1, 0, fmt.Errorf("bind %v: %w", addr, err)
		}
		return fd, i, nil
	}
}

func (m *timeWaitMaker) usedUp() error {
	return fmt.Errorf("client ports of %v used up: use more local ports", m.client)
}

func (m *timeWaitMaker) isLocalPort(port uint16) bool {
	return slices.ContainsFunc(m.ports, func(p *timeWaitPort) bool { return p.target.Port() == port })
}

// acceptOne accepts a connection, closes it, and then its client if that is
// connected as far as its worker knows.
func (p *timeWaitPort) acceptOne() error {
	fd, sa, err := unix.Accept4(p.listener.fd, unix.SOCK_CLOEXEC)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		if err := waitFor(p.listener.fd, unix.POLLIN); err != nil {
			return fmt.Errorf("accept on %v: %w", p.target, err)
		}
		fd, sa, err = unix.Accept4(p.listener.fd, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		return fmt.Errorf("accept on %v: %w", p.target, err)
	}
	_ = unix.Close(fd)
	i, ok := p.index(unmap(addrPort(sa)))
	if !ok {
		return fmt.Errorf("accept on %v: accept queue held a connection from %v", p.target, addrPort(sa))
	}
	if client := p.clients[i].Swap(acceptedFirst); client > 0 {
		return p.closeClient(i, int(client)-1)
	}
	return nil
}

// closeClient closes a client whose other end was closed.
func (p *timeWaitPort) closeClient(i, fd int) error {
	p.clients[i].Store(0)
	defer unix.Close(fd)
	// The FIN may wait for ksoftirqd. Were the client's to cross it, both ends
	// would go through CLOSING to TIME_WAIT.
	if err := waitFor(fd, unix.POLLRDHUP); err != nil {
		return fmt.Errorf("wait for FIN of %v at %v: %w", p.target, p.clientAddr(i), err)
	}
	return nil
}

// closeClients closes what an error left open.
func (p *timeWaitPort) closeClients() {
	for i := range p.clients[:min(int(p.next.Load()), len(p.clients))] {
		if fd := p.clients[i].Swap(0); fd > 0 {
			_ = unix.Close(int(fd) - 1)
		}
	}
}

// clientAddr is the address of a client, and index its inverse.
func (p *timeWaitPort) clientAddr(index int) netip.AddrPort {
	addr, port := p.first, firstClientPort+(index+p.shift)%clientPortsPerAddr
	if addr.Is4() {
		addr = fromUint32(toUint32(addr) + uint32(index/clientPortsPerAddr))
	}
	return netip.AddrPortFrom(addr, uint16(port))
}

func (p *timeWaitPort) index(client netip.AddrPort) (int, bool) {
	i := (int(client.Port()) - firstClientPort - p.shift + clientPortsPerAddr) % clientPortsPerAddr
	if client.Addr().Is4() && p.first.Is4() {
		i += int(toUint32(client.Addr())-toUint32(p.first)) * clientPortsPerAddr
	} else if client.Addr() != p.first {
		return 0, false
	}
	return i, i >= 0 && i < len(p.clients) && i < int(p.next.Load())
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
