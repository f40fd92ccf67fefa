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
}

func gauge(name, help string, labels ...string) *Metric {
	return &Metric{Name: "sockstate_" + name, Type: prometheus.GaugeValue, Labels: labels, Help: help}
}

func counter(name, help string, labels ...string) *Metric {
	return &Metric{Name: "sockstate_" + name, Type: prometheus.CounterValue, Labels: labels, Help: help}
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
}

// A family has the samples of a Metric.
type family struct {
	dto   *dto.MetricFamily
	order []int // indices of the Metric's labels, sorted by name
	last  []*dto.LabelPair
}

type pair struct{ name, value string }

func newSink() *sink {
	return &sink{families: make(map[*Metric]*family), pairs: make(map[pair]*dto.LabelPair)}
}

// put adds a sample. values are of m.Labels. The caller puts each combination once.
func (s *sink) put(m *Metric, value float64, values ...string) {
	f := s.family(m)
	sample := &s.metrics.take(1)[0]
	sample.Label = s.labels.take(len(f.order))
	for i, j := range f.order {
		// Most values are the same as in the sample before.
		if f.last[i] == nil || *f.last[i].Value != values[j] {
			f.last[i] = s.pair(m.Labels[j], values[j])
		}
		sample.Label[i] = f.last[i]
	}
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
	f := &family{dto: &dto.MetricFamily{Name: &m.Name, Help: &m.Help, Type: &typ}}
	for i := range m.Labels {
		f.order = append(f.order, i)
	}
	slices.SortFunc(f.order, func(i, j int) int { return strings.Compare(m.Labels[i], m.Labels[j]) })
	f.last = make([]*dto.LabelPair, len(f.order))
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
