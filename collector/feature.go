package collector

import (
	"errors"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// featureFamily: what works on this host, and if not, why.
type featureFamily struct {
	available *Metric
	features  func() []sock.Feature
}

func newFeatureFamily(features func() []sock.Feature) *featureFamily {
	return &featureFamily{
		features: features,
		available: gauge("feature_available",
			"1 where the feature works on this host, 0 where it does not: reason says what is missing. mode says how it works, where there is more than one way; a reason beside a mode says what is missing for the better one.",
			"the exporter", "feature", "mode", "reason"),
	}
}

func (*featureFamily) name() string { return "" }

func (f *featureFamily) metrics() []*Metric { return []*Metric{f.available} }

func (*featureFamily) outcome(*snapshot.Snapshot) result {
	return result{err: snapshot.ErrOff}
}

func (f *featureFamily) collect(s *snapshot.Snapshot, ch *sink) {
	if f.features != nil {
		for _, x := range f.features() {
			ch.put(f.available, boolValue(x.Works), x.Name, x.Mode, x.Reason)
		}
	}
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
