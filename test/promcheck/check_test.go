package promcheck_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sockstate_exporter/test/promcheck"
)

func known(t *testing.T) *promcheck.Metrics {
	t.Helper()
	m, err := promcheck.Known()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhatExistsIsAccepted(t *testing.T) {
	m := known(t)
	for _, expr := range []string{
		`sockstate_tcp_sockets{job=~"$job", instance=~"$instance", state="time_wait"}`,
		`sum by (instance, port, diagnosis) (rate(sockstate_bind_conflicts_total{port=~"${port:regex}"}[$__rate_interval]))`,
		`sum without (family) (sockstate_tcp_sockets)`,
		`max_over_time(sockstate_tcp_listener_accept_queue_ratio[$__interval])`,
		`max_over_time((sum by (instance) (rate(sockstate_bind_failures_total[5m])))[1h:])`,
		`sockstate_tcp_restart_blocked_seconds * on (job, instance, netns, port) group_left (name) sockstate_watched_port_info`,
		`label_replace(sockstate_watched_ports, "host", "$1", "instance", "(.+):.+")`,
		`sum by (host) (label_replace(sockstate_watched_ports, "host", "$1", "instance", "(.+):.+"))`,
		`count_values by (port) ("seconds", sockstate_tcp_restart_blocked_seconds)`,
		`sockstate_watched_ports or on () vector(0)`,
		`absent(sockstate_feature_available{feature="bind_tracing"})`,
		`changes(sockstate_tcp_listener_reuseaddr[5m]) > 0 unless on (job, instance) resets(sockstate_bind_events_lost_total[5m]) > 0`,
		`up == 0 and on (instance) scrape_samples_scraped`,
		`ALERTS{alertname="SockstateBindBlocked", severity="page"}`,
		`rate(process_cpu_seconds_total[5m]) and go_goroutines and process_start_time_seconds`,
		`sockstate_exporter_build_info{version="1", goversion="2"}`,
		`sum by (quantile) (go_gc_duration_seconds) + rate(go_gc_duration_seconds_count[5m])`,
		`rate(promhttp_metric_handler_requests_total{code="200"}[5m])`,
		`rate(promhttp_metric_handler_errors_total{cause="gathering"}[5m])`,
		`rate(prometheus_tsdb_head_samples_appended_total[5m]) and prometheus_build_info`,
		`{__name__=~"sockstate_tcp_.+", port="1"}`,
		"time() - sockstate_bind_last_failure_timestamp_seconds # a comment\n",
	} {
		if err := m.Check(promcheck.Query{Place: "here", Expr: expr, Vars: []string{"job", "instance", "port"}}); err != nil {
			t.Errorf("refused: %v", err)
		}
	}
}

func TestWhatCannotWorkIsRefusedWithPlaceAndReason(t *testing.T) {
	m := known(t)
	for _, test := range []struct{ name, expr, want string }{
		{"metric", `sockstate_tcp_socket`, `no metric sockstate_tcp_socket`},
		{"metric by pattern", `{__name__=~"sockstat_.+"}`, `no metric that matches {__name__=~"sockstat_.+"}`},
		{"matcher", `sockstate_tcp_sockets{cause="listener"}`, `sockstate_tcp_sockets has no label "cause" (labels: family, instance, job, netns, port, state)`},
		{"by", `sum by (cause) (sockstate_watched_ports)`, `sum by label "cause", of which there is none (labels: instance, job)`},
		{"by, gone inside", `max by (port) (sum by (family) (sockstate_tcp_sockets))`, `max by label "port", of which there is none (labels: family)`},
		{"without", `sum without (cause) (sockstate_watched_ports)`, `sum without label "cause", of which there is none (labels: instance, job)`},
		{"on, left", `sockstate_watched_ports / on (port) sockstate_tcp_sockets`, `on() of the left side of / label "port", of which there is none (labels: instance, job)`},
		{"on, right", `sockstate_tcp_sockets unless on (port) sockstate_watched_ports`, `on() of the right side of unless label "port", of which there is none (labels: instance, job)`},
		{"ignoring", `sockstate_watched_ports / ignoring (port) sockstate_watched_ports_limit`, `ignoring() of / label "port", of which there is none (labels: instance, job)`},
		{"group_left", `sockstate_tcp_sockets * on (instance) group_left (name) sockstate_watched_ports`, `group_left() label "name", of which there is none (labels: instance, job)`},
		{"label_replace", `label_replace(sockstate_watched_ports, "a", "$1", "b", "(.*)")`, `label_replace() from label "b", of which there is none (labels: instance, job)`},
		{"rate of a gauge", `rate(sockstate_tcp_sockets[5m])`, `rate() over sockstate_tcp_sockets, which is a gauge`},
		{"increase of a gauge", `increase(sockstate_watched_ports[5m])`, `increase() over sockstate_watched_ports, which is a gauge`},
		{"rate over a subquery", `rate(sum(sockstate_watched_ports)[5m:])`, `rate() over a subquery: no counter`},
		{"delta of a counter", `delta(sockstate_bind_events_lost_total[5m])`, `delta() over sockstate_bind_events_lost_total, which is a counter`},
		{"minimum of a counter", `min_over_time(process_cpu_seconds_total[5m])`, `min_over_time() over process_cpu_seconds_total, which is a counter`},
		{"syntax", `sum(sockstate_tcp_sockets`, `1:26: parse error: unclosed left parenthesis`},
		{"nothing", ``, `unknown position: parse error: no expression found in input`},
		{"variable", `sockstate_tcp_sockets{job="$jobs"}`, `no such variable: $jobs`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := m.Check(promcheck.Query{Place: "fleet.json: panel X", Expr: test.expr, Vars: []string{"job"}})
			want := "fleet.json: panel X: " + test.want
			if err == nil || !strings.HasPrefix(err.Error()+"\n", want) {
				t.Errorf("error = %v\nwant it to begin with %s", err, want)
			}
		})
	}
}

