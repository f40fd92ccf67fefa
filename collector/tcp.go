package collector

import (
	"iter"
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// tcpFamily shows the sockets on each watched port.
type tcpFamily struct {
	sockets           *metric.Desc
	timeWaitRemaining *metric.Desc
}

func newTCPFamily() *tcpFamily {
	return &tcpFamily{
		sockets: metric.Gauge("tcp_sockets",
			"TCP sockets on the watched local port, by state.",
			"netns", "port", "family", "state"),
		timeWaitRemaining: metric.Gauge("tcp_time_wait_remaining_seconds",
			"Seconds until the last TIME_WAIT socket on the port expires, 0 if there is none.",
			"netns", "port", "family"),
	}
}

func (*tcpFamily) name() string { return "tcp" }

func (f *tcpFamily) metrics() []*metric.Desc { return []*metric.Desc{f.sockets, f.timeWaitRemaining} }

func (*tcpFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.TCP.Duration, ns.TCP.Err })
}

func (f *tcpFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.TCP.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *tcpFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	for i := range ns.TCP.Data {
		p := &ns.TCP.Data[i]
		seen := ns.Seen.TCP(p.Number)
		port := ch.Port(p.Number)
		for _, family := range sock.Families() {
			if !seen.InUse(family) {
				continue
			}
			half, states := p.Of(family), seen.States(family)
			for state := range shownStates(states) {
				if !p.Unseen.Has(state) {
					ch.Put(f.sockets, float64(half.States[state]), netns, port, family.String(), state.String())
				}
			}
			if states.Has(sock.StateTimeWait) {
				ch.Put(f.timeWaitRemaining, half.TimeWaitRemaining.Seconds(), netns, port, family.String())
			}
		}
	}
}

// shownStates are the states that have series, where a socket was seen in some: those that people
// ask for first always have one.
func shownStates(seen sock.StateSet) iter.Seq[sock.State] {
	return statesOf(seen | sock.States(sock.StateEstablished, sock.StateTimeWait, sock.StateCloseWait))
}

func statesOf(set sock.StateSet) iter.Seq[sock.State] {
	return func(yield func(sock.State) bool) {
		for state := sock.StateEstablished; state < sock.NumStates; state++ {
			if set.Has(state) && !yield(state) {
				return
			}
		}
	}
}
