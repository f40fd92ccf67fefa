package collector

import (
	"strconv"
	"syscall"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/snapshot"
)

// bindFamily: the calls of bind() and listen() that failed on this host.
type bindFamily struct {
	failures       *Metric
	listenFailures *Metric
	conflicts      *Metric
	last           *Metric
	lost           *Metric
	unattributed   *Metric
	missed         *Metric
}

func newBindFamily() *bindFamily {
	call := []string{"netns", "port", "protocol", "family", "errno"}
	return &bindFamily{
		failures: counter("bind_failures_total",
			"Failed calls of bind(), by the port that was asked for: a watched one, 0 for any, or other. netns is empty for the exporter's own network namespace, else other.",
			"eBPF, __sys_bind", call...),
		listenFailures: counter("listen_failures_total",
			"Calls of listen() that failed with EADDRINUSE: of two sockets bound with SO_REUSEADDR the second one listened.",
			"eBPF, __sys_listen", call...),
		conflicts: counter("bind_conflicts_total",
			"Calls of bind() that failed with EADDRINUSE, by what was in the way: of several the first of listener, connection (live or closing), bound (neither listening nor connected), time_wait. unknown: gone when the exporter looked, not visible, or not tcp or mptcp in its own network namespace. reuseaddr is of the socket that failed. Those in bind_events_lost_total are missing.",
			"eBPF, sock_diag and the rules of inet_csk_get_port", "netns", "port", "protocol", "family", "reuseaddr", "cause"),
		last: gauge("bind_last_failure_timestamp_seconds",
			"Seconds since 1970 at the latest failed bind() to that port; process is the name of the thread that called it.",
			"eBPF, __sys_bind", append(call[:len(call):len(call)], "process")...),
		lost: counter("bind_events_lost_total",
			"Failed calls that were counted, but whose details were lost because they came faster than the exporter reads.",
			"eBPF ring buffer"),
		unattributed: counter("bind_failures_unattributed_total",
			"Failed calls that were seen but not counted, since their socket was gone when the call returned.",
			"eBPF"),
		missed: counter("bind_tracer_missed_runs_total",
			"Runs of the tracer that the kernel skipped, for calls that failed or not. While it rises, failures may be missing.",
			"eBPF, recursion_misses"),
	}
}

func (*bindFamily) name() string { return "bind" }

func (f *bindFamily) metrics() []*Metric {
	return []*Metric{f.failures, f.listenFailures, f.conflicts, f.last, f.lost, f.unattributed, f.missed}
}

func (*bindFamily) outcome(s *snapshot.Snapshot) (time.Duration, error) {
	return s.Binds.Duration, s.Binds.Err
}

// A bindSeries is the labels of a failure counter, in their order.
type bindSeries struct{ netns, port, protocol, family, errno string }

func (s bindSeries) values() []string {
	return []string{s.netns, s.port, s.protocol, s.family, s.errno}
}

// A conflictSeries is the labels of the counter of conflicts, in their order.
type conflictSeries struct{ netns, port, protocol, family, reuseAddr, cause string }

func (s conflictSeries) values() []string {
	return []string{s.netns, s.port, s.protocol, s.family, s.reuseAddr, s.cause}
}

// bindCounts add up counts that come under the same labels, and keep their order.
type bindCounts[S interface {
	comparable
	values() []string
}] struct {
	series []S
	totals map[S]uint64
}

func (c *bindCounts[S]) add(s S, n uint64) {
	if c.totals == nil {
		c.totals = make(map[S]uint64)
	}
	if _, ok := c.totals[s]; !ok {
		c.series = append(c.series, s)
	}
	c.totals[s] += n
}

func (c *bindCounts[S]) put(ch *sink, m *Metric) {
	for _, s := range c.series {
		ch.put(m, float64(c.totals[s]), s.values()...)
	}
}

