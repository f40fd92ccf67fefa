package history

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// lookback is how long Prometheus takes the last value of a series for the current one.
const lookback = 5 * time.Minute

// A History has what was seen so far.
type History struct {
	cfg      Config
	scrapes  int
	restarts int
	families map[string]family
	counters map[string]*counter
	sums     map[string]sum
}

// A family is what HELP and TYPE say of a metric.
type family struct {
	help string
	kind model.MetricType
}

// A counter is a series that must not fall.
type counter struct {
	labels labels.Labels
	value  float64
	scrape int       // in which it was seen last
	at     time.Time // of that scrape
	left   bool      // it may begin anew, because of that scrape or a later one
}

// Config says what is known of the exporter.
type Config struct {
	// Watches says which network namespaces to look at, by their label. The kernel may give the number
	// of another one, which can be its name, to a new one at any time.
	Watches func(netns string) bool

	// Retention is that of --watch.retention.
	Retention time.Duration
}

// New returns an empty History.
func New(cfg Config) *History {
	return &History{cfg: cfg, families: make(map[string]family), counters: make(map[string]*counter), sums: make(map[string]sum)}
}

// Restarts is how many counters were lower when they came back, as they may be.
func (h *History) Restarts() int { return h.restarts }

// Add takes an answer, and returns what is wrong with it.
func (h *History) Add(at time.Time, contentType string, body []byte) (problems []string) {
	now, err := parse(contentType, body)
	if err != nil {
		return []string{err.Error()}
	}
	h.scrapes++
	problems = append(problems, now.problems...)
	problems = append(problems, h.addFamilies(now)...)
	problems = append(problems, h.addCounters(at, now)...)
	return append(problems, h.addSums(now)...)
}

func (h *History) addFamilies(now *exposition) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(now.families)) {
		f := now.families[name]
		if before, ok := h.families[name]; ok && before != f {
			problems = append(problems, fmt.Sprintf("%s is the %s %q, it was the %s %q", name, f.kind, f.help, before.kind, before.help))
		}
		h.families[name] = f
	}
	return problems
}

func (h *History) addCounters(at time.Time, now *exposition) (problems []string) {
	places := now.places()
	for _, key := range slices.Sorted(maps.Keys(now.samples)) {
		s := now.samples[key]
		if !now.isCounter(s.labels.Get(model.MetricNameLabel)) || !h.cfg.Watches(s.labels.Get("netns")) {
			continue
		}
		c, known := h.counters[key]
		if !known || c.left {
			h.addMoved(s)
		}
		switch {
		case !known || s.value >= c.value:
		case c.left || h.forgotten(c, at):
			h.restarts++
		default:
			away := ""
			if n := h.scrapes - c.scrape - 1; n > 0 {
				away = fmt.Sprintf(" before it was away for %d scrapes", n)
			}
			problems = append(problems, fmt.Sprintf("%s is %v, it was %v%s", key, s.value, c.value, away))
		}
		// The failed calls of a network namespace that is gone may still be there for a while.
		h.counters[key] = &counter{labels: s.labels, value: s.value, scrape: h.scrapes, at: at, left: !places.namespaces[s.labels.Get("netns")]}
	}
	for key, c := range h.counters {
		if c.scrape == h.scrapes {
			continue
		}
		if at.Sub(c.at) > lookback {
			delete(h.counters, key)
			continue
		}
		c.left = c.left || !places.has(c.labels)
	}
	return problems
}

// forgotten says whether nothing may have listened on the address of a counter for too long. A scrape
// may have begun a second before it was read.
func (h *History) forgotten(c *counter, at time.Time) bool {
	return c.labels.Has("address") && h.scrapes-c.scrape > 1 && at.Sub(c.at) > h.cfg.Retention-time.Second
}

// addSums takes the counters of failed calls without the labels that a count can move between. A
// count that moves to the other ports may also lose its errno, where these have many others.
func (h *History) addSums(now *exposition) (problems []string) {
	sums := make(map[string]float64)
	for _, s := range now.samples {
		if key, ok := sumOf(s.labels); ok {
			sums[key] += s.value
		}
	}
	for _, key := range slices.Sorted(maps.Keys(sums)) {
		before := h.sums[key]
		if fell := before.value - sums[key]; fell > before.twice {
			problems = append(problems, fmt.Sprintf("%s is %v in all ports and network namespaces, it was %v, of which %v may have been counted twice",
				key, sums[key], before.value, before.twice))
		} else if fell > 0 {
			before.twice -= fell
		}
		h.sums[key] = sum{sums[key], before.twice}
	}
	return problems
}

// A sum is the value of a counter in all ports and network namespaces.
type sum struct {
	value float64

	// Of these, so many may have been counted twice: failures just before their port was watched count
	// under its number, and port="other" stands still meanwhile.
	twice float64
}

// addMoved takes a counter that may have begun with failures from before its port was watched.
func (h *History) addMoved(s sample) {
	if key, ok := sumOf(s.labels); ok && s.labels.Get("port") != other {
		before := h.sums[key]
		before.twice += s.value
		h.sums[key] = before
	}
}

// sumOf returns what a counter of failed calls adds to.
func sumOf(series labels.Labels) (key string, ok bool) {
	switch series.Get(model.MetricNameLabel) {
	case "sockstate_bind_failures_total", "sockstate_listen_failures_total", "sockstate_bind_conflicts_total", "sockstate_connect_failures_total":
		return labels.NewBuilder(series).Del("netns", "port", "errno").Labels().String(), true
	}
	return "", false
}
