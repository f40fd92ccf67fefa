package collector

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"sockstate_exporter/internal/loglimit"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/unixmetrics"
)

// A renderer makes metrics of one part of a snapshot.
type renderer interface {
	// name is the value of the collector label. It is empty if there is no such collector.
	name() string
	metrics() []*metric.Desc
	outcome(*snapshot.Snapshot) result
	collect(*snapshot.Snapshot, *metric.Sink)
}

// A Collector makes metrics of snapshots.
type Collector struct {
	take      func(context.Context) snapshot.Snapshot
	logger    *slog.Logger
	renderers []renderer
	success   *metric.Desc
	duration  *metric.Desc
	inNetns   *metric.Desc
	series    *metric.Desc

	limit   *loglimit.Limiter
	mu      sync.Mutex
	states  map[string]*state // by collector
	dropped bool              // ports were not watched in the last scrape
}

// A state is how a collector is, and what the log says about it.
type state struct {
	now, logged string // the reason of the failure; empty: it works
	changes     int    // since the last line
}

// Each collector logs logBurst lines at once, and later ones logPause apart: users of the host and
// clients can make some parts fail as often as they like.
const (
	logBurst = 4
	logPause = 5 * time.Minute
)

// New returns a Collector that calls take once per scrape. features says what works on this
// host.
func New(take func(context.Context) snapshot.Snapshot, features []sock.Feature, logger *slog.Logger) *Collector {
	return &Collector{
		take:   take,
		logger: logger,
		renderers: []renderer{
			newTCPFamily(),
			newListenerFamily(),
			newReuseFamily(),
			newRestartFamily(),
			newBindFamily(),
			newConnectFamily(),
			newUDPFamily(),
			unixFamily{unixmetrics.New()},
			newRemoteFamily(),
			newEphemeralFamily(),
			newStackFamily(),
			newWatchFamily(),
			newNetnsFamily(),
			newFeatureFamily(features),
		},
		success: metric.Gauge("scrape_collector_success",
			"1 if the collector got all its data in time for this scrape, 0 if it did not.", "collector"),
		duration: metric.Gauge("scrape_collector_duration_seconds",
			"Seconds that the collector's data sources took.", "collector"),
		inNetns: metric.Gauge("netns_collector_success",
			"0 if the collector did not get all its data from the network namespace in time.", "netns", "collector"),
		series: metric.Gauge("exposition_series",
			"Series with the prefix sockstate_ in this scrape, by collector.", "collector"),
		limit:  loglimit.New(logBurst, logPause),
		states: make(map[string]*state),
	}
}

// Metrics are the definitions of all metrics of the Collector, in order.
func (c *Collector) Metrics() []*metric.Desc {
	var all []*metric.Desc
	for _, f := range c.renderers {
		all = append(all, f.metrics()...)
	}
	return append(all, c.success, c.duration, c.inNetns, c.series)
}

// render makes the metrics of a snapshot. rest is how many series with the prefix the exporter has
// beside them.
func (c *Collector) render(snap *snapshot.Snapshot, ch *metric.Sink, rest int) {
	c.reportDropped(snap)
	for _, r := range c.renderers {
		before := ch.Series()
		r.collect(snap, ch)
		if how := r.outcome(snap); !errors.Is(how.err, snapshot.ErrOff) {
			c.report(r.name(), how.err)
			ch.Put(c.success, metric.Bool(how.err == nil), r.name())
			ch.Put(c.duration, how.took.Seconds(), r.name())
			c.putInNetns(ch, snap, r.name(), how)
		}
		switch {
		case r.name() == "":
			rest += ch.Series() - before
		case ch.Series() > before:
			ch.Put(c.series, float64(ch.Series()-before+1), r.name()) // this one counts as well
		}
	}
	ch.Put(c.series, float64(rest+1), exporterItself)
}

// exporterItself is the label value for series that belong to no collector.
const exporterItself = "exporter"

// putInNetns says in which namespaces the collector has not all its data.
func (c *Collector) putInNetns(ch *metric.Sink, s *snapshot.Snapshot, name string, how result) {
	if how.in == nil {
		return
	}
	for ns := range s.Namespaces() {
		if _, err := how.in(ns); err != nil && !errors.Is(err, snapshot.ErrOff) {
			ch.Put(c.inNetns, 0, ns.Label(), name)
		}
	}
}

// report logs a failure when it begins, when its reason changes, and when it ends, at a bounded
// rate. A scrape whose client left, or gave it little time, is no failure, and does not end one.
func (c *Collector) report(name string, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, errShortTimeout) {
		return
	}
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	logger, changed := c.change(name, reason)
	switch {
	case !changed:
	case err != nil:
		logger.Warn("collector failed", "collector", name, "err", err)
	default:
		logger.Info("collector works again", "collector", name)
	}
}

// change says whether the state of a collector has to be logged, and with which logger.
func (c *Collector) change(name, reason string) (*slog.Logger, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.states[name]
	if s == nil {
		s = new(state)
		c.states[name] = s
	}
	if reason != s.now {
		s.now = reason
		s.changes++
	}
	if s.now == s.logged {
		return nil, false
	}
	if _, ok := c.limit.Allow(name); !ok {
		return nil, false
	}
	logger := c.logger
	if s.changes > 1 {
		logger = logger.With(loglimit.LeftOut, s.changes-1)
	}
	s.logged, s.changes = s.now, 0
	return logger, true
}

// reportDropped logs when the number of ports begins to exceed --watch.max-ports.
func (c *Collector) reportDropped(s *snapshot.Snapshot) {
	_, dropped, limit := budget(s)
	if limit == 0 {
		return // not known in this scrape
	}
	c.mu.Lock()
	before := c.dropped
	c.dropped = dropped > 0
	c.mu.Unlock()
	if dropped == 0 || before {
		return
	}
	if _, ok := c.limit.Allow("--watch.max-ports"); ok {
		c.logger.Warn("more ports to watch than --watch.max-ports allows", "limit", limit, "not_watched", dropped)
	}
}
