package kerneltest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/prometheus/procfs"
)

// TCPSocket is a line of /proc/net/tcp or /proc/net/tcp6.
type TCPSocket struct {
	IPv6          bool           // it is a line of /proc/net/tcp6
	Local, Remote netip.AddrPort // v4-mapped in tcp6 where the peer uses IPv4
	State         State
	UID           uint32
	Inode         uint64 // 0 in time_wait and syn_recv
}

// TCPSockets reads /proc/net/tcp and /proc/net/tcp6 of the namespace. They do
// not list sockets that are bound, and neither listen nor are connected.
func (n *NetNS) TCPSockets() (all []TCPSocket, err error) {
	err = n.readNet(func(fs procfs.FS) error {
		ipv4, err := fs.NetTCP() //nolint:staticcheck // sock_diag is what tests compare it with
		if err != nil {
			return err
		}
		ipv6, err := fs.NetTCP6()                          //nolint:staticcheck // as above
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return err
		}
		for i, line := range append(ipv4, ipv6...) {
			local, _ := netip.AddrFromSlice(line.LocalAddr)
			remote, _ := netip.AddrFromSlice(line.RemAddr)
			all = append(all, TCPSocket{
				IPv6:   i >= len(ipv4),
				Local:  netip.AddrPortFrom(local, uint16(line.LocalPort)),
				Remote: netip.AddrPortFrom(remote, uint16(line.RemPort)),
				State:  State(line.St),
				UID:    uint32(line.UID),
				Inode:  line.Inode,
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tcp sockets: %w", err)
	}
	return all, nil
}

// TimeWaitCount reads the number of TIME_WAIT sockets of the namespace, IPv4
// and IPv6, from /proc/net/sockstat. It includes orphans in FIN_WAIT2.
func (n *NetNS) TimeWaitCount() (count int, err error) {
	err = n.readNet(func(fs procfs.FS) error {
		stat, err := fs.NetSockstat()
		if err != nil {
			return err
		}
		for _, p := range stat.Protocols {
			if p.Protocol == "TCP" && p.TW != nil {
				count = *p.TW
				return nil
			}
		}
		return errors.New("no tw in /proc/net/sockstat")
	})
	if err != nil {
		return 0, fmt.Errorf("count time_wait sockets: %w", err)
	}
	return count, nil
}

// readNet calls f with the /proc/net of the namespace.
func (n *NetNS) readNet(f func(procfs.FS) error) error {
	return n.Run(func() error {
		fs, err := procfs.NewFS("/proc/thread-self")
		if err != nil {
			return err
		}
		return f(fs)
	})
}
