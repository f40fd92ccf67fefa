package collector

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strconv"
	"syscall"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/seen"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
)

// bindFamily shows the calls of bind() and listen() that failed on this host.
type bindFamily struct {
	failures       *Metric
	listenFailures *Metric
	conflicts      *Metric
	last           *Metric
	lost           *Metric
	unattributed   *Metric
	missed         *Metric
	slotsUsed      *Metric
	slotsLimit     *Metric
	slotsLacking   *Metric
}

func newBindFamily() *bindFamily {
	call := []string{"netns", "port", "protocol", "family", "errno"}
	return &bindFamily{
		failures: counter("bind_failures_total",
			"Failed bind() calls, by requested port and error.", call...),
		listenFailures: counter("listen_failures_total",
			"listen() calls that failed with EADDRINUSE, by port.", call...),
		conflicts: counter("bind_conflicts_total",
			"bind() calls that failed with EADDRINUSE, by what blocked them.", "netns", "port", "protocol", "family", "reuseaddr", "cause"),
		last: gauge("bind_last_failure_timestamp_seconds",
			"Seconds since the Unix epoch at the latest failed bind() call for the port.", append(call[:len(call):len(call)], "process", "unit")...),
		lost: counter("bind_events_lost_total",
			"Failed calls that were counted but whose details were lost."),
		unattributed: counter("bind_failures_unattributed_total",
			"Failed calls that were not counted because their socket could not be identified."),
		missed: counter("bind_tracer_missed_runs_total",
			"Runs of the tracing programs that the kernel skipped."),
		slotsUsed: gauge("bind_tracer_slots_used",
			"Slots of the tracer in use."),
		slotsLimit: gauge("bind_tracer_slots_limit",
			"Slots that the tracer has."),
		slotsLacking: gauge("bind_tracer_slots_lacking",
			"Watched ports and network namespaces that have no slot."),
	}
}

func (*bindFamily) name() string { return "bind" }

func (f *bindFamily) metrics() []*Metric {
	return []*Metric{f.failures, f.listenFailures, f.conflicts, f.last, f.lost, f.unattributed, f.missed, f.slotsUsed, f.slotsLimit, f.slotsLacking}
}

func (*bindFamily) outcome(s *snapshot.Snapshot) result {
	return result{took: s.Binds.Duration, err: s.Binds.Err}
}

// A failedCall has what the labels of a counter of failed calls say. What a counter has no label
// for is zero.
type failedCall struct {
	netns     string
	port      uint16
	otherPort bool
	protocol  string
	family    string
	errno     string
	reuseAddr string
	cause     string
}

func (c *failedCall) compare(o *failedCall) int {
	return cmp.Or(
		cmp.Compare(c.netns, o.netns),
		cmp.Compare(c.port, o.port),
		compareBool(c.otherPort, o.otherPort),
		cmp.Compare(c.protocol, o.protocol),
		cmp.Compare(c.family, o.family),
		cmp.Compare(c.errno, o.errno),
		cmp.Compare(c.reuseAddr, o.reuseAddr),
		cmp.Compare(c.cause, o.cause),
	)
}

// compareBool puts false first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (c *failedCall) portLabel(ch *sink) string { return askedPort(ch, c.port, c.otherPort) }

// A tally adds up the counts with the same labels.
type tally map[failedCall]uint64

func (t tally) add(c failedCall, n uint64) {
	if n > 0 {
		t[c] += n
	}
}

// take removes a count, which may be 0.
func (t tally) take(c failedCall) uint64 {
	n, counted := t[c]
	if counted {
		delete(t, c)
	}
	return n
}

// sorted are the calls in an order that does not change from one scrape to the next.
func (t tally) sorted() []failedCall {
	return slices.SortedFunc(maps.Keys(t), func(a, b failedCall) int { return a.compare(&b) })
}

