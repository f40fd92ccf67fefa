package collector

import (
	"strconv"
	"time"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/netlinkdiag"
)

// tcpFamily shows the sockets on each watched port.
type tcpFamily struct {
	sockets           *Metric
	timeWaitRemaining *Metric
}

func newTCPFamily() *tcpFamily {
	return &tcpFamily{
		sockets: gauge("tcp_sockets",
			"TCP sockets on the watched local port, by state.",
			"netns", "port", "family", "state"),
		timeWaitRemaining: gauge("tcp_time_wait_remaining_seconds",
			"Seconds until the last TIME_WAIT socket on the port expires, 0 if there is none.",
			"netns", "port", "family"),
	}
}

func (*tcpFamily) name() string { return "tcp" }

func (f *tcpFamily) metrics() []*Metric { return []*Metric{f.sockets, f.timeWaitRemaining} }

func (*tcpFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.TCP.Duration, ns.TCP.Err })
}

func (f *tcpFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		if ns.TCP.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *tcpFamily) collectIn(ns *snapshot.Namespace, netns string, ch *sink) {
	for i := range ns.TCP.Data {
		p := &ns.TCP.Data[i]
		port := strconv.Itoa(int(p.Number))
		for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
			half := p.Of(family)
			for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
				if p.Unseen.Has(state) {
					continue
				}
				ch.put(f.sockets, float64(half.States[state]), netns, port, family.String(), state.String())
			}
			ch.put(f.timeWaitRemaining, half.TimeWaitRemaining.Seconds(), netns, port, family.String())
		}
	}
}
