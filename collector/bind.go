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
	return []*Metric{f.failures, f.listenFailures, f.last, f.lost, f.unattributed, f.missed}
}

func (*bindFamily) outcome(s *snapshot.Snapshot) (time.Duration, error) {
	return s.Binds.Duration, s.Binds.Err
}

// A bindSeries is the labels of a failure counter, in their order.
type bindSeries struct{ netns, port, protocol, family, errno string }

// bindCounts add up counts that come under the same labels, and keep their order.
type bindCounts struct {
	series []bindSeries
	totals map[bindSeries]uint64
}

func (c *bindCounts) add(s bindSeries, n uint64) {
	if _, ok := c.totals[s]; !ok {
		c.series = append(c.series, s)
	}
	c.totals[s] += n
}

func (c *bindCounts) put(ch *sink, m *Metric) {
	for _, s := range c.series {
		ch.put(m, float64(c.totals[s]), s.netns, s.port, s.protocol, s.family, s.errno)
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
	for _, l := range s.Binds.Data.Latest {
		ch.put(f.last, float64(l.Time.UnixMilli())/1000,
			netnsLabel(l.OwnNetns), askedPort(l.Port, l.OtherPort), l.Protocol.String(), l.Family.String(), errnoLabel(l.Errno), clean(l.Process))
	}
	ch.put(f.lost, float64(s.Binds.Data.Stats.Lost))
	ch.put(f.unattributed, float64(s.Binds.Data.Stats.Unattributed))
	ch.put(f.missed, float64(s.Binds.Data.Stats.Missed))
}

// zeros are the series of watched ports that are there before the first failure, so that it
// is an increase.
func zeros(s *snapshot.Snapshot) (binds, listens *bindCounts) {
	binds, listens = &bindCounts{totals: make(map[bindSeries]uint64)}, &bindCounts{totals: make(map[bindSeries]uint64)}
	for _, p := range s.Watch.Data.Ports {
		for _, family := range []bindtrace.Family{bindtrace.FamilyIPv4, bindtrace.FamilyIPv6} {
			series := bindSeries{port: strconv.Itoa(int(p.Number)), protocol: "tcp", family: family.String()}
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
