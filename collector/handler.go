package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// timeoutHeader is how Prometheus says when it stops waiting, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// timeoutMargin is left of that time for rendering and the way back: what was not had by
// then is reported as missing, which beats an answer that comes too late.
const timeoutMargin = 500 * time.Millisecond

// errScrapeTimeout is why a part is missing in such a scrape.
var errScrapeTimeout = errors.New("not ready before the scrape timeout")

// Handler serves /metrics: what the Collector makes of one snapshot, and process, the
// metrics of the exporter itself.
func (c *Collector) Handler(process *prometheus.Registry, logger *slog.Logger) http.Handler {
	rooms := make(chan struct{}, maxRendered)
	scrape := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := withScrapeTimeout(r)
		defer cancel()
		room := &room{of: rooms, client: r.Context()}
		defer room.leave()
		promhttp.HandlerFor(c.with(ctx, process, room), promhttp.HandlerOpts{
			ErrorLog:           errorLog{ctx: r.Context(), logger: logger},
			ErrorHandling:      promhttp.ContinueOnError,
			Registry:           process,
			EnableOpenMetrics:  true,
			DisableCompression: true,
		}).ServeHTTP(w, r)
	})
	return promhttp.InstrumentMetricHandler(process, rendered(scrape))
}

// maxRendered is how many answers are made at a time. With many ports each is some megabytes of
// metrics until it is text. Scrapes that wait for a snapshot together are not held up by it.
const maxRendered = 2

// A room is where an answer is made.
type room struct {
	of      chan struct{}
	client  context.Context //nolint:containedctx // it is of one request
	entered bool
}

// enter waits for room as long as the client does.
func (r *room) enter() error {
	select {
	case r.of <- struct{}{}:
		r.entered = true
		return nil
	case <-r.client.Done():
		return context.Cause(r.client)
	}
}

func (r *room) leave() {
	if r.entered {
		<-r.of
	}
}

// with gathers process as well. No name is in both.
func (c *Collector) with(ctx context.Context, process prometheus.Gatherer, room *room) prometheus.GathererFunc {
	return func() ([]*dto.MetricFamily, error) {
		snap := c.take(ctx)
		if err := room.enter(); err != nil {
			return nil, err
		}
		families, err := process.Gather()
		families = append(families, c.render(&snap)...)
		slices.SortFunc(families, byName)
		return families, err
	}
}

// An errorLog is the promhttp.Logger of one request. net/http ends the context of a client
// that went away, before the write to it fails: nobody needs to hear of that.
type errorLog struct {
	ctx    context.Context //nolint:containedctx // promhttp.Logger has no other way in
	logger *slog.Logger
}

func (l errorLog) Println(v ...any) {
	if l.ctx.Err() == nil {
		l.logger.Error("answer to a scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)))
	}
}

// withScrapeTimeout bounds the request's context by the header, if there is one that makes
// sense: Prometheus knows milliseconds.
func withScrapeTimeout(r *http.Request) (context.Context, context.CancelFunc) {
	seconds, err := strconv.ParseFloat(r.Header.Get(timeoutHeader), 64)
	if err != nil || !(seconds >= 0.001 && seconds <= (24*time.Hour).Seconds()) { // NaN is neither
		return r.Context(), func() {}
	}
	timeout := time.Duration(seconds * float64(time.Second))
	timeout -= min(timeoutMargin, timeout/4)
	return context.WithTimeoutCause(r.Context(), timeout, errScrapeTimeout)
}
