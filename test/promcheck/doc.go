// Package promcheck checks every PromQL query of the project against the metrics that the exporter
// really has. The queries are those of dashboards, rule files and the promql blocks of runbooks. It
// is help for tests.
//
// A query is refused when it does not parse, names a metric that nobody exposes, matches or
// groups by a label that the metric does not have, or takes rate() of a gauge or delta() of a
// counter. The metrics of the exporter come from its collectors, those of client_golang from a
// registry that is really gathered, and those of recording rules from their expressions; only
// Prometheus' own few are spelled out here.
//
// It needs no privilege and no Prometheus.
package promcheck
