package collector

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
)

func newLogger(l *logbook) *slog.Logger { return slog.New(l) }

// A source takes the snapshots of a Collector.
type source func(context.Context) snapshot.Snapshot

func (take source) handler(log *logbook) http.Handler {
	return New(take, nil, newLogger(log)).Handler(prometheus.NewRegistry(), newLogger(log))
}

// samples decodes an answer in whatever format it is.
func samples(t *testing.T, res *http.Response) map[string]float64 {
	t.Helper()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("status %s", res.Status)
	}
	decoder := expfmt.SampleDecoder{
		Dec:  expfmt.NewDecoder(res.Body, expfmt.ResponseFormat(res.Header)),
		Opts: &expfmt.DecodeOptions{},
	}
	out := make(map[string]float64)
	for {
		var v model.Vector
		err := decoder.Decode(&v)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("decode %s: %v", res.Header.Get("Content-Type"), err)
		}
		for _, s := range v {
			for name, value := range s.Metric {
				if value == "" { // the text formats write them, the other does not read them
					delete(s.Metric, name)
				}
			}
			out[s.Metric.String()] = float64(s.Value)
		}
	}
}

func get(t *testing.T, h http.Handler, header, value string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	r.Header.Set(header, value)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// start serves on a unix socket, as the loopback device of the tests may be down
// (kerneltest.Main), and returns a client for any URL.
func start(t *testing.T, h http.Handler) *http.Client {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "http"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", l.Addr().String())
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func request(ctx context.Context, t *testing.T) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://exporter/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFormats(t *testing.T) {
	log := new(logbook)
	h := constant(wholeSnapshot(t)).handler(log)
	ours := func(all map[string]float64) map[string]float64 {
		for name := range all {
			if !strings.HasPrefix(name, "sockstate_") {
				delete(all, name) // promhttp's own count on
			}
		}
		return all
	}
	plain := get(t, h, "Accept", "text/plain")
	defer plain.Body.Close()
	want := ours(samples(t, plain))
	if len(want) < 100 {
		t.Fatalf("only %d samples as plain text", len(want))
	}
	for _, tt := range []struct{ accept, contentType string }{
		{"application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"},
		{"application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text; version=0.0.1; charset=utf-8; escaping=underscores"},
		{"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores"},
		{"*/*", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"},
		{"", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"},
	} {
		t.Run(tt.accept, func(t *testing.T) {
			res := get(t, h, "Accept", tt.accept)
			defer res.Body.Close()
			if got := res.Header.Get("Content-Type"); got != tt.contentType {
				t.Errorf("content type %q, want %q", got, tt.contentType)
			}
			got := ours(samples(t, res))
			for name, v := range want {
				if g, ok := got[name]; !ok || g != v {
					t.Errorf("%s is %v (there: %v), want %v", name, g, ok, v)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d samples, want %d", len(got), len(want))
			}
		})
	}
	if got, want := log.take(), []string{overBudget}; !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

func TestOpenMetricsEnds(t *testing.T) {
	res := get(t, constant(wholeSnapshot(t)).handler(new(logbook)), "Accept", "application/openmetrics-text;version=1.0.0")
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(body), "\n# EOF\n") {
		t.Errorf("ends with %q, want # EOF", body[max(0, len(body)-40):])
	}
}

// In a bubble, where time is exact.
func TestScrapeTimeout(t *testing.T) {
	const forever = time.Hour
	for _, tt := range []struct {
		header string
		want   time.Duration
	}{
		{"10", 9500 * time.Millisecond},
		{"2", 1500 * time.Millisecond},
		{"1", 750 * time.Millisecond},
		{"0.1", 75 * time.Millisecond},
		{"1e1", 9500 * time.Millisecond},
		{"86400", forever},

		{"", forever},
		{"0", forever},
		{"-1", forever},
		{"ten", forever},
		{"10s", forever},
		{"NaN", forever},
		{"-NaN", forever},
		{"Inf", forever},
		{"-Inf", forever},
		{"1e300", forever},
		{"1e-300", forever},
		{"0.0009", forever},
		{"86401", forever},
	} {
		t.Run(tt.header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var took time.Duration
				var cause error
				log := new(logbook)
				h := source(func(ctx context.Context) snapshot.Snapshot {
					select {
					case <-ctx.Done():
					case <-time.After(forever):
					}
					took, cause = time.Since(start), context.Cause(ctx)
					s := wholeSnapshot(t)
					s.TCP = snapshot.Part[[]ports.PortSockets]{Err: cause}
					return s
				}).handler(log)
				res := get(t, h, timeoutHeader, tt.header)
				defer res.Body.Close()
				got := samples(t, res)
				if took != tt.want {
					t.Errorf("waited %v, want %v", took, tt.want)
				}
				if want := map[bool]error{true: nil, false: errScrapeTimeout}[tt.want == forever]; !errors.Is(cause, want) {
					t.Errorf("the context's cause is %v, want %v", cause, want)
				}
				if v := got[`sockstate_scrape_collector_success{collector="tcp"}`]; (v == 1) != (tt.want == forever) {
					t.Errorf("success of tcp is %v", v)
				}
				if v := got[`sockstate_scrape_collector_success{collector="listener"}`]; v != 1 {
					t.Errorf("success of listener is %v, want 1", v)
				}
			})
		})
	}
}

// A client that goes away while the snapshot is taken, and one that does so while it is sent.
func TestNothingIsLoggedForAClientThatWentAway(t *testing.T) {
	whole := wholeSnapshot(t)
	whole.Watch.Data.Dropped = 0
	big := whole
	for port := range 1000 {
		big.TCP.Data = append(big.TCP.Data, ports.PortSockets{Number: uint16(10_000 + port)})
	}
	gone := func(ctx context.Context) snapshot.Snapshot {
		<-ctx.Done()
		s := whole
		s.TCP.Err, s.Listeners.Err = context.Cause(ctx), context.Cause(ctx)
		return s
	}
	for _, tt := range []struct {
		name string
		take source
	}{
		{"during the snapshot", gone},
		{"during the answer", func(ctx context.Context) snapshot.Snapshot {
			<-ctx.Done()
			return big
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(logbook)
			began, ended := make(chan struct{}), make(chan struct{})
			scrape := source(func(ctx context.Context) snapshot.Snapshot {
				close(began)
				return tt.take(ctx)
			}).handler(log)
			client := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				scrape.ServeHTTP(w, r)
			}))
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-began
				cancel()
			}()
			res, err := client.Do(request(ctx, t))
			if !errors.Is(err, context.Canceled) {
				if err == nil {
					res.Body.Close()
				}
				t.Fatalf("get: %v, want %v", err, context.Canceled)
			}
			<-ended
			if records := log.take(); len(records) > 0 {
				t.Errorf("logged %q, want nothing", records)
			}
		})
	}
}

