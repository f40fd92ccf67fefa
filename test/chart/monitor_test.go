package chart

import (
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// relabeled is what Prometheus makes of the labels of a target.
func relabeled(t *testing.T, target labels.Labels, configs []monitoring.RelabelConfig) labels.Labels {
	t.Helper()
	var out []*relabel.Config
	for _, c := range configs {
		config := relabel.DefaultRelabelConfig
		config.NameValidationScheme = model.UTF8Validation
		config.TargetLabel = c.TargetLabel
		for _, name := range c.SourceLabels {
			config.SourceLabels = append(config.SourceLabels, model.LabelName(name))
		}
		if c.Action != "" {
			config.Action = relabel.Action(c.Action)
		}
		if c.Regex != "" {
			config.Regex = relabel.MustNewRegexp(c.Regex)
		}
		if c.Replacement != nil {
			config.Replacement = *c.Replacement
		}
		out = append(out, &config)
	}
	b := labels.NewBuilder(target)
	if !relabel.ProcessBuilder(b, out...) {
		t.Fatalf("%v is dropped", target)
	}
	return b.Labels()
}

// The operator sets these labels of a target before it applies those of the monitor.
func TestMonitorsKeepThePodOfTheMetricAndNotThatOfTheExporter(t *testing.T) {
	target := labels.FromStrings("__meta_kubernetes_pod_node_name", "node-1", "instance", "10.0.0.1:10048",
		"job", "sockstate-exporter", "namespace", "monitoring", "pod", "sockstate-exporter-x2x4z", "container", "sockstate-exporter")
	want := labels.FromStrings("__meta_kubernetes_pod_node_name", "node-1", "instance", "node-1", "job", "sockstate-exporter")
	pods := only[monitoring.PodMonitor](t, render(t, "podMonitor: {enabled: true}")).Spec
	services := only[monitoring.ServiceMonitor](t, render(t, "serviceMonitor: {enabled: true}")).Spec
	plain := only[monitoring.PodMonitor](t, plainManifests(t)).Spec
	for from, c := range map[string]struct {
		honor bool
		rules []monitoring.RelabelConfig
	}{
		"PodMonitor":        {pods.PodMetricsEndpoints[0].HonorLabels, pods.PodMetricsEndpoints[0].RelabelConfigs},
		"ServiceMonitor":    {services.Endpoints[0].HonorLabels, services.Endpoints[0].RelabelConfigs},
		"deploy/kubernetes": {plain.PodMetricsEndpoints[0].HonorLabels, plain.PodMetricsEndpoints[0].RelabelConfigs},
	} {
		if !c.honor {
			t.Errorf("%s: a metric's own pod becomes exported_pod", from)
		}
		if got := relabeled(t, target, c.rules); !labels.Equal(got, want) {
			t.Errorf("%s: the target has %v, want %v", from, got, want)
		}
	}
}

func TestMonitorsFindPodsOfAnotherNamespace(t *testing.T) {
	monitor := only[monitoring.PodMonitor](t, render(t, "podMonitor: {enabled: true, namespace: prometheus}"))
	if names := monitor.Spec.NamespaceSelector.MatchNames; monitor.Namespace != "prometheus" || len(names) != 1 || names[0] != "monitoring" {
		t.Errorf("a monitor in %s looks in %v, the pods are in monitoring", monitor.Namespace, names)
	}
}
