// Package promcheck holds every PromQL query of the project against what the exporter really
// has: those of dashboards, of rule files, and of the runbooks' promql blocks. It is help for
// tests.
//
// A query is refused when it does not parse, names a metric that nobody exposes, matches or
// groups by a label that the metric has not, takes rate() of a gauge or the delta() of a
// counter. The metrics of the exporter come from its collectors, those of client_golang from a
// registry that is really gathered, and those of recording rules from their expressions; only
// Prometheus' own few are spelled out here.
//
// It needs no privilege and no Prometheus.
package promcheck
