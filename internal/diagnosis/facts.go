package diagnosis

import (
	"net/netip"
	"syscall"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// A Call is what failed, or would fail.
type Call uint8

// The calls.
const (
	Bind Call = iota
	Listen
	Connect
	Restart // a bind that a restart of a listener would make
)

// Facts are what is known about a call that failed, or that would fail.
type Facts struct {
	Call     Call
	Errno    syscall.Errno
	Protocol sock.Protocol
	Port     uint16 // of connect(): of the destination, as Request.Addr is
	// PortKnown says that the call carried a port.
	PortKnown bool
	// OwnRange: a bind to port 0, or a connect(), found no port, and the socket limits itself to some
	// (IP_LOCAL_PORT_RANGE).
	OwnRange bool
	Request  bindrule.Request

	// Process is what the caller calls itself, and By the process, as far as it is known.
	Process string
	By      owner.Owner

	// Blockers are the sockets that blocked the call. Doubtful are those that may block a call that
	// has not been made, by flags that are not known.
	Blockers, Doubtful []Blocker
	// MoreHolders is how many more processes have listeners on the port than Blockers name.
	MoreHolders int
	// Running says, of a Restart, that the server listens now.
	Running bool
	// HalfFree says that a bind to IPv6 alone would work, and that a server had that half.
	HalfFree bool
	// Partial says that there may be more of them.
	Partial bool
	// Seen says when they were seen, and Err why they were not.
	Seen Seen
	Err  error

	Host Host
}

// Seen says when the sockets were seen.
type Seen uint8

// The values of Seen.
const (
	NotSeen    Seen = iota
	AtFailure       // by the kernel, as the call failed
	Afterwards      // a moment later: sockets may have gone or come meanwhile
	Now             // for a call that has not been made
)

// A Blocker stands for sockets that blocked the call and are the same to bind(). Its Count may be
// above 1 where Peer is not known.
type Blocker struct {
	bindrule.Socket

	Peer netip.AddrPort // of a connection; invalid: not known
	// Outgoing says that this side opened the connection. False where that is not known.
	Outgoing bool
	// Own says that the process that made the call has the socket open itself.
	Own bool
	// Kernel says that the kernel made the socket for itself: no process can have it open. Handler is the
	// kernel's function that gets its packets; it may be empty.
	Kernel  bool
	Handler string
	// Held says that a process had the socket open: it was no orphan, and not in an accept queue.
	Held bool
	// Holder has the socket open, as far as it is known. Opener opened it, and does not have it
	// any more.
	Holder, Opener owner.Owner
}

// Host is what is known of the network namespace, and of the port before the call.
type Host struct {
	// Listened says that something listens on the port, or did lately.
	Listened bool
	// LocalPorts is net.ipv4.ip_local_port_range. It is empty where it is not known.
	LocalPorts sock.PortRange
	// UnprivilegedPortStart is net.ipv4.ip_unprivileged_port_start; negative: not known. Where it is
	// known, PrivilegeLacked says that the caller had no CAP_NET_BIND_SERVICE.
	UnprivilegedPortStart int
	PrivilegeLacked       bool

	// Address is what was known of the address of a bind after it had failed with EADDRNOTAVAIL.
	Address sock.Address
	// Taken says what had the local ports after a connect() that found none.
	Taken Taken
}

// Taken counts some of the local ports that are in use.
type Taken struct {
	// Bound were taken by bind(). They serve no other socket, whatever its destination. Chosen were
	// chosen by connect(): they serve other destinations, too.
	Bound, Chosen int

	// Users are who has the sockets on the local ports, by a sample of Looked sockets, those with most of
	// them first. Nobody has those in TIME_WAIT.
	Users    []PortUser
	TimeWait int
	Looked   int
}

// A PortUser is a process, and how many of some sockets it has open.
type PortUser struct {
	Owner   owner.Owner
	Sockets int
}