func TestEverythingWrongIsNamed(t *testing.T) {
	err := known(t).Check(promcheck.Query{Place: "p", Expr: `rate(sockstate_watched_ports{a="b"}[5m])`})
	want := "p: sockstate_watched_ports has no label \"a\" (labels: instance, job)\n" +
		"rate() over sockstate_watched_ports, which is a gauge\n\t" + `rate(sockstate_watched_ports{a="b"}[5m])`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
}

func TestVariablesAreReplacedInAllForms(t *testing.T) {
	q := promcheck.Query{
		Expr: `rate(a{b=~"$job", c=~"${port:regex}", d="[[netns]]", e="$1"}[$__rate_interval:${__interval}])`,
		Vars: []string{"job", "port", "netns"},
	}
	got, err := q.Interpolate(map[string]string{"port": "80|81", "__interval": "1s"})
	if err != nil {
		t.Fatal(err)
	}
	if want := `rate(a{b=~".*", c=~"80|81", d=".*", e="$1"}[2m:1s])`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const ruleFile = `groups:
- name: g
  rules:
  - record: instance_port:sockstate_bind_failures:rate5m
    expr: sum by (job, instance, port) (rate(sockstate_bind_failures_total[5m]))
    labels:
      of: binds
  - record: instance:sockstate_bind_failures:rate5m
    expr: sum by (job, instance) (instance_port:sockstate_bind_failures:rate5m{of="binds"})
  - record: seen
    expr: group by (job, instance) (sockstate_exporter_build_info) or last_over_time(seen{job="a"}[1h]) and on (job, instance) up
  - alert: A
    expr: instance_port:sockstate_bind_failures:rate5m{port="1"} > 0
    for: 5m
    labels: {severity: page}
    annotations:
      summary: s
      description: >-
        {{ with query (printf "max(sockstate_tcp_sockets{%s, port=%q, state=\"listen\"})" $x $y) }}{{ . | first | value }}{{ end }}
        {{ query "down" }}
`

func TestRecordingRulesHaveTheLabelsOfTheirExpression(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "r.yml", ruleFile))
	if err != nil {
		t.Fatal(err)
	}
	m := known(t)
	if err := m.AddRules(rules); err != nil {
		t.Fatal(err)
	}
	for _, q := range rules.Queries() {
		if err := m.Check(q); err != nil {
			t.Error(err)
		}
	}
	err = m.Check(promcheck.Query{Place: "p", Expr: `instance:sockstate_bind_failures:rate5m{port="1"}`})
	want := "p: instance:sockstate_bind_failures:rate5m has no label \"port\" (labels: instance, job)\n\t" +
		`instance:sockstate_bind_failures:rate5m{port="1"}`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
	if alerts := rules.Alerts(); len(alerts) != 1 || alerts[0].For != "5m" || alerts[0].Labels["severity"] != "page" || alerts[0].Annotations["summary"] != "s" {
		t.Errorf("alerts = %+v", alerts)
	}
}

