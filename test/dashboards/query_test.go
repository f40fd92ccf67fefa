package dashboards_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"sockstate_exporter/test/promcheck"
)

// eachQuery runs a test for every query of every dashboard.
func eachQuery(t *testing.T, test func(t *testing.T, d *promcheck.Dashboard, q promcheck.Query)) {
	t.Helper()
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, q := range d.Queries() {
			_, place, _ := strings.Cut(q.Place, ": ")
			t.Run(place, func(t *testing.T) { test(t, d, q) })
		}
	})
}

func parse(t *testing.T, q promcheck.Query, values map[string]string) parser.Expr {
	t.Helper()
	text, err := q.Interpolate(values)
	if err != nil {
		t.Fatal(err)
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return expr
}

// known are the metrics of the exporter and of the rules.
func known(t *testing.T) *promcheck.Metrics {
	t.Helper()
	m, err := promcheck.Known()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AddRules(loadRules(t)); err != nil {
		t.Fatal(err)
	}
	return m
}

func loadRules(t *testing.T) *promcheck.Rules {
	t.Helper()
	rules, err := promcheck.LoadRules("../../alerts/sockstate.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// target-promql-rule and template-label-promql-rule, and that every metric and label exists.
func TestQueriesNameWhatTheExporterHas(t *testing.T) {
	known := known(t)
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		if err := known.Check(q); err != nil {
			t.Error(err)
		}
	})
}

// target-rate-interval-rule.
func TestRatesAreOverTheRateInterval(t *testing.T) {
	const interval = "7m3s" // no query spells that out
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		parser.Inspect(parse(t, q, map[string]string{"__rate_interval": interval}), func(node parser.Node, _ []parser.Node) error {
			call, ok := node.(*parser.Call)
			if !ok || call.Func.Name != "rate" && call.Func.Name != "irate" {
				return nil
			}
			matrix, ok := call.Args[0].(*parser.MatrixSelector)
			if !ok || model.Duration(matrix.Range).String() != interval {
				t.Errorf("%s is not over $__rate_interval", call)
			}
			return nil
		})
	})
}

// What a selector has to ask for, as far as the metric has the label: target-job-rule and
// target-instance-rule, and the same of the variables of this project.
var matchers = []string{"job", "instance", "netns", "port"}

func TestSelectorsAskForTheVariables(t *testing.T) {
	known := known(t)
	values := make(map[string]string)
	for _, name := range matchers {
		values[name] = "$" + name
	}
	eachQuery(t, func(t *testing.T, d *promcheck.Dashboard, q promcheck.Query) {
		before := len(matchers)
		if q.Kind == promcheck.KindVariable {
			// A variable may ask for those before it only.
			names := d.VariableNames()
			names = names[:slices.Index(names, strings.TrimPrefix(q.Place, d.Name()+": variable "))]
			before = len(slices.DeleteFunc(slices.Clone(matchers), func(m string) bool { return !slices.Contains(names, m) }))
		}
		parser.Inspect(parse(t, q, values), func(node parser.Node, _ []parser.Node) error {
			s, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			for _, name := range matchers[:before] {
				// The exporter's page is of whole hosts.
				if !known.Has(s.Name, name) || variable(d, name).Hide != 0 && q.Kind != promcheck.KindVariable || s.Name == "ALERTS" && !slices.Contains(matchers[:2], name) {
					continue
				}
				want := labels.MustNewMatcher(labels.MatchRegexp, name, "$"+name).String()
				asked := slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool {
					return m.String() == want || name == "port" && m.String() == `port="0"` // binds to any port
				})
				if !asked {
					t.Errorf("%s does not ask for %s", s, want)
				}
			}
			return nil
		})
	})
}

// The dashboards work without the rules file, but for the first event of a counter: where they use
// what a rule records, they use the exporter's own counter as well.
func TestQueriesWorkWithoutTheRules(t *testing.T) {
	recorded := make(map[string]string) // with the counter that it is made of
	for counter, record := range loadRules(t).FromZero() {
		recorded[record] = counter
	}
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		uses := make(map[string]int)
		parser.Inspect(parse(t, q, nil), func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok {
				uses[s.Name]++
			}
			return nil
		})
		for name, n := range uses {
			if strings.Contains(name, ":") && uses[recorded[name]] < n {
				t.Errorf("%s is used without %s", name, recorded[name])
			}
		}
	})
}

// target-counter-agg-rule.
func TestCountersAreShownAsRates(t *testing.T) {
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		parser.Inspect(parse(t, q, nil), func(node parser.Node, path []parser.Node) error {
			s, ok := node.(*parser.VectorSelector)
			if !ok || !strings.HasSuffix(s.Name, "_total") && !strings.HasSuffix(s.Name, "_total:from_zero") {
				return nil
			}
			if len(path) >= 2 {
				if call, ok := path[len(path)-2].(*parser.Call); ok && slices.Contains([]string{"rate", "irate", "increase"}, call.Func.Name) {
					return nil
				}
			}
			t.Errorf("%s is not in rate() or increase()", s)
			return nil
		})
	})
}

// On a host with other exporters of the same job, go_goroutines is of all of them.
func TestMetricsThatOthersHaveTooAreThoseOfExporters(t *testing.T) {
	eachQuery(t, func(t *testing.T, _ *promcheck.Dashboard, q promcheck.Query) {
		ours := strings.Contains(q.Expr, "sockstate_")
		parser.Inspect(parse(t, q, nil), func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok && s.Name != "ALERTS" && !ours {
				t.Errorf("%s is not joined with a metric of the exporter", s)
			}
			return nil
		})
	})
}

func TestEveryVariableIsUsed(t *testing.T) {
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, name := range matchers {
			// Hidden ones are there to be handed on by links.
			if v := variable(d, name); v.Hide != 0 {
				continue
			}
			used := slices.ContainsFunc(d.Queries(), func(q promcheck.Query) bool {
				return q.Kind == promcheck.KindPanel && strings.Contains(q.Expr, "$"+name)
			})
			if !used {
				t.Errorf("no panel uses $%s", name)
			}
		}
	})
}

func TestLegendsNameLabelsOfTheResult(t *testing.T) {
	known := known(t)
	each(t, func(t *testing.T, d *promcheck.Dashboard) {
		for _, p := range d.AllPanels() {
			for _, target := range p.Targets {
				place := p.Title + ", query " + target.RefID
				if target.LegendFormat == "" {
					t.Errorf("%s: no legend", place)
				}
				for _, part := range strings.Split(target.LegendFormat, "{{")[1:] {
					label, _, _ := strings.Cut(part, "}}")
					q := promcheck.Query{Place: place, Expr: target.Expr, Label: label, Vars: d.VariableNames()}
					if err := known.Check(q); err != nil {
						t.Errorf("legend %s: %v", target.LegendFormat, err)
					}
				}
			}
		}
	})
}