// What the log says must not depend on what clients send.
func TestAlternatingScrapeTimeoutsLogNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := wholeSnapshot(t)
		whole.Watch.Data.Dropped = 0
		log := new(logbook)
		h := source(func(ctx context.Context) snapshot.Snapshot { // takes a second
			s := whole
			select {
			case <-ctx.Done():
				s.TCP.Err, s.Stack.Err = context.Cause(ctx), context.Cause(ctx)
			case <-time.After(time.Second):
			}
			return s
		}).handler(log)
		for range 100 {
			for _, timeout := range []string{"0.1", "10", "0.001", "4.9", "x", "NaN"} {
				res := get(t, h, timeoutHeader, timeout)
				res.Body.Close()
			}
		}
		if got := log.take(); len(got) > 0 {
			t.Errorf("logged %d lines, such as %q, want none", len(got), got[0])
		}
	})
}

type brokenCollector struct{}

func (brokenCollector) Describe(chan<- *prometheus.Desc) {}

func (brokenCollector) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Broken.", nil, nil), errBroken)
}

func TestErrorsOfAnswersAreLoggedAtABoundedRate(t *testing.T) {
	log := new(logbook)
	broken := prometheus.NewRegistry()
	broken.MustRegister(brokenCollector{})
	h := New(constant(snapshot.Snapshot{}), nil, newLogger(log)).Handler(broken, newLogger(log))
	for range 100 {
		res := get(t, h, "Accept", "text/plain")
		res.Body.Close()
	}
	if got := log.take(); len(got) != logBurst || !strings.HasPrefix(got[0], "ERROR answer to a scrape failed err=") {
		t.Errorf("logged %d lines: %q; want %d", len(got), got, logBurst)
	}
}

func TestScrapesOfOneSnapshotEach(t *testing.T) {
	taken := 0
	h := source(func(context.Context) snapshot.Snapshot {
		taken++
		return snapshot.Snapshot{}
	}).handler(new(logbook))
	for want := 1; want <= 3; want++ {
		res := get(t, h, "Accept", "text/plain")
		res.Body.Close()
		if taken != want {
			t.Errorf("%d snapshots for %d scrapes", taken, want)
		}
	}
}

func TestConcurrentScrapes(t *testing.T) {
	log := new(logbook)
	var mu sync.Mutex
	n := 0
	whole := wholeSnapshot(t)
	h := source(func(context.Context) snapshot.Snapshot {
		mu.Lock()
		defer mu.Unlock()
		s := whole
		if n++; n%3 == 0 {
			s.TCP = snapshot.Part[[]ports.PortSockets]{Err: errBroken}
		}
		return s
	}).handler(log)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
				if w.Code != http.StatusOK {
					t.Errorf("status %d", w.Code)
				}
			}
		})
	}
	wg.Wait()
	for _, record := range log.take() {
		if record != overBudget && !strings.HasSuffix(record, "collector=tcp") && !strings.HasSuffix(record, "collector=tcp err="+errBroken.Error()) {
			t.Errorf("logged %q", record)
		}
	}
}
