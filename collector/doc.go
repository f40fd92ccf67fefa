// Package collector turns snapshots into Prometheus metrics. Each metric family has a file.
// Each scrape takes one snapshot, and all families render that.
//
// What is not known is absent, never 0. If a part of the snapshot is missing, only its metrics
// are: sockstate_scrape_collector_success is 0 for it, and the reason is logged once.
//
// docs/metrics.md is generated from the definitions in this package.
package collector

//go:generate go run sockstate_exporter/internal/metricsdoc -o ../docs/metrics.md
