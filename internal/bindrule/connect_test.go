package bindrule_test

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// connectIn adds connections to a listener, some of them closed again.
func (w *world) connectIn() error {
	listeners := w.listeners()
	if len(listeners) == 0 {
		h, err := w.listen()
		if h == nil || !h.listening || err != nil {
			return err
		}
		listeners = append(listeners, h)
	}
	target, ok := w.target(pick(w.rng, listeners))
	if !ok {
		return nil
	}
	for range 1 + w.rng.IntN(3) {
		if w.queued > 0 {
			break // the next accept() would take that one
		}
		if err := w.connectTo(target); err != nil {
			return err
		}
	}
	return nil
}

// target returns an address where a client can reach the listener.
func (w *world) target(h *held) (netip.Addr, bool) {
	addr := h.addr.Unmap()
	if addr.IsUnspecified() {
		return w.reachable(h.device, addr.Is4() || !h.v6only && w.chance(60)), true
	}
	// A packet to an address of this host arrives on the device of that address.
	return addr, h.device == 0 || addr.IsLoopback() == (h.device == lo)
}

// reachable returns an address that a socket bound to the device can connect to.
func (w *world) reachable(device int, v4 bool) netip.Addr {
	loopback, dummy := []string{"127.0.0.1", "127.0.0.6"}, []string{"192.0.2.1"}
	if !v4 {
		loopback, dummy = []string{"::1"}, []string{"2001:db8::1"}
	}
	from := append(loopback, dummy...)
	switch device {
	case lo:
		from = loopback
	case dummy0:
		from = dummy
	}
	return netip.MustParseAddr(pick(w.rng, from))
}

func (w *world) connectTo(target netip.Addr) error {
	remote, err := w.open(spec{addr: target})
	if err != nil {
		return err
	}
	w.others = append(w.others, remote)
	if w.chance(5) { // syn_recv
		if err := deafen(remote); err != nil {
			return err
		}
		if err := unix.Connect(remote, sockaddr(target, w.port)); !errors.Is(err, unix.EINPROGRESS) {
			return fmt.Errorf("connect from a deaf socket: %v, want EINPROGRESS", err)
		}
		return nil
	}
	if err := connect(remote, sockaddr(target, w.port)); err != nil {
		return fmt.Errorf("connect to %v: %w", target, err)
	}
	if w.chance(10) && w.sameListeners() {
		addr, err := localAddr(remote)
		if err != nil {
			return err
		}
		w.byRemote[addr] = settings{reuseAddr: w.listeners()[0].reuseAddr, reusePort: w.listeners()[0].reusePort,
			v6only: w.listeners()[0].v6only}
		w.unowned++
		w.queued++
		return nil
	}

	local, listener, err := w.accept()
	if err != nil {
		return err
	}
	s := listener.spec
	s.uid = 0 // sock_graft: the owner of the descriptor that accept() made
	if w.chance(30) {
		s.uid = 1000
		if err := unix.Fchown(local, s.uid, -1); err != nil {
			return fmt.Errorf("fchown: %w", err)
		}
	}
	if s.addr, err = localIP(local); err != nil {
		return err
	}
	if err := w.remember(local, s); err != nil {
		return err
	}
	return w.age(&held{spec: s, fd: local}, remote)
}

// sameListeners says whether a connection is the same whichever listener it belongs to.
func (w *world) sameListeners() bool {
	ls := w.listeners()
	for _, l := range ls {
		if l.reuseAddr != ls[0].reuseAddr || l.reusePort != ls[0].reusePort || l.v6only != ls[0].v6only {
			return false
		}
	}
	return true
}

// accept takes the connection from the listener that received it.
func (w *world) accept() (int, *held, error) {
	for deadline := time.Now().Add(settle); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, l := range w.listeners() {
			fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err == nil {
				return fd, l, nil
			}
			if !errors.Is(err, unix.EAGAIN) {
				return -1, nil, fmt.Errorf("accept: %w", err)
			}
		}
	}
	return -1, nil, errors.New("no listener got the connection")
}

// connectOut connects a bound socket to a helper.
func (w *world) connectOut() error {
	h, err := w.bind()
	if h == nil || err != nil {
		return err
	}
	if !h.addr.IsUnspecified() && h.device != 0 && h.addr.Unmap().IsLoopback() != (h.device == lo) {
		return nil
	}
	v4 := h.addr.Unmap().Is4() || !h.v6only && w.chance(50)
	target := w.reachable(h.device, v4)
	if !h.addr.Unmap().IsUnspecified() {
		target = h.addr.Unmap() // there is a route from every device
	}
	to := target
	if h.addr.Is6() {
		to = netip.AddrFrom16(target.As16())
	}
	if w.chance(20) { // syn_sent
		err := unix.Connect(h.fd, sockaddr(to, deafPort))
		if !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("connect %+v to a deaf socket: %v, want EINPROGRESS", h.spec, err)
		}
		return nil
	}
	switch err := connect(h.fd, sockaddr(to, acceptsPort)); {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil // another connection has these addresses and ports: the socket stays bound
	case errors.Is(err, errUnsettled):
		return nil // nobody answered on a busy machine: in syn_sent it holds the port as well
	case err != nil:
		return fmt.Errorf("connect %+v: %w", h.spec, err)
	}
	for deadline := time.Now().Add(settle); ; time.Sleep(time.Millisecond) {
		remote, _, err := unix.Accept4(w.helpers.accepts[v4], unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == nil {
			w.others = append(w.others, remote)
			w.sockets = w.sockets[:len(w.sockets)-1]
			return w.age(h, remote)
		}
		if !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// age brings a connection into a random state. It may also close its descriptor.
func (w *world) age(c *held, remote int) error {
	const orphan = true
	ages := []struct {
		state  kerneltest.State
		orphan bool
	}{
		{kerneltest.StateEstablished, false},
		{kerneltest.StateEstablished, false},
		{kerneltest.StateCloseWait, false},
		{kerneltest.StateFinWait1, false},
		{kerneltest.StateFinWait1, orphan},
		{kerneltest.StateFinWait2, false},
		{kerneltest.StateFinWait2, orphan},
		{kerneltest.StateClosing, false},
		{kerneltest.StateClosing, orphan},
		{kerneltest.StateLastAck, false},
		{kerneltest.StateLastAck, orphan},
		{kerneltest.StateTimeWait, orphan},
		{kerneltest.StateTimeWait, orphan},
		{kerneltest.StateTimeWait, orphan},
	}
	age := pick(w.rng, ages)
	if err := bringTo(age.state, c.fd, remote); err != nil {
		return fmt.Errorf("bring %+v to %v: %w", c.spec, age.state, err)
	}
	if age.orphan {
		if age.state != kerneltest.StateTimeWait {
			_ = unix.Close(c.fd)
		}
		w.unowned++
	} else {
		w.sockets = append(w.sockets, c)
	}
	return nil
}
