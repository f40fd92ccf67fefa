// Package collector turns snapshots into Prometheus metrics: one file per metric family,
// one snapshot per scrape, of which every family renders its part.
//
// What is not known is absent, never 0. A part that could not be had costs its own metrics
// only: sockstate_scrape_collector_success says 0 for it, and the reason is logged once.
//
// docs/metrics.md is generated from the definitions in this package.
package collector

//go:generate go run sockstate_exporter/internal/metricsdoc -o ../docs/metrics.md
