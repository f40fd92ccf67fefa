package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
	"sockstate_exporter/test/promcheck"
)

const (
	fleetInterval = 15 * time.Second // of scrapes and evaluations
	fleetFill     = 16 * time.Minute // the longest range of a rule that many series have
	fleetFailing  = 100              // one host in so many has a bind that fails

	// fleetMemory is where Prometheus begins to spend CPU to stay below it.
	fleetMemory = "5400MiB"
)

// BenchmarkFleet measures what a fleet of usual hosts costs Prometheus, and how long it takes to
// evaluate all rules. SOCKSTATE_BENCH_SERIES is how many series the fleet has.
// SOCKSTATE_BENCH_SCRAPE is a file with a scrape of a host, instead of the usual one.
// SOCKSTATE_BENCH_FILL is how long Prometheus scrapes before it is measured; less than the
// default leaves the ranges of rules half empty.
func BenchmarkFleet(b *testing.B) {
	series, err := strconv.Atoi(os.Getenv("SOCKSTATE_BENCH_SERIES"))
	if err != nil {
		kerneltest.Skip(b, "SOCKSTATE_BENCH_SERIES does not say how many series")
	}
	fill := fleetFill
	if text := os.Getenv("SOCKSTATE_BENCH_FILL"); text != "" {
		if fill, err = time.ParseDuration(text); err != nil {
			b.Fatal(err)
		}
	}
	kerneltest.RequireRoot(b)
	f := newFleet(b, series)
	f.start(b)
	f.await(b, "all hosts are scraped", func() bool { return f.value(b, "count(up == 1)") == float64(f.hosts) })
	time.Sleep(fill)

	// Go runs a benchmark once before it runs it as often as asked for.
	b.Run("rules", func(b *testing.B) {
		var took []float64
		for last := 0.0; len(took) < b.N; time.Sleep(time.Second) {
			at := f.value(b, "max(prometheus_rule_group_last_evaluation_timestamp_seconds)")
			if at != last && last != 0 {
				took = append(took, f.value(b, "max(prometheus_rule_group_last_duration_seconds)"))
			}
			last = at
		}
		f.report(b, took)
	})
	b.Run("dashboards", func(b *testing.B) { f.dashboards(b, fill) })
}

// fleetSteps is how many steps a graph has. A dashboard that shows an hour has 120 of 30 s.
const fleetSteps = 120

// dashboards asks what each dashboard asks when it is opened with everything selected, and the port
// dashboard with 40 ports. It shows the time that Prometheus has samples of.
func (f *fleet) dashboards(b *testing.B, shown time.Duration) {
	b.Helper()
	all, err := promcheck.LoadDashboards("../../dashboards")
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range all {
		values := map[string]string{"job": ".+", "instance": ".+", "netns": ".*", "port": ".+", "__rate_interval": (4 * fleetInterval).String(), "__range": shown.String()}
		if d.Name() == "port.json" {
			values["port"] = strings.Join(f.labels(b, "port")[:40], "|")
		}
		b.Run(strings.TrimSuffix(d.Name(), ".json"), func(b *testing.B) {
			var longest, sum time.Duration
			slowest := ""
			for b.Loop() {
				longest, sum = 0, 0
				for i := range d.Panels {
					// What is folded is not in Panels.
					for _, t := range d.Panels[i].Targets {
						took := f.panel(b, d, t, values, shown)
						if sum += took; took > longest {
							longest, slowest = took, d.Panels[i].Title
						}
					}
				}
			}
			b.ReportMetric(sum.Seconds(), "s-all")
			b.ReportMetric(longest.Seconds(), "s-longest")
			b.Logf("slowest: %s", slowest)
		})
	}
}

// panel asks a query of a panel.
func (f *fleet) panel(b *testing.B, d *promcheck.Dashboard, t promcheck.Target, values map[string]string, shown time.Duration) time.Duration {
	b.Helper()
	expr, err := promcheck.Query{Place: t.RefID, Expr: t.Expr, Vars: d.VariableNames()}.Interpolate(values)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	query := url.Values{"query": {expr}}
	path := "/api/v1/query?"
	if t.Range {
		path = "/api/v1/query_range?"
		query.Set("start", strconv.FormatInt(now.Add(-shown).Unix(), 10))
		query.Set("end", strconv.FormatInt(now.Unix(), 10))
		query.Set("step", strconv.FormatFloat(shown.Seconds()/fleetSteps, 'f', 3, 64))
	}
	if err := f.get(path+query.Encode(), new(json.RawMessage)); err != nil {
		b.Errorf("%s: %v", expr, err)
	}
	return time.Since(now)
}

