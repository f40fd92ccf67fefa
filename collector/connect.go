package collector

import (
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/calls"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
)

// connectFamily shows the calls of connect() that found no local port.
type connectFamily struct{ failures *metric.Desc }

func newConnectFamily() *connectFamily {
	return &connectFamily{failures: metric.Counter("connect_failures_total",
		"connect() calls that failed because no local port was free.", "netns", "family", "errno")}
}

func (*connectFamily) name() string { return "connect" }

func (f *connectFamily) metrics() []*metric.Desc { return []*metric.Desc{f.failures} }

// outcome is off if connect() cannot be traced. A feature says so.
func (*connectFamily) outcome(s *snapshot.Snapshot) result {
	if s.Binds.Err == nil && !s.Binds.Data.Connects {
		return result{err: snapshot.ErrOff}
	}
	return result{took: s.Binds.Duration, err: s.Binds.Err}
}

func (f *connectFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	if s.Binds.Err != nil || !s.Binds.Data.Connects {
		return
	}
	netns := netnsLabels(s)
	failed := make(calls.Tally)
	for _, c := range s.Binds.Data.Counts {
		if c.Op == bindtrace.OpConnect && !c.OtherPort {
			failed.Add(calls.Call{Netns: netns.of(c.Netns), Family: c.Family.String(), Errno: errnoLabel(c.Errno)}, c.N)
		}
	}
	for _, c := range failed.Sorted() {
		ch.Put(f.failures, float64(failed[c]), c.Netns, c.Family, c.Errno)
	}
}
