//go:build linux

package bindtrace

import "golang.org/x/sys/unix"

// Op is the system call that failed.
type Op uint8

// The calls, numbered as enum op in bindtrace.c.
const (
	OpBind Op = iota
	OpListen
	OpConnect
	ops
)

func (o Op) String() string {
	switch o {
	case OpListen:
		return "listen"
	case OpConnect:
		return "connect"
	default:
		return "bind"
	}
}

// Family is the address family of a socket.
type Family uint8

// The families, numbered as enum family in bindtrace.c.
const (
	FamilyIPv4 Family = iota
	FamilyIPv6
	families
)

func (f Family) String() string {
	if f == FamilyIPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// Protocol is the protocol of a socket.
type Protocol uint8

// The protocols, numbered as enum protocol in bindtrace.c.
const (
	ProtocolOther Protocol = iota
	ProtocolTCP
	ProtocolUDP
	ProtocolMPTCP
	ProtocolSCTP
	protocols
)

func (p Protocol) String() string {
	switch p {
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	case ProtocolMPTCP:
		return "mptcp"
	case ProtocolSCTP:
		return "sctp"
	default:
		return "other"
	}
}

// Bits of the flags byte of an event in bindtrace.c.
const (
	flagReuseAddr = 1 << iota
	flagReusePort
	flagV6Only
	flagPortKnown
)

// How many counts a slot of bindtrace.c has, and of which calls.
const (
	errnoClassCount = 16
	connectErrors   = 2

	bindCounts    = int(families) * int(protocols) * errnoClassCount
	listenCounts  = int(families) * int(protocols)
	connectCounts = int(families) * int(protocols) * connectErrors
	slotCounts    = bindCounts + listenCounts + connectCounts
)

// A Key says which failures a Count counts.
type Key struct {
	Netns     uint32 // inode number of the network namespace; 0: not watched
	Port      uint16 // that the caller asked for; not valid with OtherPort; connect: 0
	OtherPort bool   // not a watched port, or no port that could be read; connect: not a lack of ports
	Op        Op
	Family    Family // of the socket
	Protocol  Protocol
	Errno     unix.Errno // 0: an error without a class, or one more than the port may have
}

// A Count is the number of failures with one key since New.
type Count struct {
	Key
	N uint64
}

// keyOf reverses count_of of bindtrace.c: it says what count number i of the slot of a port counts.
func keyOf(p place, i int) Key {
	k := Key{Netns: p.netns, Port: p.port, OtherPort: p.other}
	digit := func(base int) int {
		d := i % base
		i /= base
		return d
	}
	switch {
	case i < bindCounts:
		k.Op, k.Errno = OpBind, errnoClasses()[digit(errnoClassCount)]
	case i < bindCounts+listenCounts:
		i -= bindCounts
		k.Op, k.Errno = OpListen, unix.EADDRINUSE
	default:
		i -= bindCounts + listenCounts
		k.Op, k.Errno = OpConnect, [connectErrors]unix.Errno{unix.EADDRNOTAVAIL, unix.EAGAIN}[digit(connectErrors)]
	}
	k.Protocol = Protocol(digit(int(protocols)))
	k.Family = Family(digit(int(families)))
	return k
}

// common says that each port may have the count: the errors that servers usually get.
func (k *Key) common() bool {
	if k.Op != OpBind || k.Errno == 0 {
		return true
	}
	switch k.Protocol {
	case ProtocolTCP, ProtocolUDP, ProtocolMPTCP:
		return k.Errno == unix.EADDRINUSE || k.Errno == unix.EADDRNOTAVAIL || k.Errno == unix.EACCES
	}
	return false
}

// withoutErrno returns the number of the count of other errors, for count i of bind.
func withoutErrno(i int) int { return i - i%errnoClassCount }
