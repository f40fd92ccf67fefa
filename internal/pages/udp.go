package pages

import (
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/udprow"
	"sockstate_exporter/internal/watch"
)

// A udpPort is what a snapshot has of one UDP port.
type udpPort struct {
	ns      *snapshot.Namespace
	port    *watch.Port
	sockets *ports.UDPPort // nil: not known
	found   *udp.Port      // nil: not known
	split   []split.Port
}

func udpPortOf(ns *snapshot.Namespace, i int) udpPort {
	p := udpPort{ns: ns, port: &ns.UDP.Data.Watch.Ports[i]}
	p.split = splitNow(ns.SplitUDP, p.port.Number)
	if ns.UDP.Err == nil && i < len(ns.UDP.Data.Ports) {
		p.sockets = &ns.UDP.Data.Ports[i]
	}
	if ns.UDPPorts.Err == nil && i < len(ns.UDPPorts.Data) {
		p.found = &ns.UDPPorts.Data[i]
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
	if p.found != nil {
		_, shared := p.found.Shared()
		found.add(SharedPort, shared)
		found.add(SplitPort, len(p.split) > 0)
		found.add(RestartBlocked, p.found.RestartBlocked())
	}
	return found
}

// row makes the row that shows the port.
func (p *udpPort) row() PortRow {
	found := p.problems()
	r := newPortRow(p.ns, p.port, sock.UDP, found)
	if p.sockets != nil {
		r.UDP = udprow.New(p.sockets, r.judgeUDP(p))
	}
	if found[Dropping.rank()] {
		r.Advice = append(r.Advice, "have the receiver read faster, or give it a larger buffer: SO_RCVBUF, which net.core.rmem_max bounds")
	}
	return r
}

// judgeUDP says whether a restart of what is on the port would work, or where nothing is, a bind. It returns
// nil where that is not known.
func (r *PortRow) judgeUDP(p *udpPort) *report.UDPPort {
	if p.found == nil {
		return nil
	}
	judged, what := report.NewUDP(p.found, &report.Query{Restart: true, Split: p.split}), "bind without SO_REUSEADDR"
	if judged.InUse {
		what = "restart"
	}
	r.Outcome, r.Diagnosis, r.Split, r.Advice = judged.Outcome, judged.Diagnosis, judged.Split, judged.Advice
	r.Verdict = []report.Sentence{{What: what, Outcome: judged.Outcome, Text: judged.Decides.String()}}
	return &judged
}

// IsUDP says whether it is a UDP port.
func (r *PortRow) IsUDP() bool { return r.Protocol == sock.UDP.String() }
