package collector

import (
	"errors"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// featureFamily shows what works on this host, and what is missing for the rest.
type featureFamily struct {
	available *metric.Desc
	features  []sock.Feature
}

func newFeatureFamily(features []sock.Feature) *featureFamily {
	return &featureFamily{
		features: features,
		available: metric.Gauge("feature_available",
			"1 if the feature works on this host, 0 if it does not.", "feature", "mode", "reason"),
	}
}

func (*featureFamily) name() string { return "" }

func (f *featureFamily) metrics() []*metric.Desc { return []*metric.Desc{f.available} }

func (*featureFamily) outcome(*snapshot.Snapshot) result {
	return result{err: snapshot.ErrOff}
}

func (f *featureFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for _, x := range f.features {
		ch.Put(f.available, metric.Bool(x.Works), x.Name, x.Mode, x.Reason)
	}
	available, reason := s.Watch.Err == nil, ""
	var lacking *netlinkdiag.ModuleError
	switch {
	case errors.As(s.Watch.Err, &lacking):
		reason = "no module " + lacking.Module
	case !available:
		return // failed or late: the host may have it
	}
	ch.Put(f.available, metric.Bool(available), "sock_diag", "", reason)
}