func (f *bindFamily) collect(s *snapshot.Snapshot, ch *sink) {
	if s.Binds.Err != nil {
		return
	}
	binds, listens := zeros(s)
	for _, c := range s.Binds.Data.Counts {
		of := binds
		if c.Op == bindtrace.OpListen {
			of = listens
		}
		of.add(bindSeries{
			netns:    netnsLabel(c.Netns == s.Binds.Data.OwnNetns),
			port:     askedPort(c.Port, c.OtherPort),
			protocol: c.Protocol.String(),
			family:   c.Family.String(),
			errno:    errnoLabel(c.Errno),
		}, c.N)
	}
	binds.put(ch, f.failures)
	listens.put(ch, f.listenFailures)
	f.putConflicts(s, ch)
	for _, l := range s.Binds.Data.Latest {
		ch.put(f.last, float64(l.Time.UnixMilli())/1000,
			netnsLabel(l.OwnNetns), askedPort(l.Port, l.OtherPort), l.Protocol.String(), l.Family.String(), errnoLabel(l.Errno), clean(l.Process))
	}
	ch.put(f.lost, float64(s.Binds.Data.Stats.Lost))
	ch.put(f.unattributed, float64(s.Binds.Data.Stats.Unattributed))
	ch.put(f.missed, float64(s.Binds.Data.Stats.Missed))
}

func (f *bindFamily) putConflicts(s *snapshot.Snapshot, ch *sink) {
	conflicts := zeroConflicts(s)
	for _, c := range s.Binds.Data.Conflicts {
		conflicts.add(conflictSeries{
			netns:     netnsLabel(c.OwnNetns),
			port:      askedPort(c.Port, c.OtherPort),
			protocol:  c.Protocol.String(),
			family:    c.Family.String(),
			reuseAddr: strconv.FormatBool(c.ReuseAddr),
			cause:     c.Cause.String(),
		}, c.N)
	}
	conflicts.put(ch, f.conflicts)
}

// zeros are the series of watched ports that are there before the first failure, so that it
// is an increase.
func zeros(s *snapshot.Snapshot) (binds, listens *bindCounts[bindSeries]) {
	binds, listens = new(bindCounts[bindSeries]), new(bindCounts[bindSeries])
	for _, p := range s.Watch.Data.Ports {
		for _, family := range bindFamilies() {
			series := bindSeries{port: strconv.Itoa(int(p.Number)), protocol: "tcp", family: family}
			for _, errno := range []syscall.Errno{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EACCES} {
				series.errno = errnoLabel(errno)
				binds.add(series, 0)
			}
			series.errno = errnoLabel(syscall.EADDRINUSE)
			listens.add(series, 0)
		}
	}
	return binds, listens
}

func zeroConflicts(s *snapshot.Snapshot) *bindCounts[conflictSeries] {
	conflicts := new(bindCounts[conflictSeries])
	for _, p := range s.Watch.Data.Ports {
		for _, family := range bindFamilies() {
			for _, reuseAddr := range []string{"false", "true"} {
				for _, cause := range snapshot.Causes() {
					conflicts.add(conflictSeries{
						port: strconv.Itoa(int(p.Number)), protocol: "tcp", family: family, reuseAddr: reuseAddr, cause: cause.String(),
					}, 0)
				}
			}
		}
	}
	return conflicts
}

func bindFamilies() []string {
	return []string{bindtrace.FamilyIPv4.String(), bindtrace.FamilyIPv6.String()}
}

func netnsLabel(own bool) string {
	if own {
		return ""
	}
	return "other"
}

func askedPort(port uint16, other bool) string {
	if other {
		return "other"
	}
	return strconv.Itoa(int(port))
}

// errnoLabel is the symbolic name. Errors that are not told apart, and some that only cgroup
// programs and the kernel's inside return, have none.
func errnoLabel(errno syscall.Errno) string {
	if name := snapshot.ErrnoName(errno); name != "" {
		return name
	}
	return "other"
}
