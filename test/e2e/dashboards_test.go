package e2e

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/promcheck"
)

// rateInterval is Grafana's $__rate_interval, a few scrapes.
const rateInterval = 10 * time.Second

// startAll starts the exporters with the states around them, and Prometheus.
func startAll(t *testing.T) *monitor {
	t.Helper()
	m := newMonitor(t)
	s := states{t}
	web, edge, flaky, blind, gone := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	further, small := kerneltest.New(t), kerneltest.New(t)
	sockets := t.TempDir()
	failUnix := s.unixSockets(web, sockets)
	thenWeb, thenFurther, thenEdge := s.web(web), s.further(further), s.edge(edge)
	// The flags of the connection are not known to an exporter without privileges.
	blind.Listen(t, loopback(portEverywhere), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 1, netip.MustParseAddr("127.0.0.2"))

	broken := &exporter{
		instance: instanceFlaky, ns: flaky, args: append(watch(4840, 4841, 4842), "--watch.max-ports=2", "--no-collector.listener"),
		empty: []string{"/proc/sys/net/ipv4/tcp_max_tw_buckets"},
	}
	ended := &exporter{instance: instanceGone, ns: gone}
	webArgs := append(watch(portTimeWait, portForeign, portPrivileged),
		fmt.Sprintf("--watch.port=%d/udp", portUDP), fmt.Sprintf("--watch.port=%d:opcua", portMissing),
		"--netns="+mountNetns(t, further, "blue"), "--watch.unix="+sockets+"/*.sock")
	for _, e := range []*exporter{
		{instance: instanceWeb, ns: web, args: webArgs},
		{instance: instanceEdge, ns: edge, args: []string{fmt.Sprintf("--watch.remote-port=%d", portDestination)}},
		{instance: instanceBlind, ns: blind, nobody: true},
		{instance: instanceSmall, ns: small, sysctls: lowLimits(t, small)},
		broken, ended,
	} {
		m.add(t, e)
	}
	m.start(t)

	thenWeb()
	s.every(time.Second, "fail to bind a Unix socket", failUnix)
	thenFurther()
	thenEdge()
	s.orphan(small)
	ended.Stop()
	broken.restart(t)
	eventually(t, "the restarted exporter is scraped", func() string {
		return m.missing(fmt.Sprintf(`changes(process_start_time_seconds{instance=%q}[1h]) > 0`, instanceFlaky))
	})
	s.loseEvents(broken)
	return m
}

