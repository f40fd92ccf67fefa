package promcheck

import (
	"fmt"
	"regexp"
	"strings"
)

// A Kind is where a query has its place.
type Kind string

// The kinds of query.
const (
	KindPanel      Kind = "panel"
	KindVariable   Kind = "variable"
	KindAnnotation Kind = "annotation"
	KindRecord     Kind = "record"
	KindAlert      Kind = "alert"
	KindRunbook    Kind = "runbook"
)

// A Query is a PromQL expression with its place.
type Query struct {
	Kind Kind
	// Place is for people: file, panel and target, or file and rule.
	Place string
	// Expr may contain Grafana variables. Of a variable's label_values(selector, label) it is
	// the selector.
	Expr string
	// Label is the label of label_values, otherwise empty.
	Label string
	// Instant is set for a query that is asked at one moment, not over a range.
	Instant bool
	// Vars are names of the variables that Expr may use, besides Grafana's own.
	Vars []string
}

// builtin are Grafana's own variables with values that make valid PromQL of any sane use.
var builtin = map[string]string{
	"__interval":      "30s",
	"__interval_ms":   "30000",
	"__rate_interval": "2m",
	"__range":         "1h",
	"__range_s":       "3600",
	"__range_ms":      "3600000",
	"__from":          "1700000000000",
	"__to":            "1700003600000",
}

// anyValue stands for each dashboard variable that the caller gives no value: in a regular
// expression it matches whatever a label holds, nothing included.
const anyValue = ".*"

// A variable is $name, ${name}, ${name:format} or [[name]]. $1 is label_replace's.
var variable = regexp.MustCompile(`\$([A-Za-z_]\w*)|\$\{([A-Za-z_]\w*)(?::[^}]*)?\}|\[\[([A-Za-z_]\w*)(?::[^\]]*)?\]\]`)

// Interpolate replaces the variables of a query, as Grafana does: values first, then defaults
// for Grafana's own (2m for $__rate_interval and so on), then `.*` for the dashboard's. A
// variable that is none of them is an error.
func (q Query) Interpolate(values map[string]string) (string, error) {
	var unknown []string
	expr := variable.ReplaceAllStringFunc(q.Expr, func(s string) string {
		m := variable.FindStringSubmatch(s)
		name := m[1] + m[2] + m[3]
		if v, ok := values[name]; ok {
			return v
		}
		if v, ok := builtin[name]; ok {
			return v
		}
		for _, v := range q.Vars {
			if v == name {
				return anyValue
			}
		}
		unknown = append(unknown, "$"+name)
		return s
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("%s: no such variable: %s", q.Place, strings.Join(unknown, ", "))
	}
	return expr, nil
}
