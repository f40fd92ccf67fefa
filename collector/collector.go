package collector

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/watch"
)

// A family renders one part of a snapshot.
type family interface {
	// name is the value of the collector label; empty for a family that is no collector.
	name() string
	metrics() []*Metric
	// outcome is how long the part took and why it is missing, if it is.
	outcome(*snapshot.Snapshot) (time.Duration, error)
	collect(*snapshot.Snapshot, sink)
}

// A Collector makes metrics of snapshots.
type Collector struct {
	take     func(context.Context) snapshot.Snapshot
	logger   *slog.Logger
	families []family
	success  *Metric
	duration *Metric

	mu      sync.Mutex
	failed  map[string]string // collector -> the reason that was logged
	dropped bool              // it was logged that ports are not watched
}

// New returns a Collector that calls take once per scrape.
func New(take func(context.Context) snapshot.Snapshot, logger *slog.Logger) *Collector {
	return &Collector{
		take:   take,
		logger: logger,
		families: []family{
			newTCPFamily(),
			newListenerFamily(),
			newStackFamily(),
			newWatchFamily(),
			newFeatureFamily(),
		},
		success: gauge("scrape_collector_success",
			"1 where the collector had all its data in time for this scrape, else 0.", "the exporter", "collector"),
		duration: gauge("scrape_collector_duration_seconds",
			"Seconds that the collector's sources took. Collectors share sources.", "the exporter", "collector"),
		failed: make(map[string]string),
	}
}

// Metrics are the definitions of everything that the Collector exposes, in order.
func (c *Collector) Metrics() []*Metric {
	var all []*Metric
	for _, f := range c.families {
		all = append(all, f.metrics()...)
	}
	return append(all, c.success, c.duration)
}

// Scrape is a prometheus.Collector for one scrape, which ends with ctx.
func (c *Collector) Scrape(ctx context.Context) prometheus.Collector {
	return scrape{Collector: c, ctx: ctx}
}

type scrape struct {
	*Collector
	ctx context.Context //nolint:containedctx // prometheus.Collector has no other way in
}

// Describe implements prometheus.Collector.
func (s scrape) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range s.Metrics() {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (s scrape) Collect(ch chan<- prometheus.Metric) {
	snap := s.take(s.ctx)
	s.reportDropped(snap.Watch.Data)
	for _, f := range s.families {
		f.collect(&snap, ch)
		took, err := f.outcome(&snap)
		if errors.Is(err, snapshot.ErrOff) {
			continue
		}
		s.report(f.name(), err)
		sink(ch).put(s.success, boolValue(err == nil), f.name())
		sink(ch).put(s.duration, took.Seconds(), f.name())
	}
}

// report logs a failure when it begins, or its reason changes, and when it is over. That
// nobody waited for the scrape any more is no failure, and says nothing of an earlier one.
func (c *Collector) report(name string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	c.mu.Lock()
	before := c.failed[name]
	c.failed[name] = reason
	c.mu.Unlock()
	switch {
	case reason == before:
	case err != nil:
		c.logger.Warn("collector failed", "collector", name, "err", err)
	default:
		c.logger.Info("collector works again", "collector", name)
	}
}

// reportDropped logs when ports begin to be left out for the budget.
func (c *Collector) reportDropped(set watch.Set) {
	if set.Limit == 0 {
		return // not known in this scrape
	}
	c.mu.Lock()
	before := c.dropped
	c.dropped = set.Dropped > 0
	c.mu.Unlock()
	if set.Dropped > 0 && !before {
		c.logger.Warn("more ports to watch than --watch.max-ports allows", "limit", set.Limit, "not_watched", set.Dropped)
	}
}
