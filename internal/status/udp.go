package status

import (
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// A UDPReport is what is on a watched UDP port.
type UDPReport struct {
	IPv4 UDPSockets `json:"ipv4"`
	IPv6 UDPSockets `json:"ipv6"`
}

// UDPSockets are those of one family.
type UDPSockets struct {
	Sockets uint64  `json:"sockets"`
	Queue   uint64  `json:"receive_queue_bytes"`
	Drops   *uint64 `json:"drops"` // nil: not known
}

// A udpState is what a snapshot has of one UDP port.
type udpState struct {
	ns      *snapshot.Namespace
	port    ports.Port
	sockets *ports.UDPPort // nil: not known
}

func udpStateOf(ns *snapshot.Namespace, i int) udpState {
	s := udpState{ns: ns, port: ns.UDP.Data.Watch.Ports[i]}
	if ns.UDP.Err == nil && i < len(ns.UDP.Data.Ports) {
		s.sockets = &ns.UDP.Data.Ports[i]
	}
	return s
}

func (s *udpState) empty() bool {
	return s.sockets != nil && s.sockets.IPv4.Sockets+s.sockets.IPv6.Sockets == 0
}

// passed says that the port was found in use, is not any more, and nobody misses it: clients
// that choose their ports themselves, as resolvers do, leave many behind.
func (s *udpState) passed() bool { return s.empty() && s.port.Source != ports.SourceFlag }

// troubles are what is wrong.
func (s *udpState) troubles() (found troubles) {
	if s.sockets == nil {
		found.set(NotKnown, true)
		return found
	}
	found.set(NoSocket, s.empty())
	for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
		half := s.sockets.Of(family)
		// One look cannot see a counter grow, and drops of long ago are no trouble. Who drops
		// for a full queue still has something in it, unless it was emptied since.
		found.set(Dropping, half.Drops > 0 && half.DropsKnown && half.Queue > 0)
	}
	return found
}

// row makes what is shown of the port. There is no verdict: nothing of a UDP socket is in the
// way once it is closed.
func (s *udpState) row() PortRow {
	found := s.troubles()
	r := PortRow{
		Netns: s.ns.Label(), Port: s.port.Number, Protocol: sock.UDP.String(), Name: s.port.Name, Source: s.port.Source,
		Problems: found.list(), Outcome: Unknown, Verdict: []Sentence{}, Gone: []GoneRow{}, Advice: []string{},
	}
	if s.sockets != nil {
		r.UDP = &UDPReport{IPv4: newUDPSockets(&s.sockets.IPv4), IPv6: newUDPSockets(&s.sockets.IPv6)}
	}
	if found[Dropping.rank()] {
		r.Advice = append(r.Advice, "have the receiver read faster, or give it a larger buffer: SO_RCVBUF, which net.core.rmem_max bounds")
	}
	return r
}

func newUDPSockets(of *ports.UDPSockets) UDPSockets {
	out := UDPSockets{Sockets: of.Sockets, Queue: of.Queue}
	if of.DropsKnown {
		out.Drops = &of.Drops
	}
	return out
}

// IsUDP says that it is no TCP port.
func (r *PortRow) IsUDP() bool { return r.Protocol == sock.UDP.String() }

// udpLines are a line for each family that has a socket, or one without.
func (r *PortRow) udpLines() []Line {
	var out []Line
	if r.UDP != nil {
		for _, half := range []UDPLine{{r.UDP.IPv4, "IPv4"}, {r.UDP.IPv6, "IPv6"}} {
			if half.Sockets > 0 {
				out = append(out, Line{UDP: &half})
			}
		}
	}
	if len(out) == 0 {
		return []Line{{}}
	}
	return out
}

// A UDPLine is a family's line of the table.
type UDPLine struct {
	UDPSockets
	family string
}

// Text says how many sockets there are.
func (l *UDPLine) Text() string { return plural(l.Sockets, l.family+" socket") }

// QueueText is how much waits to be read.
func (l *UDPLine) QueueText() string { return plural(l.Queue, "byte") }

// DropsText is the number of dropped datagrams.
func (l *UDPLine) DropsText() string { return dropsText(l.Drops) }
