package collector

import (
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/unixmetrics"
)

// unixFamily shows Unix sockets. They belong to no port.
type unixFamily struct{ *unixmetrics.Family }

func (unixFamily) name() string { return "unix" }

func (f unixFamily) metrics() []*metric.Desc { return f.Metrics() }

func (unixFamily) outcome(s *snapshot.Snapshot) result {
	switch {
	case s.Unix.Watch != nil:
		return result{took: s.Unix.Watch.Took, err: s.Unix.Watch.Err}
	case s.Unix.Failures != nil:
		return result{}
	default:
		return result{err: snapshot.ErrOff}
	}
}

func (f unixFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	f.Collect(&s.Unix, netnsLabels(s).of, ch)
}
