// Package metric defines metric families ([Desc]) and writes their samples as text ([Sink]). It
// knows nothing of what the metrics are about.
package metric

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// A Desc defines one metric family.
type Desc struct {
	Name   string
	Type   prometheus.ValueType
	Labels []string
	Help   string // one short sentence; internal/metricsdoc has the rest

	order []int // indices of Labels, sorted by name
}

// Prefix is that of all metrics.
const Prefix = "sockstate_"

// Gauge defines a gauge. The name goes without the Prefix.
func Gauge(name, help string, labels ...string) *Desc {
	return newDesc(name, prometheus.GaugeValue, help, labels)
}

// Counter defines a counter. The name goes without the Prefix.
func Counter(name, help string, labels ...string) *Desc {
	return newDesc(name, prometheus.CounterValue, help, labels)
}

func newDesc(name string, typ prometheus.ValueType, help string, labels []string) *Desc {
	m := &Desc{Name: Prefix + name, Type: typ, Labels: labels, Help: help}
	for i := range labels {
		m.order = append(m.order, i)
	}
	slices.SortFunc(m.order, func(i, j int) int { return strings.Compare(labels[i], labels[j]) })
	return m
}
