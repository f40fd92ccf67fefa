// Package deploy holds what runs the exporter on hosts: units of systemd, packages, an image,
// manifests for Kubernetes, an example with Prometheus, Alertmanager and Grafana. README.md
// says how to use them.
//
// The package has no code but its tests, which do with these files what a host would do. Most
// need root: they start the exporter as another user, with the capabilities and the seccomp
// filter of the unit, or install packages into a root of their own. All happens in mount and
// network namespaces that go with the test.
package deploy
