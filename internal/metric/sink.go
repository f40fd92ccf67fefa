package metric

import (
	"bytes"
	"io"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// A Sink takes the samples of a scrape, and writes each as text at once. A registry would check and
// sort them, and encode them afterwards. That is not needed: all definitions are valid, and each
// combination of labels is put once.
type Sink struct {
	openMetrics bool
	series      int // Put so far
	families    map[*Desc]*family

	ports     map[uint16]string
	addresses map[netip.Addr]string
}

// A family is the text of a Desc's samples.
type family struct{ samples []byte }

// NewSink returns an empty Sink for text.
func NewSink() *Sink {
	return &Sink{
		families: make(map[*Desc]*family),
		ports:    make(map[uint16]string), addresses: make(map[netip.Addr]string),
	}
}

// Reset empties the Sink for the next scrape, and keeps its memory.
func (s *Sink) Reset(openMetrics bool) {
	s.openMetrics, s.series = openMetrics, 0
	for _, f := range s.families {
		f.samples = f.samples[:0]
	}
	clear(s.ports)
	clear(s.addresses)
}

// Size is the memory that the text takes.
func (s *Sink) Size() (n int) {
	for _, f := range s.families {
		n += cap(f.samples)
	}
	return n
}

// Series is how many samples were put so far.
func (s *Sink) Series() int { return s.series }

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
	f := s.families[m]
	if f == nil {
		f = new(family)
		s.families[m] = f
	}
	b := f.samples
	b = append(b, m.Name...)
	next := byte('{')
	for _, i := range m.order {
		if values[i] == "" {
			continue
		}
		b = append(b, next)
		b = append(b, m.Labels[i]...)
		b = append(b, '=', '"')
		b = appendEscaped(b, values[i])
		b = append(b, '"')
		next = ','
	}
	if next == ',' {
		b = append(b, '}')
	}
	b = append(b, ' ')
	b = appendValue(b, value, s.openMetrics)
	b = append(b, '\n')
	f.samples = b
}

// appendEscaped appends a label value with the three escapes of both formats.
func appendEscaped(b []byte, value string) []byte {
	copied := 0
	for i := range len(value) {
		switch value[i] {
		case '\\', '"':
			b = append(b, value[copied:i]...)
			b = append(b, '\\', value[i])
		case '\n':
			b = append(b, value[copied:i]...)
			b = append(b, '\\', 'n')
		default:
			continue
		}
		copied = i + 1
	}
	return append(b, value[copied:]...)
}

// appendValue appends a number as Go writes it. OpenMetrics wants a dot or an exponent in it.
func appendValue(b []byte, value float64, openMetrics bool) []byte {
	start := len(b)
	if whole := int64(value); float64(whole) == value && -1e6 < value && value < 1e6 {
		b = strconv.AppendInt(b, whole, 10) // the same, and faster
	} else {
		b = strconv.AppendFloat(b, value, 'g', -1, 64)
	}
	if openMetrics && !math.IsNaN(value) && !math.IsInf(value, 0) && !bytes.ContainsAny(b[start:], ".e") {
		b = append(b, '.', '0')
	}
	return b
}

// Write writes all families that have samples, sorted by name.
func (s *Sink) Write(w io.Writer) error {
	metrics := slices.SortedFunc(maps.Keys(s.families), func(a, b *Desc) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range metrics {
		samples := s.families[m].samples
		if len(samples) == 0 {
			continue
		}
		if _, err := io.WriteString(w, m.head(s.openMetrics)); err != nil {
			return err
		}
		if _, err := w.Write(samples); err != nil {
			return err
		}
	}
	return nil
}

// head are the lines before the samples. The name of a counter ends with _total, which OpenMetrics
// leaves out here. No Help needs an escape.
func (m *Desc) head(openMetrics bool) string {
	name, typ := m.Name, "gauge"
	if m.Type == prometheus.CounterValue {
		typ = "counter"
		if openMetrics {
			name = strings.TrimSuffix(name, "_total")
		}
	}
	return "# HELP " + name + " " + m.Help + "\n# TYPE " + name + " " + typ + "\n"
}

// Parsed are the families for a format that is not text.
func (s *Sink) Parsed() ([]*dto.MetricFamily, error) {
	var text bytes.Buffer
	if err := s.Write(&text); err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&text)
	return slices.Collect(maps.Values(families)), err
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
