package bindrule_test

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

const settle = time.Minute

// bringTo makes the states in the same way as package kerneltest.
func bringTo(state kerneltest.State, local, remote int) error {
	shutdown := func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }
	var steps []func() error
	switch state {
	case kerneltest.StateEstablished:
	case kerneltest.StateCloseWait:
		steps = []func() error{func() error { return shutdown(remote) }}
	case kerneltest.StateFinWait1:
		steps = []func() error{func() error { return deafen(remote) }, func() error { return shutdown(local) }}
	case kerneltest.StateFinWait2:
		steps = []func() error{func() error { return shutdown(local) }}
	case kerneltest.StateClosing:
		steps = []func() error{
			func() error { return deafen(remote) },
			func() error { return shutdown(local) },
			func() error { return shutdown(remote) },
		}
	case kerneltest.StateLastAck:
		steps = []func() error{
			func() error { return shutdown(remote) },
			func() error { return await(local, kerneltest.StateCloseWait) },
			func() error { return deafen(remote) },
			func() error { return shutdown(local) },
		}
	case kerneltest.StateTimeWait:
		if err := shutdown(local); err != nil {
			return err
		}
		if err := await(local, kerneltest.StateFinWait2); err != nil {
			return err
		}
		// The remote end stays open, in LAST_ACK for a moment, then closed.
		if err := unix.Close(local); err != nil {
			return err
		}
		if err := shutdown(remote); err != nil {
			return err
		}
		return await(remote, kerneltest.StateClose)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return await(local, state)
}

func stateOf(fd int) (kerneltest.State, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("getsockopt TCP_INFO: %w", err)
	}
	return kerneltest.State(info.State), nil
}

var errUnsettled = errors.New("state did not settle")

func await(fd int, want kerneltest.State) error {
	for deadline := time.Now().Add(settle); ; time.Sleep(100 * time.Microsecond) {
		state, err := stateOf(fd)
		if err != nil || state == want {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: in %v, want %v", errUnsettled, state, want)
		}
	}
}

func deafen(fd int) error {
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: 1, Filter: &drop[0]})
}

func connect(fd int, to unix.Sockaddr) error {
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return await(fd, kerneltest.StateEstablished)
}

func sockaddr(addr netip.Addr, port uint16) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()}
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("getsockname: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	default:
		return netip.AddrPort{}, fmt.Errorf("address %T", sa)
	}
}

func localIP(fd int) (netip.Addr, error) {
	addr, err := localAddr(fd)
	return addr.Addr(), err
}

func boolint(b bool) int {
	if b {
		return 1
	}
	return 0
}
