package collector

import (
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/stack"
)

// stackFamily shows the counters and limits of a network namespace.
type stackFamily struct {
	timeWait          *metric.Desc
	timeWaitLimit     *metric.Desc
	timeWaitOverflows *metric.Desc
	listenOverflows   *metric.Desc
	listenDrops       *metric.Desc
	ephemeralPorts    *metric.Desc

	// Of the host.
	memory, memoryPressure, memoryLimit, orphans, orphansLimit *metric.Desc
}

func newStackFamily() *stackFamily {
	return &stackFamily{
		timeWait: metric.Gauge("netns_time_wait_sockets",
			"TIME_WAIT sockets in the network namespace, on all ports.", "netns"),
		timeWaitLimit: metric.Gauge("netns_time_wait_limit",
			"Maximum number of TIME_WAIT sockets in the network namespace.", "netns"),
		timeWaitOverflows: metric.Counter("netns_time_wait_overflows_total",
			"Connections that closed without TIME_WAIT because the limit was reached.", "netns"),
		listenOverflows: metric.Counter("netns_listen_overflows_total",
			"Connections dropped because the accept queue of a listener was full.", "netns"),
		listenDrops: metric.Counter("netns_listen_drops_total",
			"Connections that listeners dropped for any reason, including full accept queues.", "netns"),
		ephemeralPorts: metric.Gauge("netns_ephemeral_ports_limit",
			"Ports that the kernel may choose as local port for one destination.", "netns"),
		memory:         metric.Gauge("tcp_memory_bytes", "Bytes that the buffers of all TCP sockets on the host take."),
		memoryPressure: metric.Gauge("tcp_memory_pressure_bytes", "Bytes of TCP buffers from which on the kernel keeps them small."),
		memoryLimit:    metric.Gauge("tcp_memory_limit_bytes", "Bytes that the buffers of all TCP sockets on the host may take."),
		orphans:        metric.Gauge("tcp_orphans", "TCP sockets on the host that no process has and that are not closed yet."),
		orphansLimit:   metric.Gauge("tcp_orphans_limit", "Maximum number of such TCP sockets on the host."),
	}
}

func (*stackFamily) name() string { return "stack" }

func (f *stackFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.timeWait, f.timeWaitLimit, f.timeWaitOverflows, f.listenOverflows, f.listenDrops, f.ephemeralPorts,
		f.memory, f.memoryPressure, f.memoryLimit, f.orphans, f.orphansLimit}
}

func (*stackFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Stack.Duration, ns.Stack.Err })
}

// collect shows all values that could be read: each is from a file of its own.
func (f *stackFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		f.collectIn(&ns.Stack.Data, ns.Label(), ch)
	}
	host := &s.Namespace.Stack.Data // any namespace shows the same
	putKnown(ch, f.memory, host.Memory)
	putKnown(ch, f.memoryPressure, host.MemoryPressure)
	putKnown(ch, f.memoryLimit, host.MemoryLimit)
	putKnown(ch, f.orphans, host.Orphans)
	putKnown(ch, f.orphansLimit, host.OrphansLimit)
}

func putKnown(ch *metric.Sink, m *metric.Desc, v stack.Value, labels ...string) {
	if v.OK {
		ch.Put(m, float64(v.V), labels...)
	}
}

func (f *stackFamily) collectIn(stats *stack.Stats, netns string, ch *metric.Sink) {
	for _, v := range []struct {
		metric *metric.Desc
		value  stack.Value
	}{
		{f.timeWait, stats.TimeWait},
		{f.timeWaitLimit, stats.TimeWaitLimit},
		{f.timeWaitOverflows, stats.TimeWaitOverflows},
		{f.listenOverflows, stats.ListenOverflows},
		{f.listenDrops, stats.ListenDrops},
		{f.ephemeralPorts, stats.EphemeralPorts},
	} {
		putKnown(ch, v.metric, v.value, netns)
	}
}
