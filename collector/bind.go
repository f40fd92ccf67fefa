package collector

import (
	"iter"
	"strconv"
	"syscall"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/calls"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/seen"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// bindFamily shows the calls of bind() and listen() that failed on this host.
type bindFamily struct {
	failures       *metric.Desc
	listenFailures *metric.Desc
	conflicts      *metric.Desc
	failing        *metric.Desc
	last           *metric.Desc
	lost           *metric.Desc
	unattributed   *metric.Desc
	vsock          *metric.Desc
	missed         *metric.Desc
	slotsUsed      *metric.Desc
	slotsLimit     *metric.Desc
	slotsLacking   *metric.Desc
}

func newBindFamily() *bindFamily {
	call := []string{"netns", "port", "protocol", "family", "errno"}
	return &bindFamily{
		failures: metric.Counter("bind_failures_total",
			"Failed bind() calls, by requested port and error.", call...),
		listenFailures: metric.Counter("listen_failures_total",
			"listen() calls that failed with EADDRINUSE, by port.", call...),
		conflicts: metric.Counter("bind_conflicts_total",
			"bind() calls that failed with EADDRINUSE, by diagnosis.", "netns", "port", "protocol", "family", "diagnosis"),
		failing: metric.Gauge("bind_failing",
			"1 if bind() to the port fails, from a failure until a bind works or nobody tries any more; 0 after that.", "netns", "port", "protocol", "family"),
		last: metric.Gauge("bind_last_failure_timestamp_seconds",
			"Seconds since the Unix epoch at the latest failed bind() call for the port.", append(call[:len(call):len(call)], "reuseaddr", "diagnosis", "process", "unit", "container")...),
		lost: metric.Counter("bind_events_lost_total",
			"Failed calls that were counted but whose details were lost."),
		unattributed: metric.Counter("bind_failures_unattributed_total",
			"Failed calls that were not counted because their socket could not be identified."),
		vsock: metric.Counter("vsock_bind_failures_total",
			"Failed bind() calls of vsock sockets, which have ports of their own."),
		missed: metric.Counter("bind_tracer_missed_runs_total",
			"Runs of the tracing programs that the kernel skipped."),
		slotsUsed: metric.Gauge("bind_tracer_slots_used",
			"Slots of the tracer in use."),
		slotsLimit: metric.Gauge("bind_tracer_slots_limit",
			"Slots that the tracer has."),
		slotsLacking: metric.Gauge("bind_tracer_slots_lacking",
			"Watched ports and network namespaces that have no slot."),
	}
}

func (*bindFamily) name() string { return "bind" }

func (f *bindFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.failures, f.listenFailures, f.conflicts, f.failing, f.last, f.lost, f.unattributed, f.vsock, f.missed, f.slotsUsed, f.slotsLimit, f.slotsLacking}
}

func (*bindFamily) outcome(s *snapshot.Snapshot) result {
	return result{took: s.Binds.Duration, err: s.Binds.Err}
}

func (f *bindFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	if s.Binds.Err != nil {
		return
	}
	netns := netnsLabels(s)
	f.collectCalls(s, netns, ch)
	f.collectConflicts(s, netns, ch)
	f.collectFailing(s.Binds.Data.Failing, sock.TCP, netns, ch)
	f.collectFailing(s.Binds.Data.FailingUDP, sock.UDP, netns, ch)
	for _, l := range s.Binds.Data.Latest {
		process, unit, container := l.Owner.Labels(l.Process)
		ch.Put(f.last, float64(l.Time.UnixMilli())/1000,
			netns.of(l.Netns), askedPort(ch, l.Port, l.OtherPort), l.Protocol.String(), l.Family.String(), errnoLabel(l.Errno),
			strconv.FormatBool(l.ReuseAddr), string(l.Diagnosis), process, unit, container)
	}
	ch.Put(f.lost, float64(s.Binds.Data.Stats.Lost))
	ch.Put(f.unattributed, float64(s.Binds.Data.Stats.Unattributed))
	ch.Put(f.vsock, float64(s.Binds.Data.Stats.VSOCK))
	ch.Put(f.missed, float64(s.Binds.Data.Stats.Missed))
	ch.Put(f.slotsUsed, float64(s.Binds.Data.Stats.SlotsUsed))
	ch.Put(f.slotsLimit, float64(s.Binds.Data.Stats.SlotsLimit))
	ch.Put(f.slotsLacking, float64(s.Binds.Data.Stats.SlotsLacking))
}

