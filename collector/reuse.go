package collector

import (
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/snapshot"
)

// reuseFamily shows SO_REUSEADDR and SO_REUSEPORT of the listeners.
type reuseFamily struct {
	reuseAddr *Metric
	reusePort *Metric
}

func newReuseFamily() *reuseFamily {
	return &reuseFamily{
		reuseAddr: gauge("tcp_listener_reuseaddr",
			"1 if every listening socket on the address and port has SO_REUSEADDR, 0 if one lacks it.", groupLabels()...),
		reusePort: gauge("tcp_listener_reuseport",
			"1 if every listening socket on the address and port has SO_REUSEPORT, 0 if one lacks it.", groupLabels()...),
	}
}

func (*reuseFamily) name() string { return "reuse" }

func (f *reuseFamily) metrics() []*Metric { return []*Metric{f.reuseAddr, f.reusePort} }

func (*reuseFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Reuse.Duration, ns.Reuse.Err })
}

func (f *reuseFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		if ns.Reuse.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *reuseFamily) collectIn(ns *snapshot.Namespace, netns string, ch *sink) {
	for i := range ns.Listeners.Data {
		g := &ns.Listeners.Data[i]
		labels := groupValues(ch, netns, &g.GroupKey, g.Interface)
		for _, flag := range []struct {
			metric *Metric
			value  bindrule.Flag
		}{{f.reuseAddr, g.ReuseAddr}, {f.reusePort, g.ReusePort}} {
			if flag.value != bindrule.FlagUnknown {
				ch.put(flag.metric, boolValue(flag.value == bindrule.Yes), labels[:]...)
			}
		}
	}
}
