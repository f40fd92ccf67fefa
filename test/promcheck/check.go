package promcheck

import (
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// Check refuses a query that cannot work. The error names its place, and everything that is
// wrong with it.
func (m *Metrics) Check(q Query) error {
	_, err := m.labelsOf(q)
	return err
}

// labelsOf checks a query, and says which labels its result may have.
func (m *Metrics) labelsOf(q Query) (labelSet, error) {
	text, err := q.Interpolate(nil)
	if err != nil {
		return labelSet{}, err
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return labelSet{}, fmt.Errorf("%s: %w\n\t%s", q.Place, err, q.Expr)
	}
	c := checker{metrics: m, recording: q.Kind == KindRecord}
	set := c.expr(expr)
	if q.Label != "" {
		c.need(set, q.Label, "label_values asks for")
	}
	if len(c.errs) > 0 {
		return labelSet{}, fmt.Errorf("%s: %w\n\t%s", q.Place, errors.Join(c.errs...), q.Expr)
	}
	return set, nil
}

// A checker goes through one expression.
type checker struct {
	metrics   *Metrics
	recording bool // a recording rule, which may make a counter of a counter
	errs      []error
}

func (c *checker) errorf(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *checker) need(set labelSet, label, why string) {
	if !set.has(label) {
		c.errorf("%s label %q, of which there is none (labels: %s)", why, label, set)
	}
}

// expr is the labels that the result of e may have.
func (c *checker) expr(e parser.Expr) labelSet {
	switch e := e.(type) {
	case *parser.VectorSelector:
		return c.selector(e)
	case *parser.MatrixSelector:
		return c.expr(e.VectorSelector)
	case *parser.SubqueryExpr:
		return c.expr(e.Expr)
	case *parser.StepInvariantExpr:
		return c.expr(e.Expr)
	case *parser.ParenExpr:
		return c.expr(e.Expr)
	case *parser.UnaryExpr:
		return c.expr(e.Expr)
	case *parser.AggregateExpr:
		return c.aggregate(e)
	case *parser.BinaryExpr:
		return c.binary(e)
	case *parser.Call:
		return c.call(e)
	case *parser.NumberLiteral, *parser.StringLiteral:
		return newLabelSet()
	default:
		c.errorf("no rule for %T", e)
		return anyLabels()
	}
}

func (c *checker) selector(s *parser.VectorSelector) labelSet {
	set := c.named(s)
	for _, m := range s.LabelMatchers {
		if m.Name != model.MetricNameLabel && !set.has(m.Name) {
			c.errorf("%s has no label %q (labels: %s)", s.Name, m.Name, set)
		}
	}
	return set
}

// named is the labels of the metrics that a selector names.
func (c *checker) named(s *parser.VectorSelector) labelSet {
	if s.Name != "" {
		x, ok := c.metrics.find(s.Name)
		if !ok {
			c.errorf("no metric %s", s.Name)
			return anyLabels()
		}
		return x.labels
	}
	set, found := newLabelSet(), false
	for name, x := range c.metrics.byName {
		if matchesName(s, name) {
			set, found = set.union(x.labels), true
		}
	}
	if !found {
		c.errorf("no metric that matches %s", s)
		return anyLabels()
	}
	return set
}

func matchesName(s *parser.VectorSelector, name string) bool {
	named := false
	for _, m := range s.LabelMatchers {
		if m.Name == model.MetricNameLabel {
			named = true
			if !m.Matches(name) {
				return false
			}
		}
	}
	return named
}

func (c *checker) aggregate(e *parser.AggregateExpr) labelSet {
	set := c.expr(e.Expr)
	if e.Param != nil {
		c.expr(e.Param)
	}
	for _, l := range e.Grouping {
		why := e.Op.String() + " by"
		if e.Without {
			why = e.Op.String() + " without"
		}
		c.need(set, l, why)
	}
	switch e.Op {
	case parser.TOPK, parser.BOTTOMK, parser.LIMITK, parser.LIMIT_RATIO:
		return set
	default:
	}
	result := newLabelSet(e.Grouping...)
	if e.Without {
		result = set.without(e.Grouping...)
	}
	if name, ok := e.Param.(*parser.StringLiteral); ok && e.Op == parser.COUNT_VALUES {
		result = result.with(name.Val)
	}
	return result
}

func (c *checker) binary(e *parser.BinaryExpr) labelSet {
	left, right := c.expr(e.LHS), c.expr(e.RHS)
	if e.VectorMatching == nil || e.LHS.Type() == parser.ValueTypeScalar || e.RHS.Type() == parser.ValueTypeScalar {
		return left.union(right)
	}
	vm := e.VectorMatching
	for _, l := range vm.MatchingLabels {
		switch {
		case vm.On:
			c.need(left, l, "on() of the left side of "+e.Op.String())
			c.need(right, l, "on() of the right side of "+e.Op.String())
		case !left.has(l):
			c.need(right, l, "ignoring() of "+e.Op.String())
		}
	}
	switch {
	case e.Op == parser.LOR:
		return left.union(right)
	case e.Op.IsSetOperator():
		return left
	case vm.Card == parser.CardManyToOne:
		return c.include(vm, left, right, "group_left()")
	case vm.Card == parser.CardOneToMany:
		return c.include(vm, right, left, "group_right()")
	case vm.On:
		return newLabelSet(vm.MatchingLabels...)
	default:
		return left.without(vm.MatchingLabels...)
	}
}

func (c *checker) include(vm *parser.VectorMatching, many, one labelSet, what string) labelSet {
	for _, l := range vm.Include {
		c.need(one, l, what)
	}
	return many.with(vm.Include...)
}

// Functions that make sense of counters only, and of gauges only.
var (
	ofCounters = []string{"rate", "irate", "increase", "resets"}
	ofGauges   = []string{
		"delta", "idelta", "deriv", "predict_linear",
		"avg_over_time", "min_over_time", "max_over_time", "sum_over_time",
		"quantile_over_time", "stddev_over_time", "stdvar_over_time",
	}
)

func (c *checker) call(e *parser.Call) labelSet {
	var set labelSet
	found := false
	for _, arg := range e.Args {
		s := c.expr(arg)
		if t := arg.Type(); t == parser.ValueTypeVector || t == parser.ValueTypeMatrix {
			set, found = s, true
		}
	}
	c.types(e)
	switch e.Func.Name {
	case "label_replace", "label_join":
		return c.relabel(e, set)
	case "absent", "absent_over_time":
		return c.absent(e)
	case "scalar":
		return newLabelSet()
	case "histogram_quantile":
		return set.without("le")
	}
	if !found {
		return newLabelSet()
	}
	return set
}

// types holds what a function takes against the type of the metric that it is given.
func (c *checker) types(e *parser.Call) {
	counters, gauges := slices.Contains(ofCounters, e.Func.Name), slices.Contains(ofGauges, e.Func.Name)
	if !counters && !gauges {
		return
	}
	for _, arg := range e.Args {
		matrix, ok := arg.(*parser.MatrixSelector)
		if !ok {
			if _, sub := arg.(*parser.SubqueryExpr); sub && counters {
				c.errorf("%s() over a subquery: no counter", e.Func.Name)
			}
			continue
		}
		selector, ok := matrix.VectorSelector.(*parser.VectorSelector)
		if !ok {
			continue
		}
		x, known := c.metrics.find(selector.Name)
		switch {
		case !known: // said already
		case counters && !x.counter:
			c.errorf("%s() over %s, which is a gauge", e.Func.Name, selector.Name)
		case gauges && x.counter && (!c.recording || e.Func.Name != "min_over_time"):
			c.errorf("%s() over %s, which is a counter", e.Func.Name, selector.Name)
		}
	}
}

// relabel is label_replace(v, dst, replacement, src, regex) and label_join(v, dst, separator, src...).
func (c *checker) relabel(e *parser.Call, set labelSet) labelSet {
	var words []string
	for _, arg := range e.Args[1:] {
		if s, ok := arg.(*parser.StringLiteral); ok {
			words = append(words, s.Val)
		}
	}
	sources := words[2:]
	if e.Func.Name == "label_replace" {
		sources = words[2:3]
	}
	for _, l := range sources {
		// An empty source is a way to set a label to a constant.
		if l != "" && l != model.MetricNameLabel {
			c.need(set, l, e.Func.Name+"() from")
		}
	}
	return set.with(words[0])
}

// absent has the labels that its selector matches by equality.
func (*checker) absent(e *parser.Call) labelSet {
	set := newLabelSet()
	arg := e.Args[0]
	if matrix, ok := arg.(*parser.MatrixSelector); ok {
		arg = matrix.VectorSelector
	}
	if s, ok := arg.(*parser.VectorSelector); ok {
		for _, m := range s.LabelMatchers {
			if m.Name != model.MetricNameLabel && m.Type == labels.MatchEqual {
				set.names[m.Name] = true
			}
		}
	}
	return set
}