func (f *bindFamily) collectFailing(states []failing.State, protocol sock.Protocol, netns netnsNames, ch *metric.Sink) {
	for _, p := range states {
		ch.Put(f.failing, metric.Bool(p.Failing), netns.of(p.Netns), ch.Port(p.Port), protocol.String(), p.Family.String())
	}
}

func (f *bindFamily) collectCalls(s *snapshot.Snapshot, netns netnsNames, ch *metric.Sink) {
	binds, listens := make(calls.Tally), make(calls.Tally)
	for _, c := range s.Binds.Data.Counts {
		of := binds
		switch c.Op {
		case bindtrace.OpListen:
			of = listens
		case bindtrace.OpConnect:
			continue
		}
		of.Add(calls.Call{
			Netns: netns.of(c.Netns), Port: c.Port, OtherPort: c.OtherPort,
			Protocol: c.Protocol.String(), Family: c.Family.String(), Errno: errnoLabel(c.Errno),
		}, c.N)
	}
	put := func(m *metric.Desc, c *calls.Call, n uint64) {
		ch.Put(m, float64(n), c.Netns, askedPort(ch, c.Port, c.OtherPort), c.Protocol, c.Family, c.Errno)
	}
	for c := range expectedFailures(s) {
		put(f.failures, &c, binds.Take(c))
	}
	for _, c := range binds.Sorted() {
		put(f.failures, &c, binds[c])
	}
	for _, c := range listens.Sorted() {
		put(f.listenFailures, &c, listens[c])
	}
}

func (f *bindFamily) collectConflicts(s *snapshot.Snapshot, netns netnsNames, ch *metric.Sink) {
	conflicts := make(calls.Tally)
	for _, c := range s.Binds.Data.Conflicts {
		conflicts.Add(calls.Call{
			Netns: netns.of(c.Netns), Port: c.Port, OtherPort: c.OtherPort,
			Protocol: c.Protocol.String(), Family: c.Family.String(), Diagnosis: c.Diagnosis,
		}, c.N)
	}
	for _, c := range conflicts.Sorted() {
		ch.Put(f.conflicts, float64(conflicts[c]), c.Netns, askedPort(ch, c.Port, c.OtherPort), c.Protocol, c.Family, string(c.Diagnosis))
	}
}

// expectedFailures are the failures of watched ports that have series before the first one, so that
// it shows as an increase.
func expectedFailures(s *snapshot.Snapshot) iter.Seq[calls.Call] {
	return func(yield func(calls.Call) bool) {
		for ns := range s.Namespaces() {
			one := calls.Call{Netns: ns.Label(), Errno: errnoLabel(syscall.EADDRINUSE)}
			for protocol, set := range watched(ns) {
				one.Protocol = protocol.String()
				for _, p := range set.Ports {
					one.Port = p.Number
					seen := seenOn(ns, protocol, p.Number)
					for _, family := range sock.Families() {
						one.Family = family.String()
						if seen.InUse(family) && !yield(one) {
							return
						}
					}
				}
			}
		}
	}
}

func seenOn(ns *snapshot.Namespace, protocol sock.Protocol, port uint16) seen.Port {
	if protocol == sock.UDP {
		return ns.Seen.UDP(port)
	}
	return ns.Seen.TCP(port)
}

func askedPort(ch *metric.Sink, port uint16, other bool) string {
	if other {
		return "other"
	}
	return ch.Port(port)
}

// errnoLabel is the symbolic name, or other: for errors that the tracer does not tell apart, and
// for those that only cgroup programs or kernel code return.
func errnoLabel(errno syscall.Errno) string {
	if name := failures.ErrnoName(errno); name != "" {
		return name
	}
	return "other"
}
