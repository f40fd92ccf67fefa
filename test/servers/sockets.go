package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
)

// A listener is a listening socket with its flags.
type listener struct {
	address              netip.Addr
	v6only               bool
	backlog              uint32
	inode                uint32
	reuseAddr, reusePort int
}

func (l *listener) String() string {
	switch {
	case !l.address.Is6():
		return l.address.String()
	case l.v6only:
		return l.address.String() + " v6only"
	default:
		return l.address.String() + " dual"
	}
}

// dump returns the TCP sockets of the namespace that have the local port and are in one of the states.
func dump(ctx context.Context, ns *kerneltest.NetNS, states netlinkdiag.StateSet) (all []netlinkdiag.Socket, err error) {
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for s, err := range c.Dump(ctx, netlinkdiag.Request{States: states}) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			all = nil
		case err != nil:
			return nil, err
		case s.Local.Port() == port:
			all = append(all, s)
		}
	}
	return all, nil
}

// listeners returns the sockets of processes in the namespace that listen on the port, with their flags.
func listeners(ctx context.Context, ns *kerneltest.NetNS) ([]*listener, error) {
	sockets, err := dump(ctx, ns, netlinkdiag.States(netlinkdiag.StateListen))
	if err != nil {
		return nil, err
	}
	var all []*listener
	for _, pid := range processes(ns) {
		for _, s := range sockets {
			if fd, ok := descriptor(pid, s.Inode); ok {
				l := &listener{address: s.Local.Addr(), v6only: s.V6Only, backlog: s.WQueue, inode: s.Inode}
				if err := l.readFlags(pid, fd); err != nil {
					return nil, err
				}
				all = append(all, l)
			}
		}
	}
	slices.SortFunc(all, func(a, b *listener) int { return a.address.Compare(b.address) }) // IPv4 first
	return all, nil
}

// processes are those in the namespace.
func processes(ns *kerneltest.NetNS) (pids []int) {
	want := fmt.Sprintf("net:[%d]", ns.Inode())
	paths, _ := filepath.Glob("/proc/[0-9]*/ns/net") // the pattern is right
	for _, path := range paths {
		if link, err := os.Readlink(path); err == nil && link == want {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// descriptor is that of the process for the socket.
func descriptor(pid int, inode uint32) (fd int, ok bool) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, false // it has ended
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && link == fmt.Sprintf("socket:[%d]", inode) {
			if fd, err := strconv.Atoi(e.Name()); err == nil {
				return fd, true
			}
		}
	}
	return 0, false
}

// readFlags reads the options of a descriptor of another process.
func (l *listener) readFlags(pid, fd int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	defer unix.Close(process)
	socket, err := unix.PidfdGetfd(process, fd, 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd %d, %d: %w", pid, fd, err)
	}
	defer unix.Close(socket)
	if l.reuseAddr, err = unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil {
		return fmt.Errorf("getsockopt SO_REUSEADDR: %w", err)
	}
	if l.reusePort, err = unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT); err != nil {
		return fmt.Errorf("getsockopt SO_REUSEPORT: %w", err)
	}
	return nil
}
