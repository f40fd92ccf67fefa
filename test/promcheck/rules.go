package promcheck

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Rules are a rule file of Prometheus.
type Rules struct {
	Path   string
	Groups []struct {
		Name  string
		Rules []Rule
	}
}

// A Rule is an alert or a recording rule.
type Rule struct {
	Alert         string
	Record        string
	Expr          string
	For           string
	KeepFiringFor string `yaml:"keep_firing_for"`
	Labels        map[string]string
	Annotations   map[string]string
}

// LoadRules reads a rule file.
func LoadRules(path string) (*Rules, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	rules := &Rules{Path: path}
	if err := yaml.Unmarshal(data, rules); err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	return rules, nil
}

// All are the rules of all groups, in order.
func (r *Rules) All() []Rule {
	var all []Rule
	for _, g := range r.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// Alerts are the alerts among them.
func (r *Rules) Alerts() []Rule {
	var alerts []Rule
	for _, rule := range r.All() {
		if rule.Alert != "" {
			alerts = append(alerts, rule)
		}
	}
	return alerts
}

// Queries are the expressions of all rules, in order.
func (r *Rules) Queries() []Query {
	var queries []Query
	for _, rule := range r.All() {
		queries = append(queries, r.query(rule))
	}
	return queries
}

func (r *Rules) query(rule Rule) Query {
	q := Query{Kind: KindAlert, Place: filepath.Base(r.Path) + ": alert " + rule.Alert, Expr: rule.Expr, Instant: true}
	if rule.Record != "" {
		q.Kind, q.Place = KindRecord, filepath.Base(r.Path)+": record "+rule.Record
	}
	return q
}

// asked is what a template of an annotation asks Prometheus for: query "..." or
// query (printf "..." ...).
var asked = regexp.MustCompile(`\bquery\s+(?:\(\s*printf\s+)?("(?:[^"\\]|\\.)*")`)

// TemplateQueries are the queries in the annotations of all alerts.
func (r *Rules) TemplateQueries() ([]Query, error) {
	// What printf would put in: a value, and matchers.
	placeholders := strings.NewReplacer("%q", `"value"`, "%s", `instance="value"`)
	var queries []Query
	for _, rule := range r.Alerts() {
		for _, name := range slices.Sorted(maps.Keys(rule.Annotations)) {
			place := r.query(rule).Place + ", " + name
			for _, m := range asked.FindAllStringSubmatch(rule.Annotations[name], -1) {
				text, err := strconv.Unquote(m[1])
				if err != nil {
					return nil, fmt.Errorf("%s: query %s: %w", place, m[1], err)
				}
				queries = append(queries, Query{Kind: KindAlert, Place: place, Expr: placeholders.Replace(text), Instant: true})
			}
		}
	}
	return queries, nil
}

// AddRules makes the metrics of recording rules known, each with the labels that its
// expression can have. Those named after a counter, level:NAME_total:operation, are counters, the
// others are gauges. A rule may use those before it, and what it recorded itself before.
func (m *Metrics) AddRules(r *Rules) error {
	var errs []error
	for _, rule := range r.All() {
		if rule.Record == "" {
			continue
		}
		own := slices.Collect(maps.Keys(rule.Labels))
		counter := strings.HasSuffix(strings.Join(strings.SplitN(rule.Record, ":", 3)[:2], ":"), "_total")
		// What it has of itself brings no label that it has not from elsewhere.
		m.byName[rule.Record] = metric{counter: counter, labels: anyLabels()}
		if set, err := m.labelsOf(r.query(rule)); err == nil {
			m.byName[rule.Record] = metric{counter: counter, labels: newLabelSet(set.list()...).with(own...)}
		}
		set, err := m.labelsOf(r.query(rule))
		if err != nil {
			errs = append(errs, err)
			continue // any label, so that those who use it are not refused as well
		}
		m.byName[rule.Record] = metric{counter: counter, labels: set.with(own...)}
	}
	return errors.Join(errs...)
}
