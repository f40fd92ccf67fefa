// Package chart tests deploy/helm and deploy/kubernetes: that the API of Kubernetes and that of the
// Prometheus Operator have what is rendered, that a pod has the capabilities of docs/privileges.md
// and no others, and that rules and dashboards are those of alerts/ and dashboards/. It needs helm;
// there is no cluster.
package chart
