package promcheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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

// AddRules makes the metrics of recording rules known, each with the labels that its
// expression can have. They are gauges. A rule may use those before it, and its own last value.
func (m *Metrics) AddRules(r *Rules) error {
	var errs []error
	for _, rule := range r.All() {
		if rule.Record == "" {
			continue
		}
		m.byName[rule.Record] = metric{labels: m.labelsWithoutItself(r, rule)}
		set, err := m.labelsOf(r.query(rule))
		if err != nil {
			errs = append(errs, err)
			set = anyLabels() // so that those who use it are not refused as well
		}
		for l := range rule.Labels {
			set = set.with(l)
		}
		m.byName[rule.Record] = metric{labels: set}
	}
	return errors.Join(errs...)
}

// labelsWithoutItself is what a rule's own last value can add no label to.
func (m *Metrics) labelsWithoutItself(r *Rules, rule Rule) labelSet {
	m.byName[rule.Record] = metric{labels: anyLabels()}
	set, err := m.labelsOf(r.query(rule))
	if err != nil {
		return anyLabels() // the error is the same when it is asked again
	}
	return newLabelSet(set.list()...)
}
