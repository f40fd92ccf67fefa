package process_test

import (
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"sockstate_exporter/internal/process"
)

// TestSameAsClientGolang collects the metrics with both collectors, one right after the other.
func TestSameAsClientGolang(t *testing.T) {
	c, err := process.New()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := gather(t, c), gather(t, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// What two moments of one process may differ by.
	slack := map[string]float64{
		"process_cpu_seconds_total":        1, // theirs counts ticks
		"process_open_fds":                 20,
		"process_virtual_memory_bytes":     1 << 30,
		"process_resident_memory_bytes":    64 << 20,
		"process_start_time_seconds":       0,
		"process_max_fds":                  0,
		"process_virtual_memory_max_bytes": 0,
	}
	for name, theirs := range theirs {
		if strings.HasPrefix(name, "process_network_") {
			if ours[name] != nil {
				t.Errorf("%s is there: it is no property of the process", name)
			}
			continue
		}
		of := ours[name]
		if of == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if of.GetHelp() != theirs.GetHelp() || of.GetType() != theirs.GetType() {
			t.Errorf("%s: %v %q, want %v %q", name, of.GetType(), of.GetHelp(), theirs.GetType(), theirs.GetHelp())
		}
		got, want := value(of), value(theirs)
		if by, known := slack[name]; !known || math.Abs(got-want) > by || got <= 0 {
			t.Errorf("%s = %v, want %v, and more than 0", name, got, want)
		}
	}
	if len(ours) != len(slack) {
		t.Errorf("%d metrics, want %d", len(ours), len(slack))
	}
}

func gather(t *testing.T, c prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	by := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		by[f.GetName()] = f
	}
	return by
}

func value(f *dto.MetricFamily) float64 {
	m := f.GetMetric()[0]
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

func BenchmarkCollect(b *testing.B) {
	c, err := process.New()
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]prometheus.Collector{
		"ours":          c,
		"client_golang": collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		b.Run(name, func(b *testing.B) {
			metrics := make(chan prometheus.Metric, 16)
			for b.Loop() {
				c.Collect(metrics)
				for len(metrics) > 0 {
					<-metrics
				}
			}
		})
	}
}
