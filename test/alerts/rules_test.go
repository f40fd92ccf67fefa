package alerts_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/common/model"

	"sockstate_exporter/test/promcheck"
)

// The two hosts that an operator replaces; README.md.
const (
	runbookBase   = "https://runbooks.example.com/"
	dashboardBase = "https://grafana.example.com/d/"
)

func severities() []string { return []string{"critical", "warning", "info"} }

func TestAlertsSayWhatIsWrongAndWhereToLook(t *testing.T) {
	for _, a := range loadRules(t).Alerts() {
		t.Run(a.Alert, func(t *testing.T) {
			if s := a.Labels["severity"]; !slices.Contains(severities(), s) {
				t.Errorf("severity %q is none of %v", s, severities())
			}
			for _, name := range []string{"summary", "description"} {
				if strings.TrimSpace(a.Annotations[name]) == "" {
					t.Errorf("no %s", name)
				}
			}
			if link, ok := a.Annotations["diagnosis_url"]; ok && !strings.Contains(link, runbookBase+"../diagnoses.md") {
				t.Errorf("diagnosis_url %q is no link to diagnoses.md", link)
			}
			if got, want := a.Annotations["runbook_url"], runbookBase+a.Alert+".md"; got != want {
				t.Errorf("runbook_url is %q, want %q", got, want)
			}
			if _, err := model.ParseDuration(a.For); err != nil {
				t.Errorf("for: %v", err)
			}
		})
	}
}

// dashboardVars are the variables that a link to a dashboard sets.
func dashboardVars(uid string) []string {
	return map[string][]string{
		"sockstate-fleet":    {"job", "instance", "netns"},
		"sockstate-port":     {"job", "instance", "netns", "port"},
		"sockstate-exporter": {"job", "instance"},
	}[uid]
}

// ofTheHost says that the alert is about all network namespaces together: its link chooses none.
func ofTheHost(alert string) bool {
	return strings.HasPrefix(alert, "SockstateTCP") || strings.HasPrefix(alert, "SockstateUnix")
}

func TestAlertsLinkToTheirDashboardWithItsVariables(t *testing.T) {
	for _, a := range loadRules(t).Alerts() {
		link := a.Annotations["dashboard_url"]
		uid, query, ok := strings.Cut(strings.TrimPrefix(link, dashboardBase), "?")
		if !ok || !strings.HasPrefix(link, dashboardBase) || dashboardVars(uid) == nil {
			t.Errorf("%s: dashboard_url %q is no link to a dashboard", a.Alert, link)
			continue
		}
		var want []string
		for _, v := range dashboardVars(uid) {
			if v == "netns" && ofTheHost(a.Alert) {
				continue
			}
			value := "{{ $labels." + v + " | urlquery }}"
			if v == "port" {
				value = "{{ $labels.port }}"
			}
			want = append(want, "var-"+v+"="+value)
		}
		if query != strings.Join(want, "&") {
			t.Errorf("%s: dashboard_url sets\n%s, want\n%s", a.Alert, query, strings.Join(want, "&"))
		}
	}
}

func knownMetrics(t *testing.T, rules *promcheck.Rules) *promcheck.Metrics {
	t.Helper()
	known, err := promcheck.Known()
	if err != nil {
		t.Fatal(err)
	}
	if err := known.AddRules(rules); err != nil {
		t.Error(err)
	}
	return known
}

func checkQueries(t *testing.T, known *promcheck.Metrics, queries []promcheck.Query) {
	t.Helper()
	if len(queries) == 0 {
		t.Error("no queries")
	}
	for _, q := range queries {
		if err := known.Check(q); err != nil {
			t.Error(err)
		}
	}
}

func TestRulesAskForMetricsThatExist(t *testing.T) {
	rules := loadRules(t)
	checkQueries(t, knownMetrics(t, rules), rules.Queries())
}

