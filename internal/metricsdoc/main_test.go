package main

import (
	"bytes"
	"maps"
	"os"
	"strings"
	"testing"

	"sockstate_exporter/collector"
	"sockstate_exporter/internal/metric"
)

func metrics() []*metric.Desc { return collector.New(nil, nil, nil).Metrics() }

func TestReferenceIsUpToDate(t *testing.T) {
	const path = "../../docs/metrics.md"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := reference(metrics(), notes())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the collectors define: run `make generate`", path)
	}
}

func TestNotesFitTheMetrics(t *testing.T) {
	const metric = "tcp_sockets"
	for _, tt := range []struct {
		name   string
		change func(map[string]note)
		want   string
	}{
		{"metric without a note", func(n map[string]note) { delete(n, metric) }, "sockstate_tcp_sockets has no note"},
		{"note without a metric", func(n map[string]note) { n["gone"] = n[metric] }, `the note "gone" is for no metric`},
		{"no unit", func(n map[string]note) { n[metric] = note{source: "x"} }, "the note of sockstate_tcp_sockets has no unit"},
		{"no source", func(n map[string]note) { n[metric] = note{unit: "x"} }, "the note of sockstate_tcp_sockets has no source"},
		{"half a sentence", func(n map[string]note) { n[metric] = note{unit: "x", source: "x", details: "x"} },
			"the details of sockstate_tcp_sockets do not end with a full stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := maps.Clone(notes())
			tt.change(changed)
			text, err := reference(metrics(), changed)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if text != nil {
				t.Error("wrote a reference beside the error")
			}
		})
	}
}

func TestVerdictsSayWhereTheyAreFromAndWhenTheyAreAbsent(t *testing.T) {
	all := notes()
	for _, name := range []string{"tcp_bind_blockers", "tcp_bind_blocked_seconds", "tcp_restart_blocked_seconds", "tcp_restart_info"} {
		n := all[name]
		if name != "tcp_restart_info" && !strings.Contains(n.source, "inet_csk_get_port") {
			t.Errorf("%s: source %q, want the kernel's rules", name, n.source)
		}
		if n.absent == "" {
			t.Errorf("%s: want when it is absent", name)
		}
	}
}
