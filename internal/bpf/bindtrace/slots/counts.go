//go:build linux

package slots

import (
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/sock"
)

// Op is the system call that failed.
type Op uint8

// The calls, numbered as enum op in bindtrace.c.
const (
	OpBind Op = iota
	OpListen
	OpConnect
	OpUnixBind // bind() of a Unix socket: no event of the others has it
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

// Families returns what the numbers of enum family in bindtrace.c mean.
func Families() [FamilyCount]sock.Family { return sock.Families() }

// Protocols returns what the numbers of enum protocol in bindtrace.c mean.
func Protocols() [ProtocolCount]sock.Protocol {
	return [...]sock.Protocol{sock.OtherProtocol, sock.TCP, sock.UDP, sock.MPTCP, sock.SCTP}
}

// How many counts a slot of bindtrace.c has, and of which calls.
const (
	FamilyCount     = 2
	ProtocolCount   = 5
	errnoClassCount = 16
	connectErrors   = 2

	bindCounts    = FamilyCount * ProtocolCount * errnoClassCount
	listenCounts  = FamilyCount * ProtocolCount
	connectCounts = FamilyCount * ProtocolCount * connectErrors
	inetCounts    = bindCounts + listenCounts + connectCounts

	// UnixCounts are those of struct unix_counts. They are kept for namespaces only.
	UnixCounts = 16
	SlotCounts = inetCounts + UnixCounts
)

// A Key says which failures a Count counts.
type Key struct {
	Netns     uint32 // inode number of the network namespace; 0: not watched
	Port      uint16 // that the caller asked for; not valid with OtherPort; connect: 0
	OtherPort bool   // not a watched port, no port that could be read, or port 0 of a socket's own range; connect: not a lack of the host's ports
	Op        Op
	Family    sock.Family // of the socket
	Protocol  sock.Protocol
	Errno     unix.Errno // 0: an error without a class, or one more than the port may have
}

// InetCounts is how many counts struct slot has. Those of struct unix_counts come after them.
const InetCounts = inetCounts

// A Count is the number of failures with one key since New.
type Count struct {
	Key
	N uint64
}

// keyOf reverses count_of of bindtrace.c: it says what count number i of the slot of a port counts.
func keyOf(p Place, i int) Key {
	k := Key{Netns: p.Netns, Port: p.Port, OtherPort: p.Other}
	digit := func(base int) int {
		d := i % base
		i /= base
		return d
	}
	switch {
	case i < bindCounts:
		k.Op, k.Errno = OpBind, ErrnoClasses()[digit(errnoClassCount)]
	case i < bindCounts+listenCounts:
		i -= bindCounts
		k.Op, k.Errno = OpListen, unix.EADDRINUSE
	case i >= inetCounts:
		k.Op, k.Errno = OpUnixBind, UnixErrnoClasses()[i-inetCounts]
		return k
	default:
		i -= bindCounts + listenCounts
		k.Op, k.Errno = OpConnect, [connectErrors]unix.Errno{unix.EADDRNOTAVAIL, unix.EAGAIN}[digit(connectErrors)]
	}
	k.Protocol = Protocols()[digit(ProtocolCount)]
	k.Family = Families()[digit(FamilyCount)]
	return k
}

// common says that each port may have the count: the errors that servers usually get.
func (k *Key) common() bool {
	if k.Op != OpBind || k.Errno == 0 {
		return true
	}
	switch k.Protocol {
	case sock.TCP, sock.UDP, sock.MPTCP:
		return k.Errno == unix.EADDRINUSE || k.Errno == unix.EADDRNOTAVAIL || k.Errno == unix.EACCES
	}
	return false
}

// withoutErrno returns the number of the count of other errors, for count i of bind.
func withoutErrno(i int) int { return i - i%errnoClassCount }
