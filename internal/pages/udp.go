package pages

import (
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/internal/words"
)

// A UDPReport is what is on a watched UDP port.
type UDPReport struct {
	IPv4 UDPSockets `json:"ipv4"`
	IPv6 UDPSockets `json:"ipv6"`
}

// UDPSockets are the sockets of one family.
type UDPSockets struct {
	Sockets uint64  `json:"sockets"`
	Queue   uint64  `json:"receive_queue_bytes"`
	Drops   *uint64 `json:"drops"` // nil: not known
}

// A udpPort is what a snapshot has of one UDP port.
type udpPort struct {
	ns      *snapshot.Namespace
	port    *watch.Port
	sockets *ports.UDPPort // nil: not known
}

func udpPortOf(ns *snapshot.Namespace, i int) udpPort {
	p := udpPort{ns: ns, port: &ns.UDP.Data.Watch.Ports[i]}
	if ns.UDP.Err == nil && i < len(ns.UDP.Data.Ports) {
		p.sockets = &ns.UDP.Data.Ports[i]
	}
	return p
}

func (p *udpPort) empty() bool {
	return p.sockets != nil && p.sockets.IPv4.Sockets+p.sockets.IPv6.Sockets == 0
}

// closed says that the port was discovered and is not in use any more. Clients that choose
// their ports themselves, as resolvers do, leave many such ports behind.
func (p *udpPort) closed() bool { return p.empty() && p.port.Source == watch.SourceListener }

// problems are what is wrong with the port.
func (p *udpPort) problems() (found problemSet) {
	if p.sockets == nil {
		found.add(NotKnown, true)
		return found
	}
	found.add(NoSocket, p.empty())
	for _, half := range []*ports.UDPSockets{&p.sockets.IPv4, &p.sockets.IPv6} {
		// One snapshot cannot show that a counter grows, and old drops are no problem. A
		// receiver that drops for a full queue mostly still has something in it.
		found.add(Dropping, half.Drops > 0 && half.DropsKnown && half.Queue > 0)
	}
	return found
}

// row makes the row that shows the port. It has no verdict: a UDP socket blocks nothing once
// it is closed.
func (p *udpPort) row() PortRow {
	found := p.problems()
	r := newPortRow(p.ns, p.port, sock.UDP, found)
	if p.sockets != nil {
		r.UDP = &UDPReport{IPv4: newUDPSockets(&p.sockets.IPv4), IPv6: newUDPSockets(&p.sockets.IPv6)}
	}
	if found[Dropping.rank()] {
		r.Advice = append(r.Advice, "have the receiver read faster, or give it a larger buffer: SO_RCVBUF, which net.core.rmem_max bounds")
	}
	return r
}

func newUDPSockets(s *ports.UDPSockets) UDPSockets {
	out := UDPSockets{Sockets: s.Sockets, Queue: s.Queue}
	if s.DropsKnown {
		out.Drops = &s.Drops
	}
	return out
}

// IsUDP says whether it is a UDP port.
func (r *PortRow) IsUDP() bool { return r.Protocol == sock.UDP.String() }

// udpLines are a line for each family that has a socket.
func (r *PortRow) udpLines() (out []Line) {
	if r.UDP == nil {
		return nil
	}
	for _, half := range []UDPLine{{r.UDP.IPv4, "IPv4"}, {r.UDP.IPv6, "IPv6"}} {
		if half.Sockets > 0 {
			out = append(out, Line{UDP: &half})
		}
	}
	return out
}

// A UDPLine is a family's line of the table.
type UDPLine struct {
	UDPSockets
	family string
}

// Text says how many sockets there are.
func (l *UDPLine) Text() string { return words.Plural(l.Sockets, l.family+" socket") }

// QueueText is how much waits to be read.
func (l *UDPLine) QueueText() string { return words.Plural(l.Queue, "byte") }
