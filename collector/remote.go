package collector

import (
	"strconv"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/netlinkdiag"
)

// remoteFamily shows the sockets to watched remote ports.
type remoteFamily struct{ sockets *Metric }

func newRemoteFamily() *remoteFamily {
	return &remoteFamily{sockets: gauge("tcp_remote_sockets",
		"TCP sockets to the watched remote port, by state.", "netns", "remote_port", "family", "state")}
}

func (*remoteFamily) name() string { return "remote" }

func (f *remoteFamily) metrics() []*Metric { return []*Metric{f.sockets} }

func (*remoteFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Remote.Duration, ns.Remote.Err })
}

func (f *remoteFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		if ns.Remote.Err == nil {
			f.collectIn(ns.Remote.Data, ns.Label(), ch)
		}
	}
}

// collectIn leaves out the states that have no peer.
func (f *remoteFamily) collectIn(ports []ports.RemotePort, netns string, ch *sink) {
	for i := range ports {
		p := &ports[i]
		for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
			for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
				if state != netlinkdiag.StateListen && state != netlinkdiag.StateClose {
					ch.put(f.sockets, float64(p.Of(family)[state]), netns, strconv.Itoa(int(p.Number)), family.String(), state.String())
				}
			}
		}
	}
}

// ephemeralFamily shows how many local ports the busiest destinations take.
type ephemeralFamily struct{ used *Metric }

func newEphemeralFamily() *ephemeralFamily {
	return &ephemeralFamily{used: gauge("netns_ephemeral_ports_used",
		"Ephemeral ports in use for one of the busiest destinations, by rank.", "netns", "family", "rank")}
}

func (*ephemeralFamily) name() string { return "ephemeral" }

func (f *ephemeralFamily) metrics() []*Metric { return []*Metric{f.used} }

func (*ephemeralFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Ephemeral.Duration, ns.Ephemeral.Err })
}

func (f *ephemeralFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		if ns.Ephemeral.Err != nil {
			continue
		}
		for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
			used := ns.Ephemeral.Data.Of(family)
			if len(used) == 0 {
				used = []uint64{0}
			}
			for rank, n := range used {
				ch.put(f.used, float64(n), ns.Label(), family.String(), strconv.Itoa(rank+1))
			}
		}
	}
}
