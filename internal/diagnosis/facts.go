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
	Port     uint16
	// PortKnown says that the call carried a port.
	PortKnown bool
	// OwnRange: Port is 0, and the socket limits itself to some ports (IP_LOCAL_PORT_RANGE).
	OwnRange bool
	Request  bindrule.Request

	// Process is what the caller calls itself, and By the process, as far as it is known.
	Process string
	By      owner.Owner

	// Blockers are the sockets that blocked the call.
	Blockers []Blocker
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
	// UnprivilegedPortStart is net.ipv4.ip_unprivileged_port_start; negative: not known.
	UnprivilegedPortStart int
	Address               Address
}

// Address is the state of the address of a bind.
type Address uint8

// The states of an address.
const (
	AddressUnknown Address = iota
	AddressThere           // it is an address of the network namespace
	AddressAbsent
	AddressIsTentative // IPv6 duplicate address detection is under way, or has failed
	IPv6Disabled       // net.ipv6.conf.*.disable_ipv6, or no IPv6 in the kernel
)
