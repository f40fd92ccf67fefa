// Package alerts tests alerts/: it runs promtool and amtool over the rules and their unit tests,
// and holds rules, unit tests, runbooks and the exporter's metrics together. It has only tests.
//
// They need no privilege and no particular kernel.
package alerts
