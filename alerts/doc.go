// Package alerts holds no code. Its files are Prometheus' rules for the exporter's metrics, their
// unit tests, and an example for Alertmanager; README.md says how to install them.
//
// Its tests run promtool and amtool over them, and hold rules, unit tests, runbooks and the
// exporter's metrics together. They need no privilege and no particular kernel.
package alerts
