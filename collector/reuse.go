package collector

import (
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
)

// reuseFamily shows SO_REUSEADDR and SO_REUSEPORT of the listeners, and whose ports outgoing connections
// can take.
type reuseFamily struct {
	reuseAddr  *metric.Desc
	reusePort  *metric.Desc
	unreserved *metric.Desc
}

func newReuseFamily() *reuseFamily {
	return &reuseFamily{
		reuseAddr: metric.Gauge("tcp_listener_reuseaddr",
			"1 if every listening socket on the address and port has SO_REUSEADDR, 0 if one lacks it.", groupLabels()...),
		reusePort: metric.Gauge("tcp_listener_reuseport",
			"1 if every listening socket on the address and port has SO_REUSEPORT, 0 if one lacks it.", groupLabels()...),
		unreserved: metric.Gauge("tcp_port_unreserved",
			"1 if an outgoing connection can take the port while its server does not run; 0 after that.", "netns", "port"),
	}
}

func (*reuseFamily) name() string { return "reuse" }

func (f *reuseFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.reuseAddr, f.reusePort, f.unreserved}
}

func (*reuseFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Reuse.Duration, ns.Reuse.Err })
}

func (f *reuseFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.Reuse.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *reuseFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	for i := range ns.Listeners.Data {
		g := &ns.Listeners.Data[i]
		labels := groupValues(ch, netns, &g.GroupKey, g.Interface)
		for _, flag := range []struct {
			metric *metric.Desc
			value  bindrule.Flag
		}{{f.reuseAddr, g.ReuseAddr}, {f.reusePort, g.ReusePort}} {
			if flag.value != bindrule.FlagUnknown {
				ch.Put(flag.metric, metric.Bool(flag.value == bindrule.Yes), labels[:]...)
			}
		}
	}
	for _, p := range ns.Watch.Data.Ports {
		if ns.Seen.TCP(p.Number).Unreserved {
			_, now := slices.BinarySearch(ns.Reuse.Data, p.Number)
			ch.Put(f.unreserved, metric.Bool(now), netns, ch.Port(p.Number))
		}
	}
}
