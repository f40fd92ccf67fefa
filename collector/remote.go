package collector

import (
	"strconv"
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// remoteFamily shows the sockets to watched remote ports.
type remoteFamily struct{ sockets *metric.Desc }

func newRemoteFamily() *remoteFamily {
	return &remoteFamily{sockets: metric.Gauge("tcp_remote_sockets",
		"TCP sockets to the watched remote port, by state.", "netns", "remote_port", "family", "state")}
}

func (*remoteFamily) name() string { return "remote" }

func (f *remoteFamily) metrics() []*metric.Desc { return []*metric.Desc{f.sockets} }

func (*remoteFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Remote.Duration, ns.Remote.Err })
}

func (f *remoteFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.Remote.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *remoteFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	for i := range ns.Remote.Data {
		p := &ns.Remote.Data[i]
		seen := ns.Seen.Remote(i)
		port := ch.Port(p.Number)
		for _, family := range sock.Families() {
			if !seen.InUse(family) {
				continue
			}
			for state := range shownStates(seen.States(family)) {
				ch.Put(f.sockets, float64(p.Of(family)[state]), netns, port, family.String(), state.String())
			}
		}
	}
}

// ephemeralFamily shows how many local ports the busiest destinations take.
type ephemeralFamily struct{ used *metric.Desc }

func newEphemeralFamily() *ephemeralFamily {
	return &ephemeralFamily{used: metric.Gauge("netns_ephemeral_ports_used",
		"Ephemeral ports in use for one of the busiest destinations, by rank.", "netns", "family", "rank")}
}

func (*ephemeralFamily) name() string { return "ephemeral" }

func (f *ephemeralFamily) metrics() []*metric.Desc { return []*metric.Desc{f.used} }

func (*ephemeralFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Ephemeral.Duration, ns.Ephemeral.Err })
}

func (f *ephemeralFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.Ephemeral.Err != nil {
			continue
		}
		for _, family := range sock.Families() {
			used := ns.Ephemeral.Data.Of(family)
			for rank := range ns.Seen.Destinations(family) {
				n := uint64(0)
				if rank < len(used) {
					n = used[rank]
				}
				ch.Put(f.used, float64(n), ns.Label(), family.String(), strconv.Itoa(rank+1))
			}
		}
	}
}
