package collector

import (
	"syscall"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/snapshot"
)

// connectFamily shows the calls of connect() that found no local port.
type connectFamily struct{ failures *Metric }

func newConnectFamily() *connectFamily {
	return &connectFamily{failures: counter("connect_failures_total",
		"connect() calls that failed because no local port was free.", "netns", "family", "errno")}
}

func (*connectFamily) name() string { return "connect" }

func (f *connectFamily) metrics() []*Metric { return []*Metric{f.failures} }

// outcome is off if connect() cannot be traced. A feature says so.
func (*connectFamily) outcome(s *snapshot.Snapshot) result {
	if s.Binds.Err == nil && !s.Binds.Data.Connects {
		return result{err: snapshot.ErrOff}
	}
	return result{took: s.Binds.Duration, err: s.Binds.Err}
}

func (f *connectFamily) collect(s *snapshot.Snapshot, ch *sink) {
	if s.Binds.Err != nil || !s.Binds.Data.Connects {
		return
	}
	netns := netnsLabels(s)
	failures := make(tally)
	for _, c := range s.Binds.Data.Counts {
		if c.Op == bindtrace.OpConnect && !c.OtherPort {
			failures[series{netns.of(c.Netns), c.Family.String(), errnoLabel(c.Errno)}] += c.N
		}
	}
	failures.put(ch, f.failures, func(yield func(series) bool) {
		for ns := range s.Namespaces() {
			for _, family := range []bindtrace.Family{bindtrace.FamilyIPv4, bindtrace.FamilyIPv6} {
				if !yield(series{ns.Label(), family.String(), errnoLabel(syscall.EADDRNOTAVAIL)}) {
					return
				}
			}
		}
	})
}