func TestRunbooksAskForMetricsThatExist(t *testing.T) {
	queries, err := promcheck.LoadRunbooks(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	checkQueries(t, knownMetrics(t, loadRules(t)), queries)
}

// query (printf "EXPR" ...) in an annotation. A query that fails there leaves nothing but an
// error in the text.
var (
	templateQuery = regexp.MustCompile(`query \(printf ("(?:[^"\\]|\\.)*") `)
	templateLabel = regexp.MustCompile(`\$labels\.(\w+)`)
)

func TestAnnotationsAskForMetricsThatExist(t *testing.T) {
	rules := loadRules(t)
	known := knownMetrics(t, rules)
	for _, a := range rules.Alerts() {
		for name, text := range a.Annotations {
			if asked, found := strings.Count(text, "query ("), templateQuery.FindAllStringSubmatch(text, -1); asked != len(found) {
				t.Errorf("%s: %s: %d queries, of which %d can be read", a.Alert, name, asked, len(found))
			} else if len(found) > 0 {
				checkQueries(t, known, templateQueries(t, &a, text, found))
			}
		}
	}
}

// templateQueries fills in what printf would: %q is a label's value, and %s the selector that
// the annotation begins with, itself from a format.
func templateQueries(t *testing.T, a *promcheck.Rule, text string, found [][]string) []promcheck.Query {
	t.Helper()
	selector := regexp.MustCompile(`:= printf "((?:\w+=%q,?)+)"`).FindStringSubmatch(text)
	if selector == nil {
		t.Fatalf("%s: no selector before its queries", a.Alert)
	}
	var queries []promcheck.Query
	for _, f := range found {
		format, err := strconv.Unquote(f[1])
		if err != nil {
			t.Fatalf("%s: %s: %v", a.Alert, f[1], err)
		}
		expr := strings.ReplaceAll(strings.ReplaceAll(format, "%s", selector[1]), "%q", `"x"`)
		queries = append(queries, promcheck.Query{Kind: promcheck.KindAlert, Place: "annotation of " + a.Alert, Expr: expr, Instant: true})
	}
	return queries
}

// A label that the alert has not is an empty string in its text. The firing unit tests have the
// labels of each alert; netns, interface and the like may be empty in some of them.
func TestAnnotationsNameLabelsThatTheAlertHas(t *testing.T) {
	has := make(map[string]map[string]bool)
	for _, test := range loadUnitTests(t) {
		for _, c := range test.Cases {
			for _, e := range c.Expected {
				if has[c.Alert] == nil {
					has[c.Alert] = make(map[string]bool)
				}
				for l := range e.Labels {
					has[c.Alert][l] = true
				}
			}
		}
	}
	for _, a := range loadRules(t).Alerts() {
		for name, text := range a.Annotations {
			for _, m := range templateLabel.FindAllStringSubmatch(text, -1) {
				if !has[a.Alert][m[1]] {
					t.Errorf("%s: %s names the label %q, which it has in no unit test", a.Alert, name, m[1])
				}
			}
		}
	}
}

// loadDashboardQueries are the queries of all dashboards.
func loadDashboardQueries(t *testing.T) []promcheck.Query {
	t.Helper()
	dashboards, err := promcheck.LoadDashboards("../../dashboards")
	if err != nil || len(dashboards) == 0 {
		t.Fatalf("dashboards: %v, %v", dashboards, err)
	}
	var queries []promcheck.Query
	for _, d := range dashboards {
		queries = append(queries, d.Queries()...)
	}
	return queries
}

func TestEveryRecordingRuleIsUsed(t *testing.T) {
	rules, panels := loadRules(t), loadDashboardQueries(t)
	for _, r := range rules.All() {
		if r.Record == "" {
			continue
		}
		if !slices.ContainsFunc(rules.All(), func(other promcheck.Rule) bool {
			return other.Record != r.Record && strings.Contains(other.Expr, r.Record)
		}) && !slices.ContainsFunc(panels, func(q promcheck.Query) bool { return strings.Contains(q.Expr, r.Record) }) {
			t.Errorf("no other rule and no panel uses %s", r.Record)
		}
	}
}

// Most counters appear with their first event, which increase() of the counter itself misses.
func TestNoQueryMissesTheFirstEventOfACounter(t *testing.T) {
	rules := loadRules(t)
	counters := rules.FromZero()
	if len(counters) == 0 {
		t.Fatal("no rule records a counter from 0")
	}
	queries := slices.Concat(rules.Queries(), loadDashboardQueries(t))
	runbookQueries, err := promcheck.LoadRunbooks(runbooks)
	if err != nil {
		t.Fatal(err)
	}
	annotations, err := rules.TemplateQueries()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range slices.Concat(queries, runbookQueries, annotations) {
		if err := counters.Check(q); err != nil {
			t.Error(err)
		}
	}
}

// first_events.yml says in its tests that they hold for each of these counters.
func TestEachCounterFromZeroIsInTheTestsOfFirstEvents(t *testing.T) {
	data, err := os.ReadFile("../../alerts/tests/first_events.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range strings.Split(string(data), "\n  - name: ")[1:] {
		name, series, _ := strings.Cut(test, "\n")
		if !strings.Contains(name, "in each") {
			continue
		}
		for counter := range loadRules(t).FromZero() {
			// A port's return says nothing of a counter without a port.
			if strings.Contains(name, "a port that") && counter == "sockstate_connect_failures_total" {
				continue
			}
			if !strings.Contains(series, "series: "+counter+"{") {
				t.Errorf("%s: no %s", name, counter)
			}
		}
	}
}

func TestEveryAlertHasARunbookAndEveryRunbookAnAlert(t *testing.T) {
	paths, err := filepath.Glob(runbooks + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		if name := strings.TrimSuffix(filepath.Base(path), ".md"); name != "README" {
			names = append(names, name)
		}
	}
	if want := sorted(alertNames(loadRules(t))); !slices.Equal(names, want) {
		t.Errorf("runbooks are\n%v, want\n%v", names, want)
	}
}

func TestRunbooksAreComplete(t *testing.T) {
	for _, alert := range alertNames(loadRules(t)) {
		data, err := os.ReadFile(filepath.Join(runbooks, alert+".md"))
		if errors.Is(err, os.ErrNotExist) {
			continue // said by another test
		}
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if !strings.HasPrefix(text, "# "+alert+"\n") {
			t.Errorf("%s: its title is not the alert", alert)
		}
		var headings []string
		for _, part := range strings.Split(text, "\n## ")[1:] {
			heading, body, _ := strings.Cut(part, "\n")
			headings = append(headings, heading)
			if strings.TrimSpace(body) == "" {
				t.Errorf("%s: nothing under %q", alert, heading)
			}
		}
		if want := []string{"Meaning", "Impact", "Diagnosis", "Remedy"}; !slices.Equal(headings, want) {
			t.Errorf("%s: headings are %q, want %q", alert, headings, want)
		}
		if !strings.Contains(text, "```promql\n") {
			t.Errorf("%s: no query", alert)
		}
	}
}

// Both lists have a row per alert: the alert, with a link or not, its severity, more.
func TestTheListsOfAlertsAreComplete(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\| (?:\[(\w+)\]\([^)]*\)|` + "`" + `(\w+)` + "`" + `) \| (critical|warning|info) \|`)
	var want []string
	for _, a := range loadRules(t).Alerts() {
		want = append(want, a.Alert+" "+a.Labels["severity"])
	}
	for _, path := range []string{runbooks + "/README.md", "../../alerts/README.md"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range row.FindAllStringSubmatch(string(data), -1) {
			got = append(got, m[1]+m[2]+" "+m[3])
		}
		if !slices.Equal(sorted(got), sorted(want)) {
			t.Errorf("%s lists\n%v, want\n%v", path, sorted(got), sorted(want))
		}
	}
}
