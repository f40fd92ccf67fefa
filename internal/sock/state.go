package sock

import (
	"math"
	"net/netip"

	"sockstate_exporter/netlinkdiag"
)

// A State is a TCP state, numbered as in include/net/tcp_states.h. A bound socket that neither
// listens nor connects, and a UDP socket that is not connected, are in StateClose.
type State = netlinkdiag.State

// The states.
const (
	StateEstablished = netlinkdiag.StateEstablished
	StateSynSent     = netlinkdiag.StateSynSent
	StateSynRecv     = netlinkdiag.StateSynRecv
	StateFinWait1    = netlinkdiag.StateFinWait1
	StateFinWait2    = netlinkdiag.StateFinWait2
	StateTimeWait    = netlinkdiag.StateTimeWait
	StateClose       = netlinkdiag.StateClose
	StateCloseWait   = netlinkdiag.StateCloseWait
	StateLastAck     = netlinkdiag.StateLastAck
	StateListen      = netlinkdiag.StateListen
	StateClosing     = netlinkdiag.StateClosing
)

// NumStates is one more than the highest state of a socket.
const NumStates = netlinkdiag.NumStates

// A StateSet is a set of states.
type StateSet = netlinkdiag.StateSet

// States returns the set of the given states.
func States(states ...State) StateSet { return netlinkdiag.States(states...) }

// A Kind says which struct the kernel keeps for a connection.
type Kind uint8

// The kinds.
const (
	KindFull     Kind = iota // struct sock
	KindTimeWait             // struct tcp_timewait_sock: TIME_WAIT, and FIN_WAIT2 without a process
	KindRequest              // struct request_sock: SYN_RECV. It is in no bind bucket, so bind() never meets one
)

// A Family is an address family of the Internet protocol.
type Family = netlinkdiag.Family

// The families.
const (
	FamilyIPv4 = netlinkdiag.FamilyIPv4
	FamilyIPv6 = netlinkdiag.FamilyIPv6
)

// Families returns both.
func Families() [2]Family { return [...]Family{FamilyIPv4, FamilyIPv6} }

// FamilyOf returns the family of a socket that is bound to the address. An IPv4-mapped address
// belongs to an IPv6 socket.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return FamilyIPv4
	}
	return FamilyIPv6
}

// OtherIfindex and OtherUID stand for devices and users that make no difference to the question (see
// bindrule.Folding). The kernel gives neither number to anybody.
const (
	OtherIfindex uint32 = math.MaxUint32
	OtherUID     uint32 = math.MaxUint32
)

// ReuseFlags are two options of a socket.
type ReuseFlags struct {
	ReuseAddr bool // SO_REUSEADDR
	ReusePort bool // SO_REUSEPORT
}