// labels are the values of a label.
func (f *fleet) labels(b *testing.B, name string) (all []string) {
	b.Helper()
	if err := f.get("/api/v1/label/"+name+"/values?match[]=sockstate_tcp_listener_info", &all); err != nil {
		b.Fatal(err)
	}
	return all
}

// A fleet is a Prometheus that scrapes many hosts, which are one server.
type fleet struct {
	ns      *kerneltest.NetNS
	hosts   int
	quiet   string // a scrape
	failing string // with %d for the number of failed binds
	scrapes atomic.Uint64
	targets string
	address string // of Prometheus
	client  *http.Client
	cmd     *kerneltest.Cmd
	log     *kerneltest.Log
}

func newFleet(b *testing.B, series int) *fleet {
	b.Helper()
	f := &fleet{ns: kerneltest.New(b), log: new(kerneltest.Log)}
	f.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: f.ns.DialContext}}
	b.Cleanup(f.client.CloseIdleConnections)
	scrape := launch.Metrics(fleetScrape(b))
	// The first port's failures. Without the tracer there are none.
	f.quiet = string(scrape)
	for line := range scrape.Samples("sockstate_bind_failures_total", `errno="EADDRINUSE"`) {
		f.failing = strings.Replace(strings.ReplaceAll(f.quiet, "%", "%%"), line, line[:strings.LastIndexByte(line, ' ')]+" %d", 1)
		break
	}
	if f.failing == "" {
		b.Fatal("no sockstate_bind_failures_total in the scrape")
	}
	f.hosts = max(1, series/scrape.Series(""))
	return f
}

// fleetScrape is what a host of the fleet serves.
func fleetScrape(b *testing.B) string {
	b.Helper()
	if path := os.Getenv("SOCKSTATE_BENCH_SCRAPE"); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		return string(text)
	}
	w := usualHost(b)
	e := ours(b, w.ns)
	w.ensure(b, time.Second)
	defer e.Stop()
	return e.Get(b, "/metrics")
}

// ServeHTTP is a scrape of the host that the query names.
func (f *fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	host, err := strconv.Atoi(r.URL.Query().Get("host"))
	if n := f.scrapes.Add(1); err == nil && host%fleetFailing == 0 {
		fmt.Fprintf(w, f.failing, n)
		return
	}
	_, _ = w.Write([]byte(f.quiet))
}

// start starts Prometheus and what it scrapes.
func (f *fleet) start(b *testing.B) {
	b.Helper()
	prometheus := kerneltest.RequireCommand(b, "prometheus")
	f.ns.Do(b, func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Error(err)
			return
		}
		f.targets = l.Addr().String()
		server := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(l) }()
		b.Cleanup(func() { server.Close() })
	})
	f.address = freeAddress(b, f.ns)
	dir := b.TempDir()
	f.cmd = f.ns.Command(b, prometheus,
		"--config.file="+f.config(b, dir),
		"--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+f.address)
	f.cmd.Env = append(os.Environ(), "GOMEMLIMIT="+fleetMemory)
	f.cmd.Stdout, f.cmd.Stderr = f.log, f.log
	if err := f.cmd.Start(); err != nil {
		b.Fatal(err)
	}
}

