// Package seen remembers what was seen on the watched ports of a network namespace: families, states,
// groups of several listeners, and sockets that block a bind. Metrics have series for what was seen,
// and keep them with 0 until the port leaves the watch. So no series comes and goes with its value,
// and all who scrape see the same series, whenever they began.
//
// The package is pure.
package seen

import (
	"net/netip"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

// A Port says what was seen on a port since it came into the watch. The zero value is a port with
// nothing on it.
type Port struct {
	ipv4, ipv6 family
	asked      bool // somebody asked for the port: it has series before anything is on it

	// GroupsDropped says that the port had too many listener groups.
	GroupsDropped bool

	// Mixed says that different servers listened on one address and port.
	Mixed bool

	// RestartBlocked says that a server on the UDP port could not have restarted.
	RestartBlocked bool

	// Unreserved says that an outgoing connection could take the port from its server.
	Unreserved bool

	// Of the addresses that the snapshot still has. A map is replaced, not changed.
	shared   map[ports.GroupKey]bool
	blockers map[bindKey]sock.StateSet
}

type family struct {
	used   bool // it had a socket, or a bind failed
	states sock.StateSet
}

// A bindKey is one verdict.Bind of a port.
type bindKey struct {
	address   netip.Addr
	reuseAddr bool
}

func (p *Port) of(f sock.Family) *family {
	if f == sock.FamilyIPv6 {
		return &p.ipv6
	}
	return &p.ipv4
}

// InUse says whether the port listened, had sockets or failed to bind in the family. A port that
// somebody asked for uses both families as long as it has used neither.
func (p *Port) InUse(f sock.Family) bool {
	return p.of(f).used || p.asked && !p.ipv4.used && !p.ipv6.used
}

// States are those in which a socket of the family was seen.
func (p *Port) States(f sock.Family) sock.StateSet { return p.of(f).states }

// Shared says whether the listener group had several sockets.
func (p *Port) Shared(k ports.GroupKey) bool { return p.shared[k] }

// Blockers are the states of sockets that were seen to block the bind.
func (p *Port) Blockers(b *verdict.Bind) sock.StateSet {
	return p.blockers[bindKey{b.Address, b.ReuseAddr}]
}

// A Namespace is what was seen in one network namespace. Nobody changes it.
type Namespace struct {
	tcp, udp   seenPorts
	remote     []Port // by the watched remote ports
	ipv4, ipv6 int    // most destinations in ports.Ephemeral
}

// seenPorts has what was seen on the ports of a set: ports[i] is of set.Ports[i].
type seenPorts struct {
	set   watch.Set
	ports []Port
}

func (s *seenPorts) find(port uint16) Port {
	if i, ok := s.set.Find(port); ok {
		return s.ports[i]
	}
	return Port{}
}

// TCP returns what was seen on a watched TCP port.
func (s *Namespace) TCP(port uint16) Port { return s.tcp.find(port) }

// UDP returns what was seen on a watched UDP port.
func (s *Namespace) UDP(port uint16) Port { return s.udp.find(port) }

// Remote returns what was seen of the i-th of the watched remote ports.
func (s *Namespace) Remote(i int) Port {
	if i < len(s.remote) {
		return s.remote[i]
	}
	return Port{}
}

// Destinations is the largest number of destinations of the family that ports.Ephemeral had.
func (s *Namespace) Destinations(f sock.Family) int {
	if f == sock.FamilyIPv6 {
		return s.ipv6
	}
	return s.ipv4
}
