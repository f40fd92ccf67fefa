package collector

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"syscall"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
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
			"Slots of the tracer in use: one for each watched port, and two for each network namespace."),
		slotsLimit: gauge("bind_tracer_slots_limit",
			"Slots that the tracer has."),
		slotsLacking: gauge("bind_tracer_slots_lacking",
			"Watched ports without a slot, whose failed calls count as port=\"other\"."),
	}
}

func (*bindFamily) name() string { return "bind" }

func (f *bindFamily) metrics() []*Metric {
	return []*Metric{f.failures, f.listenFailures, f.conflicts, f.last, f.lost, f.unattributed, f.missed, f.slotsUsed, f.slotsLimit, f.slotsLacking}
}

func (*bindFamily) outcome(s *snapshot.Snapshot) result {
	return result{took: s.Binds.Duration, err: s.Binds.Err}
}

// A series has the label values of a counter, in the order of its labels. The rest is empty.
type series [6]string

// A tally adds up the counts with the same labels.
type tally map[series]uint64

// put adds the series that are always there, and then all others that were counted.
func (t tally) put(ch *sink, m *Metric, always iter.Seq[series]) {
	for s := range always {
		n, counted := t[s]
		if counted {
			delete(t, s)
		}
		ch.put(m, float64(n), s[:len(m.Labels)]...)
	}
	others := slices.SortedFunc(maps.Keys(t), func(a, b series) int { return slices.Compare(a[:], b[:]) })
	for _, s := range others {
		ch.put(m, float64(t[s]), s[:len(m.Labels)]...)
	}
}

func (f *bindFamily) collect(s *snapshot.Snapshot, ch *sink) {
	if s.Binds.Err != nil {
		return
	}
	netns := netnsLabels(s)
	binds, listens, conflicts := make(tally), make(tally), make(tally)
	for _, c := range s.Binds.Data.Counts {
		of := binds
		switch c.Op {
		case bindtrace.OpListen:
			of = listens
		case bindtrace.OpConnect:
			continue
		}
		of[series{
			netns.of(c.Netns),
			askedPort(c.Port, c.OtherPort), c.Protocol.String(), c.Family.String(), errnoLabel(c.Errno),
		}] += c.N
	}
	for _, c := range s.Binds.Data.Conflicts {
		conflicts[series{
			netns.of(c.Netns),
			askedPort(c.Port, c.OtherPort), c.Protocol.String(), c.Family.String(), strconv.FormatBool(c.ReuseAddr), c.Cause.String(),
		}] += c.N
	}
	binds.put(ch, f.failures, eachPort(s, errnoLabels(syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EACCES), []string{""}, sock.TCP, sock.UDP))
	listens.put(ch, f.listenFailures, eachPort(s, errnoLabels(syscall.EADDRINUSE), []string{""}, sock.TCP))
	conflicts.put(ch, f.conflicts, eachPort(s, []string{"false", "true"}, causeLabels(), sock.TCP))
	for _, l := range s.Binds.Data.Latest {
		ch.put(f.last, float64(l.Time.UnixMilli())/1000,
			netns.of(l.Netns), askedPort(l.Port, l.OtherPort), l.Protocol.String(), l.Family.String(), errnoLabel(l.Errno), processLabel(l.Process, &l.Owner), unitLabel(&l.Owner))
	}
	ch.put(f.lost, float64(s.Binds.Data.Stats.Lost))
	ch.put(f.unattributed, float64(s.Binds.Data.Stats.Unattributed))
	ch.put(f.missed, float64(s.Binds.Data.Stats.Missed))
	ch.put(f.slotsUsed, float64(s.Binds.Data.Stats.SlotsUsed))
	ch.put(f.slotsLimit, float64(s.Binds.Data.Stats.SlotsLimit))
	ch.put(f.slotsLacking, float64(s.Binds.Data.Stats.SlotsLacking))
}

// eachPort are the series of watched ports that exist before the first failure, so that it
// shows as an increase: both families, with each value of the last two labels.
func eachPort(s *snapshot.Snapshot, last, veryLast []string, protocols ...sock.Protocol) iter.Seq[series] {
	return func(yield func(series) bool) {
		for ns := range s.Namespaces() {
			one := series{0: ns.Label()}
			for protocol, set := range watched(ns) {
				if !slices.Contains(protocols, protocol) {
					continue
				}
				one[2] = protocol.String()
				for _, p := range set.Ports {
					one[1] = strconv.Itoa(int(p.Number))
					if !eachFamily(one, last, veryLast, yield) {
						return
					}
				}
			}
		}
	}
}

func eachFamily(one series, last, veryLast []string, yield func(series) bool) bool {
	for _, one[3] = range []string{bindtrace.FamilyIPv4.String(), bindtrace.FamilyIPv6.String()} {
		for _, one[4] = range last {
			for _, one[5] = range veryLast {
				if !yield(one) {
					return false
				}
			}
		}
	}
	return true
}

func errnoLabels(errnos ...syscall.Errno) []string {
	out := make([]string, len(errnos))
	for i, errno := range errnos {
		out[i] = errnoLabel(errno)
	}
	return out
}

func causeLabels() []string {
	var out []string
	for _, cause := range verdict.Causes() {
		out = append(out, cause.String())
	}
	return out
}

func askedPort(port uint16, other bool) string {
	if other {
		return "other"
	}
	return strconv.Itoa(int(port))
}

// errnoLabel is the symbolic name, or other: for errors that the tracer does not tell apart, and
// for those that only cgroup programs or kernel code return.
func errnoLabel(errno syscall.Errno) string {
	if name := failures.ErrnoName(errno); name != "" {
		return name
	}
	return "other"
}
