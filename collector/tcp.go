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
			"TCP sockets on the watched local port, by state; 0 where there are none. In another network namespace where the kernel counts nothing but listeners, syn_recv and close are absent when to look for them would take too long. Sockets that are bound but neither listen nor connect are in state close, from Linux 6.8 on.",
			"sock_diag, idiag_state",
			"netns", "port", "family", "state"),
		timeWaitRemaining: gauge("tcp_time_wait_remaining_seconds",
			"Seconds until the last TIME_WAIT socket of the port expires; 0 where there are none. The kernel runs such timers late, by up to 2 seconds with CONFIG_HZ=250, 4 with 1000; the bind and restart metrics take that into account.",
			"sock_diag, idiag_expires",
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
