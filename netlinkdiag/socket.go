package netlinkdiag

import (
	"net/netip"
	"time"
)

// A Socket is one socket as the kernel reported it (struct inet_diag_msg).
type Socket struct {
	// Family of the socket, not of its peer: the connection of an IPv4 client to a
	// dual-stack listener has FamilyIPv6, and IPv4-mapped addresses.
	Family Family

	// State of the socket. For a minisocket (struct inet_timewait_sock) it is the
	// substate (tw_substate): an orphan that waits for the FIN of its peer has
	// StateFinWait2. Bound-inactive TCP sockets and unconnected UDP sockets have
	// StateClose.
	State State

	// Timer is the timer that Expires belongs to.
	Timer Timer

	// Retransmits is the number of retransmissions or probes that Timer has sent so
	// far (idiag_retrans), 0 to 255.
	Retransmits uint8

	// Local is the address and port of the socket, Remote those of its peer. Remote
	// is the unspecified address and port 0 where there is no peer.
	Local, Remote netip.AddrPort

	// Ifindex is the index of the interface that the socket is bound to
	// (SO_BINDTODEVICE), or 0.
	Ifindex uint32

	// Cookie identifies the socket for as long as the machine runs (SO_COOKIE).
	Cookie uint64

	// Expires is the time until Timer fires, in milliseconds (idiag_expires). For
	// TimerTimeWait it is the time until the socket is gone.
	Expires time.Duration

	// RQueue is the number of bytes that the process has not read yet, WQueue the
	// number of bytes that the peer has not acknowledged yet. In StateListen, RQueue
	// is the number of connections that wait for accept(2), and WQueue the limit for
	// them (the backlog).
	RQueue, WQueue uint32

	// UID is the user id of the creator, Inode the inode number of the socket's
	// file. Both are 0 where no process owns the socket, as in TIME_WAIT.
	UID, Inode uint32

	// V6Only is IPV6_V6ONLY. The kernel reports it for IPv6 sockets in StateListen
	// and StateClose; for others V6Only is false. bind(2) to an address that is
	// neither `::` nor IPv4-mapped sets the option as well (inet6_bind).
	V6Only bool

	// Mem is valid where HasMem is true: Request.Extensions has ExtensionSKMemInfo,
	// and the socket is not in TIME_WAIT or SYN_RECV, which have no accounting.
	Mem    MemInfo
	HasMem bool
}

// MemInfo is the memory accounting of a socket (SK_MEMINFO_*, include/uapi/linux/sock_diag.h).
// All fields but Drops are in bytes.
type MemInfo struct {
	RmemAlloc  uint32 // used by the receive queue, with overhead
	Rcvbuf     uint32 // limit of the receive queue, SO_RCVBUF
	WmemAlloc  uint32 // passed to the device, not sent yet
	Sndbuf     uint32 // limit of the send queue, SO_SNDBUF
	FwdAlloc   uint32 // reserved, not used yet
	WmemQueued uint32 // used by the send queue
	Optmem     uint32 // used by socket options and filters
	Backlog    uint32 // received while the socket was locked
	Drops      uint32 // number of dropped packets, or connections of a listener (sk_drops); wraps
}

// A Family is an address family.
type Family uint8

// Address families, with the numbers of include/linux/socket.h.
const (
	FamilyAny  Family = 0  // AF_UNSPEC: both
	FamilyUnix Family = 1  // AF_UNIX: in errors of Conn.DumpUnix only
	FamilyIPv4 Family = 2  // AF_INET
	FamilyIPv6 Family = 10 // AF_INET6
)

func (f Family) String() string {
	switch f {
	case FamilyAny:
		return "any"
	case FamilyUnix:
		return "unix"
	case FamilyIPv4:
		return "ipv4"
	case FamilyIPv6:
		return "ipv6"
	default:
		return "family(" + itoa(f) + ")"
	}
}

// A Protocol is a transport protocol.
type Protocol uint8

// Protocols, with the numbers of include/uapi/linux/in.h.
const (
	ProtocolTCP Protocol = 6
	ProtocolUDP Protocol = 17
)

func (p Protocol) String() string {
	switch p {
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	default:
		return "protocol(" + itoa(p) + ")"
	}
}

// A Timer says which timer of a socket runs (idiag_timer).
type Timer uint8

// Timers, with the numbers of inet_sk_diag_fill and inet_twsk_diag_fill (net/ipv4/inet_diag.c).
const (
	TimerNone       Timer = 0
	TimerRetransmit Timer = 1
	TimerKeepalive  Timer = 2
	TimerTimeWait   Timer = 3
	TimerProbe      Timer = 4
)
