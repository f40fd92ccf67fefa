package promcheck

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
)

// FromZero are the counters that appear with their first event, each with the metric that a rule
// records of it with a 0 before that event.
type FromZero map[string]string

// fromZero is level:NAME_total:from_zero.
var fromZero = regexp.MustCompile(`^\w+:(\w+_total):from_zero$`)

// FromZero returns those of the rules.
func (r *Rules) FromZero() FromZero {
	counters := make(FromZero)
	for _, rule := range r.All() {
		if m := fromZero.FindStringSubmatch(rule.Record); m != nil {
			counters[m[1]] = rule.Record
		}
	}
	return counters
}

// Check refuses a query that would miss the first event of a counter: one with rate() or increase()
// of the counter itself. Allowed is `rate(recorded{...}[...]) or rate(counter{...}[...])`, which
// shows the zeros of the counter and works without the rules.
func (f FromZero) Check(q Query) error {
	text, err := q.Interpolate(nil)
	if err != nil {
		return err
	}
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return fmt.Errorf("%s: %w", q.Place, err)
	}
	var errs []error
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		call, name := counterCall(node)
		recorded, ok := f[name]
		if ok && !after(path, call, strings.Replace(call.String(), name, recorded, 1)) {
			errs = append(errs, fmt.Errorf("%s: %s misses the first event: use %s", q.Place, call, recorded))
		}
		return nil
	})
	return errors.Join(errs...)
}

// counterCall is a call of a function of counters, with the metric that it is given.
func counterCall(node parser.Node) (*parser.Call, string) {
	call, ok := node.(*parser.Call)
	if !ok || call.Func.Name != "rate" && call.Func.Name != "irate" && call.Func.Name != "increase" {
		return nil, ""
	}
	matrix, ok := call.Args[0].(*parser.MatrixSelector)
	if !ok {
		return nil, ""
	}
	selector, ok := matrix.VectorSelector.(*parser.VectorSelector)
	if !ok {
		return nil, ""
	}
	return call, selector.Name
}

// after says whether the call is the right side of an `or` whose left side is the text.
func after(path []parser.Node, call *parser.Call, text string) bool {
	if len(path) == 0 {
		return false
	}
	or, ok := path[len(path)-1].(*parser.BinaryExpr)
	return ok && or.Op == parser.LOR && or.RHS == parser.Expr(call) && or.LHS.String() == text
}
