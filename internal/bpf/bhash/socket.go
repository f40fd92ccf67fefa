package bhash

import (
	"encoding/binary"
	"net/netip"
	"time"

	"sockstate_exporter/internal/sock"
)

// A Socket is one socket on a port.
type Socket struct {
	Port    uint16
	Cookie  uint64     // 0 where nobody has asked for it yet
	Addr    netip.Addr // local; Is4 means AF_INET, all others are AF_INET6
	Ifindex uint32     // device that the socket is bound to, or 0
	UID     uint32     // 0 for KindTimeWait, which has none
	V6Only  bool
	State   sock.State
	Kind    sock.Kind // KindFull or KindTimeWait
	sock.ReuseFlags

	// NamedPort says that the program has named the port: the kernel did not choose it
	// (SOCK_BINDPORT_LOCK). A socket that accept() returns does not have it (sk_clone_lock), so this
	// side opened a connection that does. KindTimeWait has lost it.
	NamedPort bool

	// NoProcess says that no process has the socket open: it is closed, or waits in an accept queue.
	// False for KindTimeWait, which nobody has.
	NoProcess bool

	// Expires is the time until the socket's timer is due; KindTimeWait only.
	Expires time.Duration
}

// SocketSize is the size of struct socket_record of bhash.h.
const SocketSize = 48

// DecodeSocket decodes a struct socket_record that was written at the time now, in ticks of the
// given length.
func DecodeSocket(b []byte, now uint64, tick time.Duration) Socket {
	const reuse, reusePort, v6only, namedPort, noProcess = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
	native := binary.NativeEndian
	flags := b[45]
	s := Socket{
		Cookie: native.Uint64(b), Addr: DecodeAddr(b[16:], b[42] != 0),
		Ifindex: native.Uint32(b[32:]), UID: native.Uint32(b[36:]), Port: native.Uint16(b[40:]),
		V6Only: flags&v6only != 0, NamedPort: flags&namedPort != 0, NoProcess: flags&noProcess != 0, State: sock.State(b[43]),
		ReuseFlags: sock.ReuseFlags{ReuseAddr: flags&reuse != 0, ReusePort: flags&reusePort != 0},
	}
	if b[44] != 0 {
		s.Kind = sock.KindTimeWait
		if left := int64(native.Uint64(b[8:]) - now); left > 0 {
			s.Expires = time.Duration(left) * tick
		}
	}
	return s
}

// DecodeAddr decodes an address of 16 bytes; an IPv4 one is in the first 4.
func DecodeAddr(b []byte, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte(b[:16]))
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}
