// Package dashboards tests the Grafana dashboards in dashboards/. It has only tests, and they
// need no privilege.
package dashboards
