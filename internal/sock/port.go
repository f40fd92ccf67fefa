package sock

import "sockstate_exporter/netlinkdiag"

// A PortRange is the ports First to Last, both included.
type PortRange = netlinkdiag.PortRange

// A Protocol is a transport protocol.
type Protocol uint8

// The protocols.
const (
	TCP Protocol = iota
	UDP
	MPTCP
	SCTP
	OtherProtocol
)

// String returns the value of the protocol label.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case MPTCP:
		return "mptcp"
	case SCTP:
		return "sctp"
	default:
		return "other"
	}
}
