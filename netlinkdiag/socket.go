package netlinkdiag

import (
	"net/netip"
	"time"
)

// A Socket is one socket as the kernel reported it (struct inet_diag_msg).
type Socket struct {
	// Family is that of the socket, not of its peer: an IPv4 client of a
	// dual-stack listener has FamilyIPv6 and IPv4-mapped addresses.
	Family Family

	// State of the socket. For a TIME_WAIT minisocket it is the substate: an
	// orphan that waits for its peer's FIN there has StateFinWait2.
	// Bound-inactive TCP sockets and unconnected UDP sockets have StateClose.
	State State

	// Timer says what Expires counts down to.
	Timer Timer

	// Retransmits of whatever Timer retransmits or probes.
	Retransmits uint8

	// Local and Remote are the socket's own and its peer's address and port.
	Local, Remote netip.AddrPort

	// Ifindex is the device the socket is bound to, 0 if it is not.
	Ifindex uint32

	// Cookie identifies the socket for as long as the machine runs (SO_COOKIE).
	Cookie uint64

	// Expires is the time until Timer fires, in steps of a millisecond. For
	// TimerTimeWait: until the socket is gone.
	Expires time.Duration

	// RQueue and WQueue are bytes waiting to be read and to be acknowledged. For
	// StateListen they count connections: those that wait for accept(), and
	// how many may wait (the backlog).
	RQueue, WQueue uint32

	// UID of the socket's creator and Inode of its file; both are 0 once no
	// process owns it, as in TIME_WAIT.
	UID, Inode uint32

	// V6Only is IPV6_V6ONLY; the kernel reports it for IPv6 sockets in
	// StateListen and StateClose, elsewhere it is false. It is also set by bind(2)
	// to an address that is neither `::` nor IPv4-mapped (inet6_bind).
	V6Only bool

	// Mem is set where Request.Extensions asked for ExtensionSKMemInfo and the
	// kernel gave it (it has none for TIME_WAIT and SYN_RECV sockets).
	Mem    MemInfo
	HasMem bool
}

// MemInfo is the memory accounting of a socket (SK_MEMINFO_*), in bytes but for Drops.
type MemInfo struct {
	RmemAlloc  uint32 // receive queue, with overhead
	Rcvbuf     uint32 // its limit, SO_RCVBUF
	WmemAlloc  uint32 // handed to the device, not yet sent
	Sndbuf     uint32 // limit of the send queue, SO_SNDBUF
	FwdAlloc   uint32 // reserved, not yet used
	WmemQueued uint32 // send queue
	Optmem     uint32 // socket options and filters
	Backlog    uint32 // received while the socket was locked
	Drops      uint32 // packets, or connections of a listener, dropped here (sk_drops); wraps
}

// A Family is an address family.
type Family uint8

// Address families, numbered as the kernel numbers them.
const (
	FamilyAny  Family = 0  // AF_UNSPEC: both
	FamilyIPv4 Family = 2  // AF_INET
	FamilyIPv6 Family = 10 // AF_INET6
)

func (f Family) String() string {
	switch f {
	case FamilyAny:
		return "any"
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

// Protocols, numbered as the kernel numbers them.
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

// A Timer is the timer that runs on a socket (idiag_timer).
type Timer uint8

// Timers (get_tcp_info and inet_diag_fill in the kernel).
const (
	TimerNone       Timer = 0
	TimerRetransmit Timer = 1
	TimerKeepalive  Timer = 2
	TimerTimeWait   Timer = 3
	TimerProbe      Timer = 4
)
