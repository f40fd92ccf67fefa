package collector

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// listenerFamily shows who listens on the watched ports, their queues and drops.
type listenerFamily struct {
	info       *Metric
	sockets    *Metric
	queue      *Metric
	queueLimit *Metric
	queueRatio *Metric
	drops      *Metric
	dropped    *Metric
}

func newListenerFamily() *listenerFamily {
	group := groupLabels()
	return &listenerFamily{
		info: gauge("tcp_listener_info",
			"1 for each listening address, with the process and the systemd unit or container that listens there.",
			"netns", "address", "port", "family", "interface", "v6only", "process", "unit"),
		sockets: gauge("tcp_listener_sockets",
			"Listening sockets that share the address and port.", group...),
		queue: gauge("tcp_listener_accept_queue",
			"Connections that wait for accept() on the address and port.", group...),
		queueLimit: gauge("tcp_listener_accept_queue_limit",
			"Connections that may wait for accept() on the address and port.", group...),
		queueRatio: gauge("tcp_listener_accept_queue_ratio",
			"Length of the fullest accept queue on the address and port, divided by its limit.", group...),
		drops: counter("tcp_listener_drops_total",
			"Packets of new connections that the listening sockets dropped.", group...),
		dropped: gauge("tcp_listener_groups_dropped",
			"Listening addresses on the port that have no series because there are too many.", "netns", "port"),
	}
}

func (*listenerFamily) name() string { return "listener" }

func (f *listenerFamily) metrics() []*Metric {
	return []*Metric{f.info, f.sockets, f.queue, f.queueLimit, f.queueRatio, f.drops, f.dropped}
}

func (*listenerFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Listeners.Duration, ns.Listeners.Err })
}

func (f *listenerFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		if ns.Listeners.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *listenerFamily) collectIn(ns *snapshot.Namespace, netns string, ch *sink) {
	for i := range ns.Listeners.Data {
		g := &ns.Listeners.Data[i]
		seen := ns.Seen.TCP(g.Port)
		labels := groupValues(ch, netns, &g.GroupKey, g.Interface)
		group := labels[:]
		v6only := ""
		if g.Family == netlinkdiag.FamilyIPv6 {
			v6only = strconv.FormatBool(g.V6Only)
		}
		ch.put(f.info, 1, labels[0], labels[1], labels[2], labels[3], labels[4], v6only, processLabel(g.Owner.Process, &g.Owner), unitLabel(&g.Owner))
		if g.Sockets > 1 || seen.Shared(g.GroupKey) {
			ch.put(f.sockets, float64(g.Sockets), group...)
		}
		ch.put(f.queue, float64(g.Queue), group...)
		ch.put(f.queueLimit, float64(g.QueueLimit), group...)
		ch.put(f.queueRatio, g.QueueRatio, group...)
		if g.DropsKnown {
			ch.put(f.drops, float64(g.Drops), group...)
		}
		if seen.GroupsDropped && (i == 0 || g.Port != ns.Listeners.Data[i-1].Port) {
			ch.put(f.dropped, float64(ns.GroupsDropped[g.Port]), netns, ch.port(g.Port))
		}
	}
}

// groupLabels identify a group of listeners. groupValues are their values.
func groupLabels() []string {
	return []string{"netns", "address", "port", "family", "interface"}
}

func groupValues(ch *sink, netns string, g *ports.GroupKey, device string) [5]string {
	return [...]string{netns, ch.address(g.Address), ch.port(g.Port), g.Family.String(), interfaceLabel(device, g.Ifindex)}
}

// interfaceLabel is the device's name. If Printable changed the name, the index follows it:
// otherwise two devices could have the same name, and their samples the same labels.
func interfaceLabel(device string, ifindex uint32) string {
	name := sock.Printable(device)
	if strings.ContainsRune(name, unicode.ReplacementChar) {
		name += "#" + strconv.FormatUint(uint64(ifindex), 10)
	}
	return name
}
