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

	"sockstate_exporter/internal/httplimit"
	"sockstate_exporter/internal/loglimit"
	"sockstate_exporter/internal/metric"
)

// timeoutHeader is the header in which Prometheus sends its scrape timeout, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// timeoutMargin is the part of the timeout that is left for rendering and sending. What a
// snapshot does not have by then is missing, which is better than an answer that is too late.
const timeoutMargin = 500 * time.Millisecond

// errScrapeTimeout is why a part is missing then. errShortTimeout is the same for a client that
// gives less time than usualTimeout. It is not logged: it says nothing about this host.
var (
	errScrapeTimeout = errors.New("not ready before the scrape timeout")
	errShortTimeout  = fmt.Errorf("%w of less than %v", errScrapeTimeout, usualTimeout)
)

// usualTimeout is half of the default of Prometheus.
const usualTimeout = 5 * time.Second

// Handler serves /metrics: the metrics of one snapshot, and those of the exporter itself, which
// are in process.
func (c *Collector) Handler(process *prometheus.Registry, logger *slog.Logger) http.Handler {
	slots := make(chan struct{}, maxRendered)
	scrape := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := withScrapeTimeout(r)
		defer cancel()
		slot := &slot{slots: slots, client: r.Context()}
		defer slot.free()
		promhttp.HandlerFor(c.with(ctx, process, slot), promhttp.HandlerOpts{
			ErrorLog:           errorLog{ctx: r.Context(), logger: logger, limit: c.limit},
			ErrorHandling:      promhttp.ContinueOnError,
			Registry:           process,
			EnableOpenMetrics:  true,
			DisableCompression: true,
		}).ServeHTTP(w, r)
	})
	return promhttp.InstrumentMetricHandler(process, httplimit.Compressed(scrape))
}

// maxRendered is how many answers are rendered at a time: with many ports, each takes some
// megabytes until it is text. It does not limit scrapes that wait for a snapshot.
const maxRendered = 2

// A slot is one request's right to render.
type slot struct {
	slots  chan struct{}
	client context.Context //nolint:containedctx // a slot belongs to one request
	taken  bool
}

// take waits for a free slot as long as the client waits.
func (s *slot) take() error {
	select {
	case s.slots <- struct{}{}:
		s.taken = true
		return nil
	case <-s.client.Done():
		return context.Cause(s.client)
	}
}

func (s *slot) free() {
	if s.taken {
		<-s.slots
	}
}

// with gathers the metrics of a snapshot and of process. No name is in both.
func (c *Collector) with(ctx context.Context, process prometheus.Gatherer, slot *slot) prometheus.GathererFunc {
	return func() ([]*dto.MetricFamily, error) {
		snap := c.take(ctx)
		if err := slot.take(); err != nil {
			return nil, err
		}
		families, err := process.Gather()
		families = append(families, c.render(&snap, metric.SeriesIn(families))...)
		slices.SortFunc(families, metric.ByName)
		return families, err
	}
}

// An errorLog is the promhttp.Logger of one request. It is silent if the client went away: then
// net/http ends the context before a write fails.
type errorLog struct {
	ctx    context.Context //nolint:containedctx // promhttp.Logger takes no context
	logger *slog.Logger
	limit  *loglimit.Limiter
}

func (l errorLog) Println(v ...any) {
	if l.ctx.Err() != nil {
		return
	}
	if leftOut, ok := l.limit.Allow("answer"); ok {
		l.logger.Error("answer to a scrape failed", "err", strings.TrimSpace(fmt.Sprintln(v...)), loglimit.LeftOut, leftOut)
	}
}

// withScrapeTimeout limits the request's context to the timeout in the header, if that is
// between a millisecond, the unit of Prometheus, and a day.
func withScrapeTimeout(r *http.Request) (context.Context, context.CancelFunc) {
	seconds, err := strconv.ParseFloat(r.Header.Get(timeoutHeader), 64)
	if err != nil || !(seconds >= 0.001 && seconds <= (24*time.Hour).Seconds()) { // NaN is neither
		return r.Context(), func() {}
	}
	timeout := time.Duration(seconds * float64(time.Second))
	cause := errScrapeTimeout
	if timeout < usualTimeout {
		cause = errShortTimeout
	}
	timeout -= min(timeoutMargin, timeout/4)
	return context.WithTimeoutCause(r.Context(), timeout, cause)
}
