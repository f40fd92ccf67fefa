package collector

import (
	"iter"
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// watchFamily shows which ports are watched.
type watchFamily struct {
	info    *metric.Desc
	ports   *metric.Desc
	limit   *metric.Desc
	dropped *metric.Desc
}

func newWatchFamily() *watchFamily {
	return &watchFamily{
		info: metric.Gauge("watched_port_info",
			"1 for each watched port, with its name and the reason why it is watched.", "netns", "port", "protocol", "name", "source"),
		ports:   metric.Gauge("watched_ports", "Watched ports in all network namespaces."),
		limit:   metric.Gauge("watched_ports_limit", "Maximum number of watched ports, as set by --watch.max-ports."),
		dropped: metric.Gauge("watched_ports_dropped", "Ports that are not watched because --watch.max-ports is reached."),
	}
}

func (*watchFamily) name() string { return "watch" }

func (f *watchFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.info, f.ports, f.limit, f.dropped}
}

func (*watchFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Watch.Duration, ns.Watch.Err })
}

// collect shows the set even if it could not be updated: the ports of --watch.port are watched
// whatever the kernel answers.
func (f *watchFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		netns := ns.Label()
		for protocol, set := range watched(ns) {
			for _, p := range set.Ports {
				ch.Put(f.info, 1, netns, ch.Port(p.Number), protocol.String(), p.Name, string(p.Source))
			}
		}
	}
	ports, dropped, limit := budget(s)
	if limit == 0 {
		return
	}
	ch.Put(f.ports, float64(ports))
	ch.Put(f.limit, float64(limit))
	ch.Put(f.dropped, float64(dropped))
}

// budget adds up the sets of all namespaces. A limit of 0 means that no set is known.
func budget(s *snapshot.Snapshot) (ports, dropped, limit int) {
	for ns := range s.Namespaces() {
		for _, set := range watched(ns) {
			ports += len(set.Ports)
			dropped += set.Dropped
			limit = max(limit, set.Limit)
		}
	}
	return ports, dropped, limit
}

// watched are the watched ports of a namespace, by protocol.
func watched(ns *snapshot.Namespace) iter.Seq2[sock.Protocol, *watch.Set] {
	return func(yield func(sock.Protocol, *watch.Set) bool) {
		_ = yield(sock.TCP, &ns.Watch.Data) && yield(sock.UDP, &ns.UDP.Data.Watch)
	}
}
