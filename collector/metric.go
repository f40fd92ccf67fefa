package collector

import (
	"strings"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
)

// A Metric defines one metric family.
type Metric struct {
	Name   string
	Type   prometheus.ValueType
	Labels []string
	Help   string // for the exposition; says the unit, and what is absent when
	Source string // where the kernel, or the exporter, has it from

	desc *prometheus.Desc
}

func gauge(name, help, source string, labels ...string) *Metric {
	return newMetric(prometheus.GaugeValue, name, help, source, labels)
}

func counter(name, help, source string, labels ...string) *Metric {
	return newMetric(prometheus.CounterValue, name, help, source, labels)
}

func newMetric(typ prometheus.ValueType, name, help, source string, labels []string) *Metric {
	name = "sockstate_" + name
	return &Metric{
		Name: name, Type: typ, Labels: labels, Help: help, Source: source,
		desc: prometheus.NewDesc(name, help+" ("+source+")", labels, nil),
	}
}

// A sink takes the samples of a scrape.
type sink chan<- prometheus.Metric

func (ch sink) put(m *Metric, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(m.desc, m.Type, value, labels...)
}

// maxLabel bounds a label value that comes from outside the exporter, in runes.
const maxLabel = 64

// clean makes a label value of a name that the kernel hardly restricts: valid, printable
// UTF-8 of bounded length, whatever bytes it was.
func clean(name string) string {
	var b strings.Builder
	n := 0
	for _, r := range name { // an invalid byte comes as U+FFFD
		if n++; n > maxLabel {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
