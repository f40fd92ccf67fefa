package metric

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A Sink takes the samples of a scrape and builds the families that a prometheus.Registry would
// gather. A registry checks and sorts all metrics, which took most of a scrape on a usual host
// with some thousand series (docs/performance.md); these are valid and sorted as they are
// built. The Sink shares equal label pairs, and allocates everything else in slabs.
type Sink struct {
	families map[*Desc]*family
	pairs    map[pair]*dto.LabelPair

	metrics  slab[dto.Metric]
	gauges   slab[dto.Gauge]
	counters slab[dto.Counter]
	values   slab[float64]
	labels   slab[*dto.LabelPair]

	ports     map[uint16]string
	addresses map[netip.Addr]string

	series int // Put so far
}

// A family has the samples of a Desc.
type family struct {
	dto *dto.MetricFamily
	// last are the latest values of each label, by Desc.order: nearly always, a label has one of
	// the few values that it had just before.
	last []latest
}

// latest are pairs with different values. The first is the one of the sample before.
type latest [4]*dto.LabelPair

// find returns the pair with the value, if it is one of the latest, and puts it first.
func (l *latest) find(value string) *dto.LabelPair {
	for i, p := range l {
		if p == nil {
			return nil
		}
		if *p.Value == value {
			copy(l[1:i+1], l[:i])
			l[0] = p
			return p
		}
	}
	return nil
}

func (l *latest) add(p *dto.LabelPair) {
	copy(l[1:], l[:])
	l[0] = p
}

type pair struct{ name, value string }

// NewSink returns a Sink for one scrape.
func NewSink() *Sink {
	return &Sink{
		families: make(map[*Desc]*family), pairs: make(map[pair]*dto.LabelPair),
		ports: make(map[uint16]string), addresses: make(map[netip.Addr]string),
	}
}

// Port is the label of a port. Most collectors ask for it.
func (s *Sink) Port(number uint16) string {
	label, ok := s.ports[number]
	if !ok {
		label = strconv.Itoa(int(number))
		s.ports[number] = label
	}
	return label
}

// Address is the label of an address. Most ports have the same ones.
func (s *Sink) Address(a netip.Addr) string {
	label, ok := s.addresses[a]
	if !ok {
		label = a.String()
		s.addresses[a] = label
	}
	return label
}

// Put adds a sample. values are of m.Labels. An empty one is the same as no label, and is left out.
// The caller puts each combination once.
func (s *Sink) Put(m *Desc, value float64, values ...string) {
	s.series++
	f := s.family(m)
	sample := &s.metrics.take(1)[0]
	labels := s.labels.take(len(m.order))[:0]
	for i, j := range m.order {
		if values[j] == "" {
			continue
		}
		p := f.last[i].find(values[j])
		if p == nil {
			p = s.pair(m.Labels[j], values[j])
			f.last[i].add(p)
		}
		labels = append(labels, p)
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

func (s *Sink) family(m *Desc) *family {
	if f, ok := s.families[m]; ok {
		return f
	}
	typ := dto.MetricType_GAUGE
	if m.Type == prometheus.CounterValue {
		typ = dto.MetricType_COUNTER
	}
	f := &family{
		dto:  &dto.MetricFamily{Name: &m.Name, Help: &m.Help, Type: &typ},
		last: make([]latest, len(m.order)),
	}
	s.families[m] = f
	return f
}

// Series is how many samples were put so far.
func (s *Sink) Series() int { return s.series }

// Families are the families, sorted by name.
func (s *Sink) Families() []*dto.MetricFamily {
	var out []*dto.MetricFamily
	for _, f := range s.families {
		out = append(out, f.dto)
	}
	slices.SortFunc(out, ByName)
	return out
}

// ByName sorts families by name.
func ByName(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) }

func (s *Sink) pair(name, value string) *dto.LabelPair {
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

// SeriesIn counts the series of the families that have the Prefix.
func SeriesIn(families []*dto.MetricFamily) (n int) {
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), Prefix) {
			n += len(f.GetMetric())
		}
	}
	return n
}

// Bool is the value of a gauge that is 0 or 1.
func Bool(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
