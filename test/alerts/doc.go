// Package alerts tests alerts/. It runs promtool and amtool on the rules and their unit tests, and
// checks that rules, unit tests, runbooks and the exporter's metrics agree. It has only tests.
//
// They need no privilege and no particular kernel.
package alerts
