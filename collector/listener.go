package collector

import (
	"slices"
	"strconv"
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/netlinkdiag"
)

// listenerFamily shows who listens on the watched ports, their queues and drops.
type listenerFamily struct {
	info       *metric.Desc
	sockets    *metric.Desc
	queue      *metric.Desc
	queueLimit *metric.Desc
	queueRatio *metric.Desc
	drops      *metric.Desc
	dropped    *metric.Desc
	split      *metric.Desc
	shared     *metric.Desc
}

func newListenerFamily() *listenerFamily {
	group := groupLabels()
	return &listenerFamily{
		info: metric.Gauge("tcp_listener_info",
			"1 for each listening address, with the process, systemd unit and container that listen there.",
			"netns", "address", "port", "family", "interface", "v6only", "process", "unit", "container"),
		sockets: metric.Gauge("tcp_listener_sockets",
			"Listening sockets that share the address and port.", group...),
		queue: metric.Gauge("tcp_listener_accept_queue",
			"Connections that wait for accept() on the address and port.", group...),
		queueLimit: metric.Gauge("tcp_listener_accept_queue_limit",
			"Connections that may wait for accept() on the address and port.", group...),
		queueRatio: metric.Gauge("tcp_listener_accept_queue_ratio",
			"Length of the fullest accept queue on the address and port, divided by its limit.", group...),
		drops: metric.Counter("tcp_listener_drops_total",
			"Packets of new connections that the listening sockets dropped.", group...),
		dropped: metric.Gauge("tcp_listener_groups_dropped",
			"Listening addresses on the port that have no series because there are too many.", "netns", "port"),
		split: metric.Gauge("tcp_port_split",
			"1 if different servers have IPv4 and IPv6 of the port, or the half named by missing failed to bind; 0 after that.", "netns", "port", "missing"),
		shared: metric.Gauge("tcp_port_shared",
			"1 if different servers listen on one address and port by SO_REUSEPORT; 0 after that.", "netns", "port"),
	}
}

func (*listenerFamily) name() string { return "listener" }

func (f *listenerFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.info, f.sockets, f.queue, f.queueLimit, f.queueRatio, f.drops, f.dropped, f.split, f.shared}
}

func (*listenerFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Listeners.Duration, ns.Listeners.Err })
}

func (f *listenerFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.Listeners.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

// putSplit shows ports that are or were split.
func putSplit(d *metric.Desc, split []split.Port, netns string, ch *metric.Sink) {
	for i := range split {
		p, missing := &split[i], ""
		if p.Missing != 0 {
			missing = p.Missing.String()
		}
		ch.Put(d, metric.Bool(p.Now), netns, ch.Port(p.Number), missing)
	}
}

func (f *listenerFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	putSplit(f.split, ns.Split, netns, ch)
	for i := range ns.Listeners.Data {
		g := &ns.Listeners.Data[i]
		seen := ns.Seen.TCP(g.Port)
		labels := groupValues(ch, netns, &g.GroupKey, g.Interface)
		group := labels[:]
		v6only := ""
		if g.Family == netlinkdiag.FamilyIPv6 {
			v6only = strconv.FormatBool(g.V6Only)
		}
		process, unit, container := g.Owner.Labels(g.Owner.Process)
		ch.Put(f.info, 1, labels[0], labels[1], labels[2], labels[3], labels[4], v6only, process, unit, container)
		if g.Sockets > 1 || seen.Shared(g.GroupKey) {
			ch.Put(f.sockets, float64(g.Sockets), group...)
		}
		ch.Put(f.queue, float64(g.Queue), group...)
		ch.Put(f.queueLimit, float64(g.QueueLimit), group...)
		ch.Put(f.queueRatio, g.QueueRatio, group...)
		if g.DropsKnown {
			ch.Put(f.drops, float64(g.Drops), group...)
		}
		if seen.GroupsDropped && (i == 0 || g.Port != ns.Listeners.Data[i-1].Port) {
			ch.Put(f.dropped, float64(ns.GroupsDropped[g.Port]), netns, ch.Port(g.Port))
		}
	}
	for _, p := range ns.Watch.Data.Ports {
		if ns.Seen.TCP(p.Number).Mixed {
			now := slices.ContainsFunc(ns.Listeners.Data, func(g ports.Group) bool { return g.Port == p.Number && g.Mixed })
			ch.Put(f.shared, metric.Bool(now), netns, ch.Port(p.Number))
		}
	}
}

// groupLabels identify a group of listeners. groupValues are their values.
func groupLabels() []string {
	return []string{"netns", "address", "port", "family", "interface"}
}

func groupValues(ch *metric.Sink, netns string, g *ports.GroupKey, device string) [5]string {
	return [...]string{netns, ch.Address(g.Address), ch.Port(g.Port), g.Family.String(), metric.InterfaceLabel(device, g.Ifindex)}
}