func TestRecordingRuleOfACounterIsACounter(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "rules.yml", "groups: [{name: g, rules: ["+
		"{record: 'a:process_cpu_seconds_total:from_zero', expr: 'min_over_time(process_cpu_seconds_total[3m])'}, {record: 'a:b:c', expr: up}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	m := known(t)
	if err := m.AddRules(rules); err != nil {
		t.Fatal(err)
	}
	for expr, accepted := range map[string]bool{
		`rate(a:process_cpu_seconds_total:from_zero[5m])`:          true,
		`min_over_time(a:process_cpu_seconds_total:from_zero[5m])`: false,
		`rate(a:b:c[5m])`: false,
	} {
		if err := m.Check(promcheck.Query{Place: "here", Expr: expr}); (err == nil) != accepted {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestQueriesThatMissTheFirstEventAreRefused(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "rules.yml", "groups: [{name: g, rules: [{record: 'a:x_total:from_zero', expr: x_total}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	counters := rules.FromZero()
	for expr, accepted := range map[string]bool{
		`rate(a:x_total:from_zero[5m])`: true,
		`rate(y_total[5m])`:             true,
		`sum(rate(a:x_total:from_zero{b="c"}[5m]) or rate(x_total{b="c"}[5m])) > 0`: true,
		`x_total > 0`:                           true,
		`rate(x_total[5m])`:                     false,
		`sum(increase(x_total{b="c"}[5m])) > 0`: false,
		`rate(a:x_total:from_zero{b="c"}[5m]) or rate(x_total[5m])`: false,
		`increase(a:x_total:from_zero[5m]) or rate(x_total[5m])`:    false,
		`rate(x_total[5m]) or rate(a:x_total:from_zero[5m])`:        false,
		`rate(a:x_total:from_zero[5m]) and rate(x_total[5m])`:       false,
	} {
		if err := counters.Check(promcheck.Query{Place: "here", Expr: expr}); (err == nil) != accepted {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestRecordingRuleThatUsesItselfHasNoOtherLabels(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "r.yml", ruleFile))
	if err != nil {
		t.Fatal(err)
	}
	m := known(t)
	if err := m.AddRules(rules); err != nil {
		t.Fatal(err)
	}
	if !m.Has("seen", "instance") || m.Has("seen", "port") {
		t.Errorf("seen has instance: %t, port: %t; want true, false", m.Has("seen", "instance"), m.Has("seen", "port"))
	}
}

func TestTemplatesOfAlertsHaveQueries(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "r.yml", ruleFile))
	if err != nil {
		t.Fatal(err)
	}
	queries, err := rules.TemplateQueries()
	if err != nil {
		t.Fatal(err)
	}
	if len(queries) != 2 {
		t.Fatalf("queries = %+v, want 2", queries)
	}
	m := known(t)
	if err := m.Check(queries[0]); err != nil {
		t.Error(err)
	}
	err = m.Check(queries[1])
	if want := "r.yml: alert A, description: no metric down\n\t" + "down"; err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
}

func TestRecordingRuleThatCannotWorkIsRefused(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "r.yml", "groups: [{name: g, rules: [{record: 'a:b:c', expr: missing}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	err = known(t).AddRules(rules)
	if want := "r.yml: record a:b:c: no metric missing\n\t" + "missing"; err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
}

func TestRecordingRuleMayUseItsOwnLastValueAndGetsNoLabelFromThat(t *testing.T) {
	rules, err := promcheck.LoadRules(write(t, "r.yml",
		"groups: [{name: g, rules: [{record: 'a:b:c', expr: 'group by (job) (up) or last_over_time(a:b:c[1h]) and on (job) up'}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	m := known(t)
	if err := m.AddRules(rules); err != nil {
		t.Fatal(err)
	}
	err = m.Check(promcheck.Query{Place: "p", Expr: `a:b:c{instance="x"}`})
	want := "p: a:b:c has no label \"instance\" (labels: job)\n\t" + `a:b:c{instance="x"}`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
}

func TestPromQLBlocksOfRunbooksAreQueries(t *testing.T) {
	path := write(t, "R.md", "# R\n\n```sh\nss -tan\n```\n\n```promql\nup\n  == 0\n```\n\n1. x\n\n   ```promql\n   down\n   ```\n")
	queries, err := promcheck.LoadRunbooks(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(queries) != 2 || queries[0].Expr != "up\n  == 0" || queries[0].Place != "R.md:7" || queries[1].Place != "R.md:14" {
		t.Fatalf("queries = %+v", queries)
	}
	if err := known(t).Check(queries[0]); err != nil {
		t.Error(err)
	}
	err = known(t).Check(queries[1])
	if want := "R.md:14: no metric down\n\t" + "   down"; err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
}

func TestPromQLBlockWithoutEndIsRefused(t *testing.T) {
	_, err := promcheck.LoadRunbook(write(t, "R.md", "```promql\nup\n"))
	if want := "R.md:1: promql block without an end"; err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

const dashboard = `{
  "uid": "u", "title": "T", "id": null,
  "templating": {"list": [
    {"name": "job", "type": "query", "query": {"query": "label_values(up{a=\"1,2\"}, job)", "refId": "x"}},
    {"name": "port", "type": "query", "query": "label_values(sockstate_tcp_sockets{job=~\"$job\"}, port)"},
    {"name": "host", "type": "query", "query": {"query": "query_result(count(up) > 1)", "refId": "y"}},
    {"name": "datasource", "type": "datasource", "query": "prometheus"}
  ]},
  "annotations": {"list": [{"name": "own", "builtIn": 1}, {"name": "restart", "expr": "changes(up[1m])"}]},
  "panels": [
    {"title": "row", "type": "row", "panels": [{"title": "inner", "targets": [{"refId": "B", "expr": "b", "instant": true}]}]},
    {"title": "outer", "targets": [{"refId": "A", "expr": "a", "range": true}]}
  ]
}`

func TestDashboardHasTheQueriesOfAllItsParts(t *testing.T) {
	path := write(t, "d.json", dashboard)
	all, err := promcheck.LoadDashboards(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	type short struct {
		kind               promcheck.Kind
		place, expr, label string
		instant            bool
	}
	var got []short
	for _, q := range all[0].Queries() {
		got = append(got, short{q.Kind, q.Place, q.Expr, q.Label, q.Instant})
		if strings.Join(q.Vars, " ") != "job port host datasource" {
			t.Errorf("%s may use %v", q.Place, q.Vars)
		}
	}
	want := []short{
		{promcheck.KindVariable, "d.json: variable job", `up{a="1,2"}`, "job", true},
		{promcheck.KindVariable, "d.json: variable port", `sockstate_tcp_sockets{job=~"$job"}`, "port", true},
		{promcheck.KindVariable, "d.json: variable host", "count(up) > 1", "", true},
		{promcheck.KindAnnotation, "d.json: annotation restart", "changes(up[1m])", "", false},
		{promcheck.KindPanel, `d.json: panel "inner", query B`, "b", "", true},
		{promcheck.KindPanel, `d.json: panel "outer", query A`, "a", "", false},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("query %d = %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

func TestLabelThatAVariableAsksForMustExist(t *testing.T) {
	err := known(t).Check(promcheck.Query{Place: "v", Expr: "sockstate_watched_ports", Label: "port"})
	if want := "v: label_values asks for label \"port\", of which there is none (labels: instance, job)\n\tsockstate_watched_ports"; err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant %s", err, want)
	}
}

func TestDirectoryWithoutDashboardsIsRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := promcheck.LoadDashboards(dir)
	if want := "no dashboard in " + dir; err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}
