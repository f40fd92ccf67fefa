package bhash

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// MaxBlockers is the most sockets that are captured for a failed call.
const MaxBlockers = 8

// Capture says whether the sockets in the way of a failed call were captured.
type Capture uint8

// The captures.
const (
	CaptureNone Capture = iota // nobody looked: another error, or this kernel or load does not allow it
	CaptureSome                // there may be more: too many, or the list changed meanwhile
	CaptureAll                 // also where there are none: they were gone as the call returned
)

// A Blocker is a socket that was in the way as a call failed.
type Blocker struct {
	Socket // Expires counts from the failure

	// Inode is the number of the open socket, as in /proc/PID/fd. It is 0 where no process has the socket
	// open: TIME_WAIT, other closed sockets, and connections that were not accepted yet.
	Inode uint64

	Peer netip.AddrPort // of a connection
	// Outgoing says that this side opened the connection: connect() chose the port, or the process
	// bound to it first. False where that is not known: a bind to port 0 before connect() leaves no
	// trace. Of a UDP socket it says that the program has not named the port: it is a client's.
	Outgoing bool

	// Kernel says that the kernel made the socket for itself, as for VXLAN, WireGuard or NFS: no process
	// can have it open.
	Kernel bool

	// Own says that the calling process itself has the socket open. Only its first 1,024 descriptors
	// are searched.
	Own bool
}

// BlockerSize is the size of struct blocker of capture.h.
const BlockerSize = SocketSize + 32

// DecodeBlocker decodes a struct blocker.
func DecodeBlocker(b []byte, tick time.Duration) Blocker {
	native := binary.NativeEndian
	extra := b[SocketSize:BlockerSize]
	blocker := Blocker{
		Socket: DecodeSocket(b, 0, tick), Inode: native.Uint64(extra), Own: extra[26] != 0, Outgoing: extra[27] != 0,
		Kernel: extra[28] != 0,
	}
	if port := native.Uint16(extra[24:]); port != 0 {
		peer := DecodeAddr(extra[8:], !blocker.Addr.Is4())
		blocker.Peer = netip.AddrPortFrom(peer, port)
	}
	return blocker
}
