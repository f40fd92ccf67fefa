package report

import (
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// A Target is some ports that a report is asked about.
type Target struct {
	sock.PortRange

	// Address to bind to. If Addr is not valid: the addresses that listen, or else the wildcards.
	Address Address

	// UDP says that it is about UDP, and NoTCP that it is not about TCP. A port without a protocol is about
	// both.
	UDP, NoTCP bool

	Name string // of the service that was asked for, or ""
}

// An Address to bind to, and a device (SO_BINDTODEVICE, or the scope of a link-local address).
type Address struct {
	Addr      netip.Addr
	Ifindex   uint32
	Interface string
}

// addresses are those that are asked about on a port, and whether those that listen, or else the
// wildcards, are as well.
func (q *Query) addresses(port uint16) (named []Address, others bool) {
	for i := range q.Targets {
		t := &q.Targets[i]
		switch {
		case port < t.First || port > t.Last:
		case !t.Address.Addr.IsValid():
			others = true
		case !slices.Contains(named, t.Address):
			named = append(named, t.Address)
		}
	}
	return named, others || len(named) == 0
}

// serves says whether a listener is in the way of a bind to the address, or takes its connections.
func (l *ListenerReport) serves(a Address) bool {
	if a.Ifindex != 0 && l.Interface != "" && l.Interface != words.Printable(a.Interface) {
		return false
	}
	listens, asked := l.Address.Unmap(), a.Addr.Unmap()
	switch {
	case listens == asked:
		return true
	case listens.IsUnspecified():
		return listens.Is4() == asked.Is4() || listens.Is6() && l.V6Only == bindrule.No
	case asked.IsUnspecified(): // :: is for IPv4, too
		return asked.Is6() || listens.Is4()
	default:
		return false
	}
}
