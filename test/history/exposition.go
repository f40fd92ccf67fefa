package history

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

// An exposition is one answer.
type exposition struct {
	families map[string]family // by name; that of a counter ends with _total
	samples  map[string]sample // by name and labels
	problems []string
}

type sample struct {
	labels labels.Labels
	value  float64
}

const openMetrics = "application/openmetrics-text"

// parse reads the text format and OpenMetrics.
func parse(contentType string, body []byte) (*exposition, error) {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, fmt.Errorf("content type %q: %w", contentType, err)
	}
	if media != openMetrics {
		// It refuses more than the parser of Prometheus does.
		strict := expfmt.NewTextParser(model.UTF8Validation)
		if _, err := strict.TextToMetricFamilies(bytes.NewReader(body)); err != nil {
			return nil, fmt.Errorf("parse text: %w", err)
		}
	}
	parser, err := textparse.New(body, contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", contentType, err)
	}
	e := &exposition{families: make(map[string]family), samples: make(map[string]sample)}
	help := make(map[string]string)
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return e, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", contentType, err)
		}
		switch entry {
		case textparse.EntryHelp:
			name, text := parser.Help()
			help[string(name)] = string(text)
		case textparse.EntryType:
			name, kind := parser.Type()
			e.addFamily(string(name), family{help[string(name)], kind}, media)
		case textparse.EntrySeries:
			e.addSample(parser)
		}
	}
}

// addFamily takes a family. OpenMetrics names a counter without _total, so a gauge may have the same
// name.
func (e *exposition) addFamily(name string, f family, media string) {
	if media == openMetrics && f.kind == model.MetricTypeCounter {
		name += "_total"
	}
	if _, ok := e.families[name]; ok {
		e.problems = append(e.problems, name+" has TYPE twice")
	}
	e.families[name] = f
}

func (e *exposition) addSample(parser textparse.Parser) {
	var s sample
	parser.Labels(&s.labels)
	_, _, s.value = parser.Series()
	key := s.labels.String()
	if _, ok := e.samples[key]; ok {
		e.problems = append(e.problems, key+" is there twice")
	}
	e.samples[key] = s
}

// isCounter says whether the samples of that name must not fall.
func (e *exposition) isCounter(name string) bool {
	if f, ok := e.families[name]; ok {
		return f.kind == model.MetricTypeCounter
	}
	for _, suffix := range []string{"_count", "_sum", "_bucket"} {
		base, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		switch e.families[base].kind {
		case model.MetricTypeHistogram, model.MetricTypeSummary:
			return true
		}
	}
	return strings.HasSuffix(name, "_total")
}

// places are what is watched, as an exposition says it.
type places struct {
	namespaces map[string]bool
	ports      map[[2]string]bool // by netns and port; netns "other": of any network namespace
}

const other = "other" // a label for what is not watched

func (e *exposition) places() places {
	p := places{namespaces: map[string]bool{"": true, other: true}, ports: make(map[[2]string]bool)}
	for _, s := range e.samples {
		name, netns := s.labels.Get(model.MetricNameLabel), s.labels.Get("netns")
		if strings.HasPrefix(name, "sockstate_netns_") { // failed calls keep their label for a while
			p.namespaces[netns] = true
		}
		if name == "sockstate_watched_port_info" {
			port := s.labels.Get("port")
			p.ports[[2]string{netns, port}] = true
			p.ports[[2]string{other, port}] = true
		}
	}
	return p
}

// has says whether the port and the network namespace of a series are watched.
func (p places) has(series labels.Labels) bool {
	netns, port := series.Get("netns"), series.Get("port")
	switch port {
	case "", "0", other:
		return p.namespaces[netns]
	}
	return p.ports[[2]string{netns, port}]
}
