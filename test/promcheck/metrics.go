package promcheck

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	dto "github.com/prometheus/client_model/go"

	"sockstate_exporter/collector"
	processmetrics "sockstate_exporter/internal/process"
	"sockstate_exporter/internal/snapshot"
)

// targetLabels are what Prometheus adds to everything that it scrapes.
var targetLabels = []string{"job", "instance"}

// A metric is what may be said of one name.
type metric struct {
	counter bool
	labels  labelSet
}

// Metrics are the metrics that queries may name.
type Metrics struct {
	byName map[string]metric
}

// Known are the metrics of the exporter, of client_golang in it, and of Prometheus itself.
func Known() (*Metrics, error) {
	m := &Metrics{byName: make(map[string]metric)}
	for _, x := range collector.New(nil, nil, nil).Metrics() {
		m.add(x.Name, x.Type == prometheus.CounterValue, x.Labels...)
	}
	families, err := process()
	if err != nil {
		return nil, err
	}
	for _, f := range families {
		m.addFamily(f)
	}
	m.addPrometheus()
	return m, nil
}

// process are the exporter's metrics of itself, registered as main does. A scrape comes first,
// as promhttp knows only then what it may count.
func process() ([]*dto.MetricFamily, error) {
	own, err := processmetrics.New()
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(versioncollector.NewCollector("sockstate_exporter"), collectors.NewGoCollector(), own)
	logger := slog.New(slog.DiscardHandler)
	take := func(context.Context) snapshot.Snapshot { return snapshot.Snapshot{} }
	handler := collector.New(take, nil, logger).Handler(registry, logger)
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", http.NoBody))
	if recorder.Code != http.StatusOK {
		return nil, fmt.Errorf("scrape the exporter's own metrics: status %d", recorder.Code)
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gather the exporter's own metrics: %w", err)
	}
	return families, nil
}

func (m *Metrics) add(name string, counter bool, labels ...string) {
	m.byName[name] = metric{counter: counter, labels: newLabelSet(slices.Concat(labels, targetLabels)...)}
}

func (m *Metrics) addFamily(f *dto.MetricFamily) {
	var labels []string
	for _, sample := range f.GetMetric() {
		for _, pair := range sample.GetLabel() {
			labels = append(labels, pair.GetName())
		}
	}
	name := f.GetName()
	switch f.GetType() {
	case dto.MetricType_SUMMARY:
		m.add(name, false, append(labels, "quantile")...)
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		m.add(name+"_bucket", true, append(labels, "le")...)
	default:
		m.add(name, f.GetType() == dto.MetricType_COUNTER, labels...)
		return
	}
	m.add(name+"_sum", true, labels...)
	m.add(name+"_count", true, labels...)
}

// addPrometheus adds what Prometheus makes for each target and each alert.
func (m *Metrics) addPrometheus() {
	for _, name := range []string{
		"up",
		"scrape_duration_seconds",
		"scrape_samples_post_metric_relabeling",
		"scrape_samples_scraped",
		"scrape_series_added",
	} {
		m.add(name, false)
	}
	for _, name := range []string{"ALERTS", "ALERTS_FOR_STATE"} {
		m.byName[name] = metric{labels: anyLabels()}
	}
}

// find is what is known of a name.
func (m *Metrics) find(name string) (metric, bool) {
	if x, ok := m.byName[name]; ok {
		return x, true
	}
	// Prometheus' metrics of itself, of which there are hundreds.
	if strings.HasPrefix(name, "prometheus_") {
		return metric{counter: strings.HasSuffix(name, "_total"), labels: anyLabels()}, true
	}
	return metric{}, false
}

// Has says whether a metric can have a label.
func (m *Metrics) Has(name, label string) bool {
	x, ok := m.find(name)
	return ok && x.labels.has(label)
}

// A labelSet is labels that a series may have; any says that nobody knows.
type labelSet struct {
	any   bool
	names map[string]bool
}

func anyLabels() labelSet { return labelSet{any: true} }

func newLabelSet(names ...string) labelSet {
	s := labelSet{names: make(map[string]bool, len(names))}
	for _, n := range names {
		s.names[n] = true
	}
	return s
}

func (s labelSet) has(name string) bool { return s.any || s.names[name] }

func (s labelSet) union(t labelSet) labelSet {
	u := newLabelSet(append(s.list(), t.list()...)...)
	u.any = s.any || t.any
	return u
}

func (s labelSet) with(names ...string) labelSet { return s.union(newLabelSet(names...)) }

func (s labelSet) without(names ...string) labelSet {
	u := newLabelSet(s.list()...)
	u.any = s.any
	for _, n := range names {
		delete(u.names, n)
	}
	return u
}

func (s labelSet) list() []string {
	list := make([]string, 0, len(s.names))
	for n := range s.names {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

func (s labelSet) String() string {
	if s.any {
		return "any"
	}
	return strings.Join(s.list(), ", ")
}
