package collector

import (
	"errors"
	"time"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/netlinkdiag"
)

// featureFamily: what works on this host, and if not, why.
type featureFamily struct {
	available *Metric
}

func newFeatureFamily() *featureFamily {
	return &featureFamily{
		available: gauge("feature_available",
			"1 where the feature works on this host, 0 where it does not: reason says what is missing. mode says how it works, where there is more than one way.",
			"the exporter", "feature", "mode", "reason"),
	}
}

func (*featureFamily) name() string { return "" }

func (f *featureFamily) metrics() []*Metric { return []*Metric{f.available} }

func (*featureFamily) outcome(*snapshot.Snapshot) (time.Duration, error) {
	return 0, snapshot.ErrOff
}

func (f *featureFamily) collect(s *snapshot.Snapshot, ch *sink) {
	available, reason := s.Watch.Err == nil, ""
	var lacking *netlinkdiag.ModuleError
	switch {
	case errors.As(s.Watch.Err, &lacking):
		reason = "no module " + lacking.Module
	case !available:
		return // failed or late, which says nothing of the host
	}
	ch.put(f.available, boolValue(available), "sock_diag", "", reason)
}
