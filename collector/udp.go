package collector

import (
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// udpFamily shows the sockets of watched UDP ports.
type udpFamily struct {
	sockets *metric.Desc
	queue   *metric.Desc
	drops   *metric.Desc
}

func newUDPFamily() *udpFamily {
	labels := []string{"netns", "port", "family"}
	return &udpFamily{
		sockets: metric.Gauge("udp_sockets",
			"UDP sockets on the watched local port.", labels...),
		queue: metric.Gauge("udp_receive_queue_bytes",
			"Bytes that wait to be read on the UDP port, including the kernel's overhead.", labels...),
		drops: metric.Counter("udp_drops_total",
			"Datagrams that the sockets on the UDP port dropped.", labels...),
	}
}

func (*udpFamily) name() string { return "udp" }

func (f *udpFamily) metrics() []*metric.Desc { return []*metric.Desc{f.sockets, f.queue, f.drops} }

func (*udpFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.UDP.Duration, ns.UDP.Err })
}

func (f *udpFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.UDP.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *udpFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	for i := range ns.UDP.Data.Ports {
		p := &ns.UDP.Data.Ports[i]
		seen := ns.Seen.UDP(p.Number)
		port := ch.Port(p.Number)
		for _, family := range sock.Families() {
			if !seen.InUse(family) {
				continue
			}
			half := p.Of(family)
			labels := []string{netns, port, family.String()}
			ch.Put(f.sockets, float64(half.Sockets), labels...)
			ch.Put(f.queue, float64(half.Queue), labels...)
			if half.DropsKnown {
				ch.Put(f.drops, float64(half.Drops), labels...)
			}
		}
	}
}
