package collector

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A Metric defines one metric family.
type Metric struct {
	Name   string
	Type   prometheus.ValueType
	Labels []string
	Help   string // one short sentence; internal/metricsdoc has the rest

	order []int // indices of Labels, sorted by name
}

// prefix of all metrics.
const prefix = "sockstate_"

func gauge(name, help string, labels ...string) *Metric {
	return newMetric(name, prometheus.GaugeValue, help, labels)
}

func counter(name, help string, labels ...string) *Metric {
	return newMetric(name, prometheus.CounterValue, help, labels)
}

func newMetric(name string, typ prometheus.ValueType, help string, labels []string) *Metric {
	m := &Metric{Name: prefix + name, Type: typ, Labels: labels, Help: help}
	for i := range labels {
		m.order = append(m.order, i)
	}
	slices.SortFunc(m.order, func(i, j int) int { return strings.Compare(labels[i], labels[j]) })
	return m
}

// A sink takes the samples of a scrape and builds the families that a prometheus.Registry would
// gather. A registry checks and sorts all metrics, which took most of a scrape on a usual host
// with some thousand series (docs/performance.md); these are valid and sorted as they are
// built. The sink shares equal label pairs, and allocates everything else in slabs.
type sink struct {
	families map[*Metric]*family
	pairs    map[pair]*dto.LabelPair

	metrics  slab[dto.Metric]
	gauges   slab[dto.Gauge]
	counters slab[dto.Counter]
	values   slab[float64]
	labels   slab[*dto.LabelPair]

	series int // put so far
}

// A family has the samples of a Metric.
type family struct {
	dto  *dto.MetricFamily
	last []*dto.LabelPair // by Metric.order
}

type pair struct{ name, value string }

func newSink() *sink {
	return &sink{families: make(map[*Metric]*family), pairs: make(map[pair]*dto.LabelPair)}
}

// put adds a sample. values are of m.Labels. An empty one is the same as no label, and is left out.
// The caller puts each combination once.
func (s *sink) put(m *Metric, value float64, values ...string) {
	s.series++
	f := s.family(m)
	sample := &s.metrics.take(1)[0]
	labels := s.labels.take(len(m.order))[:0]
	for i, j := range m.order {
		if values[j] == "" {
			continue
		}
		// Most values are the same as in the sample before.
		if f.last[i] == nil || *f.last[i].Value != values[j] {
			f.last[i] = s.pair(m.Labels[j], values[j])
		}
		labels = append(labels, f.last[i])
	}
	sample.Label = labels
	number := &s.values.take(1)[0]
	*number = value
	if m.Type == prometheus.CounterValue {
		sample.Counter = &s.counters.take(1)[0]
		sample.Counter.Value = number
	} else {
		sample.Gauge = &s.gauges.take(1)[0]
		sample.Gauge.Value = number
	}
	f.dto.Metric = append(f.dto.Metric, sample)
}

func (s *sink) family(m *Metric) *family {
	if f, ok := s.families[m]; ok {
		return f
	}
	typ := dto.MetricType_GAUGE
	if m.Type == prometheus.CounterValue {
		typ = dto.MetricType_COUNTER
	}
	f := &family{
		dto:  &dto.MetricFamily{Name: &m.Name, Help: &m.Help, Type: &typ},
		last: make([]*dto.LabelPair, len(m.order)),
	}
	s.families[m] = f
	return f
}

// gathered are the families, sorted by name.
func (s *sink) gathered() []*dto.MetricFamily {
	var out []*dto.MetricFamily
	for _, f := range s.families {
		out = append(out, f.dto)
	}
	slices.SortFunc(out, byName)
	return out
}

func byName(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) }

func (s *sink) pair(name, value string) *dto.LabelPair {
	p, ok := s.pairs[pair{name, value}]
	if !ok {
		n, v := name, value // pointers to the parameters would allocate in every call
		p = &dto.LabelPair{Name: &n, Value: &v}
		s.pairs[pair{name, value}] = p
	}
	return p
}

// A slab hands out zero values, and allocates some hundred at once.
type slab[T any] struct{ free []T }

func (s *slab[T]) take(n int) []T {
	if len(s.free) < n {
		s.free = make([]T, max(n, 256))
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