// Nothing on a dashboard is empty in the state that it is made for, and no alert is one that
// cannot fire.
func TestEveryDashboardHasDataAndEveryAlertFires(t *testing.T) {
	t.Parallel()
	dashboards, err := promcheck.LoadDashboards("../../dashboards")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := promcheck.LoadRules(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m := startAll(t)

	var silent []string
	for _, a := range rules.Alerts() {
		silent = append(silent, a.Alert)
	}
	pending := make(map[string]*pendingDashboard)
	for _, d := range dashboards {
		unknown := func(q promcheck.Query) bool { return ofHost.MatchString(q.Expr) && !strings.Contains(q.Expr, " or ") }
		pending[d.UID] = &pendingDashboard{dashboard: d, queries: slices.DeleteFunc(d.Queries(), unknown)}
	}
	eventually(t, "all queries return data, and all alerts fire", func() string {
		firing, err := m.firing()
		if err != nil {
			return err.Error()
		}
		silent = slices.DeleteFunc(silent, func(name string) bool {
			return slices.ContainsFunc(firing, func(a alert) bool { return a.Labels["alertname"] == name })
		})
		missing := ""
		if len(silent) > 0 {
			missing += "\nalerts that do not fire: " + strings.Join(silent, ", ")
		}
		for _, uid := range slices.Sorted(maps.Keys(pending)) {
			missing += pending[uid].ask(m, began)
		}
		return missing
	})
}

// A pendingDashboard has queries that returned nothing yet.
type pendingDashboard struct {
	dashboard *promcheck.Dashboard
	queries   []promcheck.Query
}

// ask asks them again, as Grafana would with All for each variable, and lists those that are
// still empty.
func (p *pendingDashboard) ask(m *monitor, began time.Time) string {
	values, err := p.variables(m)
	if err != nil {
		return err.Error()
	}
	missing := ""
	p.queries = slices.DeleteFunc(p.queries, func(q promcheck.Query) bool {
		expr, err := q.Interpolate(values)
		if err == nil {
			var ok bool
			if ok, err = m.hasData(q, expr, began); ok {
				return true
			}
		}
		if err != nil {
			missing += fmt.Sprintf("\n%s: %v", q.Place, err)
		} else {
			missing += fmt.Sprintf("\n%s: no data for\n\t%s", q.Place, expr)
		}
		return false
	})
	return missing
}

// variables are the values of the dashboard's variables, each of which may be used by those
// after it: All is the allValue, or else every value.
func (p *pendingDashboard) variables(m *monitor) (map[string]string, error) {
	values := map[string]string{
		"__interval":      scrapeInterval,
		"__rate_interval": rateInterval.String(),
		"__range":         "5m",
		"__range_s":       "300",
	}
	list := p.dashboard.Templating.List
	for i := range list {
		v := &list[i]
		if v.Type != "query" {
			continue
		}
		if v.AllValue != "" {
			values[v.Name] = v.AllValue
			continue
		}
		var all []string
		for _, q := range p.dashboard.Queries() {
			// The text in legends, which no query uses, has no label.
			if q.Label == "" || !strings.HasSuffix(q.Place, ": variable "+v.Name) {
				continue
			}
			expr, err := q.Interpolate(values)
			if err != nil {
				return nil, err
			}
			if all, err = m.labelValues(q.Label, expr); err != nil {
				return nil, fmt.Errorf("%s: %w", q.Place, err)
			}
		}
		for i := range all {
			all[i] = strings.ReplaceAll(regexp.QuoteMeta(all[i]), `\`, `\\`)
		}
		values[v.Name] = "(" + strings.Join(all, "|") + ")"
	}
	return values, nil
}

func (m *monitor) labelValues(label, selector string) (all []string, err error) {
	err = m.ask("label/"+label+"/values", url.Values{"match[]": {selector}}, &all)
	return all, err
}

// quiet are counters of what cannot be brought about here at will: calls whose socket is closed
// while they run, programs that the kernel skips, metrics that contradict each other, more network
// namespaces than are watched, more ports than the tracer has slots, processes whose namespace not even root may see. Of queries for
// these a zero is data.
var quiet = regexp.MustCompile(`sockstate_bind_failures_unattributed_total|sockstate_bind_tracer_missed_runs_total|promhttp_metric_handler_errors_total|sockstate_watched_namespaces_dropped|sockstate_namespaces_unreadable_processes|sockstate_bind_tracer_slots_lacking`)

// ofHost are limits that an exporter knows in the initial network namespace only. None runs there.
var ofHost = regexp.MustCompile(`sockstate_tcp_memory_limit_bytes|sockstate_tcp_orphans_limit`)

// hasData says whether the query returns something: a zero is what dashboards show while all is
// well.
func (m *monitor) hasData(q promcheck.Query, expr string, began time.Time) (bool, error) {
	number := func(v model.SampleValue) bool {
		return !math.IsNaN(float64(v)) && (v != 0 || quiet.MatchString(expr))
	}
	switch {
	case q.Label != "":
		all, err := m.labelValues(q.Label, expr)
		return len(all) > 0, err
	case q.Instant:
		vector, err := m.query(expr)
		return slices.ContainsFunc(vector, func(s *model.Sample) bool { return number(s.Value) }), err
	default:
		matrix, err := m.queryRange(expr, began, time.Second)
		return slices.ContainsFunc(matrix, func(s *model.SampleStream) bool {
			return slices.ContainsFunc(s.Values, func(p model.SamplePair) bool { return number(p.Value) })
		}), err
	}
}