func (f *fleet) config(b *testing.B, dir string) string {
	b.Helper()
	rules, err := filepath.Abs("../../alerts/sockstate.rules.yml")
	if err != nil {
		b.Fatal(err)
	}
	var hosts []any
	for i := range f.hosts {
		hosts = append(hosts, map[string]any{
			"targets": []string{f.targets},
			"labels":  map[string]string{"instance": fmt.Sprintf("host%05d:10048", i), "__param_host": strconv.Itoa(i)},
		})
	}
	data, err := yaml.Marshal(map[string]any{
		"global":     map[string]any{"scrape_interval": fleetInterval.String(), "evaluation_interval": fleetInterval.String()},
		"rule_files": []string{rules},
		"scrape_configs": []any{
			map[string]any{"job_name": "sockstate", "static_configs": hosts},
			map[string]any{"job_name": "prometheus", "static_configs": []any{map[string]any{"targets": []string{f.address}}}},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
	f.hosts++ // Prometheus itself
	return path
}

func (f *fleet) await(b *testing.B, what string, done func() bool) {
	b.Helper()
	for deadline := time.Now().Add(launch.Patience); !done(); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			b.Fatalf("not within %v: %s\n%s", launch.Patience, what, f.log)
		}
	}
}

// get asks Prometheus, for what stands in the data of its answer.
func (f *fleet) get(path string, data any) error {
	status, body, err := launch.Get(context.Background(), f.client, "http://"+f.address+path)
	if err != nil || status != http.StatusOK {
		return fmt.Errorf("status %d: %v: %.200s", status, err, body)
	}
	return json.Unmarshal([]byte(body), &struct{ Data any }{data})
}

// value is the one sample of a query, or 0 while there is none.
func (f *fleet) value(b *testing.B, query string) float64 {
	b.Helper()
	var data struct{ Result []struct{ Value [2]any } }
	if err := f.get("/api/v1/query?query="+url.QueryEscape(query), &data); err != nil {
		b.Log(err)
		return 0
	}
	if len(data.Result) == 0 {
		return 0
	}
	v, err := strconv.ParseFloat(fmt.Sprint(data.Result[0].Value[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// report says what Prometheus took. took are the seconds of each evaluation of all rules.
func (f *fleet) report(b *testing.B, took []float64) {
	b.Helper()
	sum := 0.0
	for _, t := range took {
		sum += t
	}
	b.ReportMetric(float64(f.hosts-1), "hosts")
	b.ReportMetric(f.value(b, `sum(scrape_samples_scraped{job="sockstate"})`), "series")
	b.ReportMetric(f.value(b, `count({__name__=~".+:.+"})`), "recorded-series")
	b.ReportMetric(f.value(b, "rate(prometheus_tsdb_head_samples_appended_total[5m])"), "samples/s")
	b.ReportMetric(f.value(b, "rate(process_cpu_seconds_total{job=\"prometheus\"}[5m])"), "CPUs")
	b.ReportMetric(f.value(b, "process_resident_memory_bytes{job=\"prometheus\"}"), "RSS-B")
	b.ReportMetric(f.value(b, "rate(go_gc_duration_seconds_count{job=\"prometheus\"}[3m])"), "GCs/s")
	b.ReportMetric(sum/float64(len(took))*1e9, "ns/op")
	b.ReportMetric(slices.Min(took)*1e9, "min-ns/op")
	b.ReportMetric(slices.Max(took)*1e9, "max-ns/op")
	type rule struct {
		Name           string
		EvaluationTime float64
		LastError      string
	}
	var data struct{ Groups []struct{ Rules []rule } }
	if err := f.get("/api/v1/rules", &data); err != nil {
		b.Fatal(err)
	}
	for _, group := range data.Groups {
		slices.SortFunc(group.Rules, func(x, y rule) int { return cmp.Compare(y.EvaluationTime, x.EvaluationTime) })
		for i, r := range group.Rules {
			if r.LastError != "" {
				b.Errorf("%s: %s", r.Name, r.LastError)
			}
			if i < 8 {
				b.Logf("%8.3f s %s", r.EvaluationTime, r.Name)
			}
		}
	}
}

// One port fails on some hosts of the fleet, and counts.
var failingSample = regexp.MustCompile(`(?m)^sockstate_bind_failures_total\{[^}]*\} 7$`)

func TestFleetHasHostsThatFailAndHostsThatDoNot(t *testing.T) {
	f := &fleet{quiet: "sockstate_bind_failures_total{a=\"%\"} 0\n", failing: "sockstate_bind_failures_total{a=\"%%\"} %d\n"}
	for host, fails := range map[string]bool{"100": true, "101": false} {
		f.scrapes.Store(6)
		w := httptest.NewRecorder()
		f.ServeHTTP(w, &http.Request{URL: &url.URL{RawQuery: "host=" + host}})
		if got := failingSample.MatchString(w.Body.String()); got != fails {
			t.Errorf("host %s: %q", host, w.Body.String())
		}
	}
}
