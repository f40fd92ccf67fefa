package collector

import (
	"time"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/stack"
)

// stackFamily shows the counters and limits of a network namespace.
type stackFamily struct {
	timeWait          *Metric
	timeWaitLimit     *Metric
	timeWaitOverflows *Metric
	listenOverflows   *Metric
	listenDrops       *Metric
	ephemeralPorts    *Metric
}

func newStackFamily() *stackFamily {
	return &stackFamily{
		timeWait: gauge("netns_time_wait_sockets",
			"TIME_WAIT sockets of the network namespace, of both families, on any port; with them the FIN_WAIT2 sockets that no process owns any more.",
			"/proc/net/sockstat, TCP tw", "netns"),
		timeWaitLimit: gauge("netns_time_wait_limit",
			"TIME_WAIT sockets that the kernel keeps at most; beyond it connections are closed without.",
			"net.ipv4.tcp_max_tw_buckets", "netns"),
		timeWaitOverflows: counter("netns_time_wait_overflows_total",
			"Connections that should have gone to TIME_WAIT but found the table full.",
			"/proc/net/netstat, TcpExt TCPTimeWaitOverflow", "netns"),
		listenOverflows: counter("netns_listen_overflows_total",
			"Connections dropped because the accept queue of a listener was full.",
			"/proc/net/netstat, TcpExt ListenOverflows", "netns"),
		listenDrops: counter("netns_listen_drops_total",
			"Connections dropped by listeners for any reason, overflows included.",
			"/proc/net/netstat, TcpExt ListenDrops", "netns"),
		ephemeralPorts: gauge("netns_ephemeral_ports_limit",
			"Ports that the kernel may choose for bind() to port 0 and for connect(). The limit holds for each local address and destination.",
			"net.ipv4.ip_local_port_range less net.ipv4.ip_local_reserved_ports", "netns"),
	}
}

func (*stackFamily) name() string { return "stack" }

func (f *stackFamily) metrics() []*Metric {
	return []*Metric{f.timeWait, f.timeWaitLimit, f.timeWaitOverflows, f.listenOverflows, f.listenDrops, f.ephemeralPorts}
}

func (*stackFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Stack.Duration, ns.Stack.Err })
}

// collect shows all values that could be read: each is from a file of its own.
func (f *stackFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		f.collectIn(&ns.Stack.Data, ns.Label(), ch)
	}
}

func (f *stackFamily) collectIn(stats *stack.Stats, netns string, ch *sink) {
	for _, v := range []struct {
		metric *Metric
		value  stack.Value
	}{
		{f.timeWait, stats.TimeWait},
		{f.timeWaitLimit, stats.TimeWaitLimit},
		{f.timeWaitOverflows, stats.TimeWaitOverflows},
		{f.listenOverflows, stats.ListenOverflows},
		{f.listenDrops, stats.ListenDrops},
		{f.ephemeralPorts, stats.EphemeralPorts},
	} {
		if v.value.OK {
			ch.put(v.metric, float64(v.value.V), netns)
		}
	}
}