func (f *bindFamily) collect(s *snapshot.Snapshot, ch *sink) {
	if s.Binds.Err != nil {
		return
	}
	netns := netnsLabels(s)
	f.collectCalls(s, netns, ch)
	f.collectConflicts(s, netns, ch)
	for _, l := range s.Binds.Data.Latest {
		ch.put(f.last, float64(l.Time.UnixMilli())/1000,
			netns.of(l.Netns), askedPort(ch, l.Port, l.OtherPort), l.Protocol.String(), l.Family.String(), errnoLabel(l.Errno), processLabel(l.Process, &l.Owner), unitLabel(&l.Owner))
	}
	ch.put(f.lost, float64(s.Binds.Data.Stats.Lost))
	ch.put(f.unattributed, float64(s.Binds.Data.Stats.Unattributed))
	ch.put(f.missed, float64(s.Binds.Data.Stats.Missed))
	ch.put(f.slotsUsed, float64(s.Binds.Data.Stats.SlotsUsed))
	ch.put(f.slotsLimit, float64(s.Binds.Data.Stats.SlotsLimit))
	ch.put(f.slotsLacking, float64(s.Binds.Data.Stats.SlotsLacking))
}

func (f *bindFamily) collectCalls(s *snapshot.Snapshot, netns netnsNames, ch *sink) {
	binds, listens := make(tally), make(tally)
	for _, c := range s.Binds.Data.Counts {
		of := binds
		switch c.Op {
		case bindtrace.OpListen:
			of = listens
		case bindtrace.OpConnect:
			continue
		}
		of.add(failedCall{
			netns: netns.of(c.Netns), port: c.Port, otherPort: c.OtherPort,
			protocol: c.Protocol.String(), family: c.Family.String(), errno: errnoLabel(c.Errno),
		}, c.N)
	}
	put := func(m *Metric, c *failedCall, n uint64) {
		ch.put(m, float64(n), c.netns, c.portLabel(ch), c.protocol, c.family, c.errno)
	}
	for c := range expectedFailures(s) {
		put(f.failures, &c, binds.take(c))
	}
	for _, c := range binds.sorted() {
		put(f.failures, &c, binds[c])
	}
	for _, c := range listens.sorted() {
		put(f.listenFailures, &c, listens[c])
	}
}

func (f *bindFamily) collectConflicts(s *snapshot.Snapshot, netns netnsNames, ch *sink) {
	conflicts := make(tally)
	for _, c := range s.Binds.Data.Conflicts {
		conflicts.add(failedCall{
			netns: netns.of(c.Netns), port: c.Port, otherPort: c.OtherPort,
			protocol: c.Protocol.String(), family: c.Family.String(), reuseAddr: strconv.FormatBool(c.ReuseAddr), cause: c.Cause.String(),
		}, c.N)
	}
	for _, c := range conflicts.sorted() {
		ch.put(f.conflicts, float64(conflicts[c]), c.netns, c.portLabel(ch), c.protocol, c.family, c.reuseAddr, c.cause)
	}
}

// expectedFailures are the failures of watched ports that have series before the first one, so that
// it shows as an increase.
func expectedFailures(s *snapshot.Snapshot) iter.Seq[failedCall] {
	return func(yield func(failedCall) bool) {
		for ns := range s.Namespaces() {
			one := failedCall{netns: ns.Label(), errno: errnoLabel(syscall.EADDRINUSE)}
			for protocol, set := range watched(ns) {
				one.protocol = protocol.String()
				for _, p := range set.Ports {
					one.port = p.Number
					seen := seenOn(ns, protocol, p.Number)
					for _, family := range sock.Families() {
						one.family = family.String()
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

func askedPort(ch *sink, port uint16, other bool) string {
	if other {
		return "other"
	}
	return ch.port(port)
}

// errnoLabel is the symbolic name, or other: for errors that the tracer does not tell apart, and
// for those that only cgroup programs or kernel code return.
func errnoLabel(errno syscall.Errno) string {
	if name := failures.ErrnoName(errno); name != "" {
		return name
	}
	return "other"
}
