package kerneltest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// TCPSocket is a line of /proc/net/tcp or /proc/net/tcp6.
type TCPSocket struct {
	IPv6          bool           // which of the two
	Local, Remote netip.AddrPort // v4-mapped addresses are left mapped
	State         State
	UID           uint32
	Inode         uint64 // 0 in time_wait and syn_recv
}

// TCPSockets reads /proc/net/tcp and /proc/net/tcp6 of the namespace. Bound
// sockets that neither listen nor are connected are not in there.
func (n *NetNS) TCPSockets() ([]TCPSocket, error) {
	var all []TCPSocket
	err := n.Run(func() error {
		for _, name := range []string{"tcp", "tcp6"} {
			table, err := os.ReadFile("/proc/thread-self/net/" + name)
			if os.IsNotExist(err) && name == "tcp6" {
				continue // no IPv6
			}
			if err != nil {
				return err
			}
			_, table, _ = bytes.Cut(table, []byte("\n")) // column heads
			for line := range bytes.Lines(table) {
				s, err := parseTCPSocket(string(line))
				if err != nil {
					return fmt.Errorf("parse /proc/net/%s: %w", name, err)
				}
				s.IPv6 = name == "tcp6"
				all = append(all, s)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tcp sockets: %w", err)
	}
	return all, nil
}

// parseTCPSocket decodes what get_tcp4_sock and get_tcp6_sock print.
func parseTCPSocket(line string) (TCPSocket, error) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return TCPSocket{}, fmt.Errorf("line %q: %d fields", line, len(f))
	}
	var s TCPSocket
	var err error
	if s.Local, err = parseAddrPort(f[1]); err != nil {
		return TCPSocket{}, fmt.Errorf("line %q: local address: %w", line, err)
	}
	if s.Remote, err = parseAddrPort(f[2]); err != nil {
		return TCPSocket{}, fmt.Errorf("line %q: remote address: %w", line, err)
	}
	state, err := strconv.ParseUint(f[3], 16, 8)
	if err != nil {
		return TCPSocket{}, fmt.Errorf("line %q: state: %w", line, err)
	}
	uid, err := strconv.ParseUint(f[7], 10, 32)
	if err != nil {
		return TCPSocket{}, fmt.Errorf("line %q: uid: %w", line, err)
	}
	if s.Inode, err = strconv.ParseUint(f[9], 10, 64); err != nil {
		return TCPSocket{}, fmt.Errorf("line %q: inode: %w", line, err)
	}
	s.State, s.UID = State(state), uint32(uid)
	return s, nil
}

// parseAddrPort decodes an address printed as native-endian 32-bit words of
// what is in network order in memory, and a port printed as a number.
func parseAddrPort(s string) (netip.AddrPort, error) {
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("address %q: %d bytes", addr, len(b))
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, _ := netip.AddrFromSlice(b)
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ip, uint16(p)), nil
}

// TimeWaitCount returns how many TIME_WAIT sockets the namespace has, of both
// address families, from /proc/net/sockstat.
func (n *NetNS) TimeWaitCount() (int, error) {
	var text []byte
	err := n.Run(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/sockstat")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count time_wait sockets: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		for i := 1; i+1 < len(f) && f[0] == "TCP:"; i += 2 {
			if f[i] == "tw" {
				return strconv.Atoi(f[i+1])
			}
		}
	}
	return 0, fmt.Errorf("count time_wait sockets: no tw in /proc/net/sockstat")
}
