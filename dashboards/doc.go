// Package dashboards holds the Grafana dashboards, and the tests that keep them right; README.md
// says how to use them. It has no code of its own.
package dashboards
