package collector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"sockstate_exporter/internal/httplimit"
	"sockstate_exporter/internal/loglimit"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
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
	sinks := metric.NewSinks(maxRendered)
	scrape := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := withScrapeTimeout(r)
		defer cancel()
		snap := c.take(ctx)
		sink, err := sinks.Take(r.Context())
		if err != nil {
			return // nobody waits for the answer
		}
		defer sinks.Free(sink)
		promhttp.HandlerFor(c.answer(&snap, process, sink, w, r), promhttp.HandlerOpts{
			ErrorLog:           errorLog{ctx: r.Context(), logger: logger, limit: c.limit},
			ErrorHandling:      promhttp.ContinueOnError,
			Registry:           process,
			EnableOpenMetrics:  true,
			DisableCompression: true,
		}).ServeHTTP(w, r)
	})
	return promhttp.InstrumentMetricHandler(process, httplimit.Compressed(scrape))
}

// answer writes the metrics of a snapshot, and returns those that promhttp has to write. No name is
// in both. In text, the order of families is free.
func (c *Collector) answer(snap *snapshot.Snapshot, process prometheus.Gatherer, sink *metric.Sink, w io.Writer, r *http.Request) prometheus.GathererFunc {
	families, err := process.Gather()
	format := expfmt.NegotiateIncludingOpenMetrics(r.Header).FormatType() //nolint:staticcheck // as promhttp does
	sink.Reset(format == expfmt.TypeOpenMetrics)
	c.render(snap, sink, metric.SeriesIn(families))
	switch format {
	case expfmt.TypeOpenMetrics, expfmt.TypeTextPlain:
		err = errors.Join(err, sink.Write(w))
	default:
		ours, parseErr := sink.Parsed()
		families, err = append(families, ours...), errors.Join(err, parseErr)
	}
	return func() ([]*dto.MetricFamily, error) { return families, err }
}

// maxRendered is how many answers are rendered at a time.
const maxRendered = 2

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
