package collector

import (
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
)

// udpFamily shows the sockets of watched UDP ports.
type udpFamily struct {
	sockets *metric.Desc
	queue   *metric.Desc
	drops   *metric.Desc
	info    *metric.Desc
	shared  *metric.Desc
	blocked *metric.Desc
	split   *metric.Desc
}

func newUDPFamily() *udpFamily {
	labels := []string{"netns", "port", "family"}
	return &udpFamily{
		sockets: metric.Gauge("udp_sockets",
			"UDP sockets on the watched local port.", labels...),
		queue: metric.Gauge("udp_receive_queue_bytes",
			"Bytes that wait to be read on the UDP port, including the kernel's overhead.", labels...),
		drops: metric.Counter("udp_drops_total",
			"Datagrams that the sockets on the UDP port dropped.", labels...),
		info: metric.Gauge("udp_listener_info",
			"1 for each address of a UDP server, with its process, systemd unit and container, and its reuse flags.",
			"netns", "address", "port", "family", "interface", "v6only", "process", "unit", "container", "reuseaddr", "reuseport"),
		shared: metric.Gauge("udp_port_shared",
			"1 if different servers share the UDP port by SO_REUSEADDR or SO_REUSEPORT; 0 after that.", "netns", "port"),
		blocked: metric.Gauge("udp_restart_blocked",
			"1 if a restart of a server on the UDP port would fail with EADDRINUSE; 0 after that.", "netns", "port"),
		split: metric.Gauge("udp_port_split",
			"1 if different servers have IPv4 and IPv6 of the UDP port, or the half named by missing failed to bind; 0 after that.",
			"netns", "port", "missing"),
	}
}

func (*udpFamily) name() string { return "udp" }

func (f *udpFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.sockets, f.queue, f.drops, f.info, f.shared, f.blocked, f.split}
}

func (*udpFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.UDP.Duration, ns.UDP.Err })
}

func (f *udpFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.UDP.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
		if ns.UDPPorts.Err == nil {
			f.collectServers(ns, ns.Label(), ch)
		}
	}
}

func (f *udpFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	for i := range ns.UDP.Data.Ports {
		p := &ns.UDP.Data.Ports[i]
		seen := ns.Seen.UDP(p.Number)
		port := ch.Port(p.Number)
		for _, family := range sock.Families() {
			if !seen.InUse(family) {
				continue
			}
			half := p.Of(family)
			labels := []string{netns, port, family.String()}
			ch.Put(f.sockets, float64(half.Sockets), labels...)
			ch.Put(f.queue, float64(half.Queue), labels...)
			if half.DropsKnown {
				ch.Put(f.drops, float64(half.Drops), labels...)
			}
		}
	}
}

// maxServers bounds the addresses of a port that have a series: a user can bind to as many as they like.
const maxServers = 16

func (f *udpFamily) collectServers(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	putSplit(f.split, ns.SplitUDP, netns, ch)
	for i := range ns.UDPPorts.Data {
		p := &ns.UDPPorts.Data[i]
		port, seen := ch.Port(p.Number), ns.Seen.UDP(p.Number)
		groups, _ := udp.Bounded(p.Groups(), maxServers)
		for j := range groups {
			f.putServer(&groups[j], netns, port, ch)
		}
		if seen.Mixed {
			_, shared := p.Shared()
			ch.Put(f.shared, metric.Bool(shared), netns, port)
		}
		if seen.RestartBlocked {
			ch.Put(f.blocked, metric.Bool(p.RestartBlocked()), netns, port)
		}
	}
}

func (f *udpFamily) putServer(g *udp.Group, netns, port string, ch *metric.Sink) {
	family, v6only := sock.FamilyIPv4, ""
	if !g.Addr.Is4() {
		family, v6only = sock.FamilyIPv6, flagLabel(g.V6Only)
	}
	process, unit, container := g.Owner.Labels(g.Owner.Process)
	if g.Kernel {
		process = "(kernel)"
	}
	ch.Put(f.info, 1, netns, ch.Address(g.Addr), port, family.String(), metric.InterfaceLabel(g.Interface, g.Ifindex),
		v6only, process, unit, container, flagLabel(g.ReuseAddr), flagLabel(g.ReusePort))
}

// flagLabel is empty where the flag is not known.
func flagLabel(f bindrule.Flag) string {
	return [...]string{bindrule.FlagUnknown: "", bindrule.No: "false", bindrule.Yes: "true"}[f]
}
