package deploy

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"sockstate_exporter/internal/kerneltest"
)

// manifests are all that is rendered, by kind and name. A field that the type of the API does
// not have is an error.
func manifests(t *testing.T) map[string]any {
	t.Helper()
	out := make(map[string]any)
	for _, text := range strings.Split(run(t, exec.Command("../../deploy/kubernetes/render")), "\n---\n") {
		var head struct {
			meta.TypeMeta   `json:",inline"`
			meta.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(text), &head); err != nil {
			t.Fatalf("%v in\n%.500s", err, text)
		}
		kinds := map[string]any{
			"apps/v1 DaemonSet":                       new(apps.DaemonSet),
			"v1 Service":                              new(core.Service),
			"v1 ConfigMap":                            new(core.ConfigMap),
			"monitoring.coreos.com/v1 PodMonitor":     new(monitoring.PodMonitor),
			"monitoring.coreos.com/v1 PrometheusRule": new(monitoring.PrometheusRule),
		}
		object := kinds[head.APIVersion+" "+head.Kind]
		if object == nil {
			t.Fatalf("%s %s is not known here", head.APIVersion, head.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(text+"\n"), object); err != nil {
			t.Errorf("%s %s: %v", head.Kind, head.Name, err)
		}
		out[head.Kind+" "+head.Name] = object
	}
	return out
}

func daemonSet(t *testing.T, objects map[string]any) apps.DaemonSetSpec {
	t.Helper()
	set, ok := objects["DaemonSet sockstate-exporter"].(*apps.DaemonSet)
	if !ok {
		t.Fatal("no DaemonSet")
	}
	return set.Spec
}

func TestManifestsAreOfTheAPI(t *testing.T) {
	objects := manifests(t)
	set := daemonSet(t, objects)
	labels := set.Template.Labels
	selectors := map[string]map[string]string{"DaemonSet": set.Selector.MatchLabels}
	if service, ok := objects["Service sockstate-exporter"].(*core.Service); ok {
		selectors["Service"] = service.Spec.Selector
	}
	if monitor, ok := objects["PodMonitor sockstate-exporter"].(*monitoring.PodMonitor); ok {
		selectors["PodMonitor"] = monitor.Spec.Selector.MatchLabels
	}
	if len(selectors) != 3 {
		t.Errorf("only %v", selectors)
	}
	for of, selector := range selectors {
		if len(selector) == 0 {
			t.Errorf("the %s selects everything", of)
		}
		for key, value := range selector {
			if labels[key] != value {
				t.Errorf("the %s selects %s=%s, a pod has %q", of, key, value, labels[key])
			}
		}
	}
	// The limits of a ConfigMap, and of a key in it.
	dashboards, err := filepath.Glob("../../dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range dashboards {
		base := filepath.Base(path)
		config, ok := objects["ConfigMap sockstate-exporter-dashboard-"+strings.TrimSuffix(base, ".json")].(*core.ConfigMap)
		if !ok || config.Data["sockstate-"+base] != read(t, path) {
			t.Errorf("%s is not in a ConfigMap as it is", base)
		}
	}
	rules, err := filepath.Glob("../../alerts/*.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := objects["PrometheusRule sockstate-exporter"]; len(rules) > 0 && !ok {
		t.Error("the alerts are in no PrometheusRule")
	}
}

func TestPodHasTheDocumentedCapabilitiesAndNoOthers(t *testing.T) {
	spec := daemonSet(t, manifests(t)).Template.Spec
	if !spec.HostNetwork || !spec.HostPID || len(spec.Containers) != 1 {
		t.Errorf("host network %v, host processes %v, %d containers", spec.HostNetwork, spec.HostPID, len(spec.Containers))
	}
	security := spec.Containers[0].SecurityContext
	var added []string
	for _, name := range security.Capabilities.Add {
		added = append(added, "CAP_"+string(name))
	}
	slices.Sort(added)
	if want := documented(t); !slices.Equal(added, want) || !slices.Equal(security.Capabilities.Drop, []core.Capability{"ALL"}) {
		t.Errorf("capabilities %v, docs/privileges.md has %v; dropped %v", added, want, security.Capabilities.Drop)
	}
	if !*security.ReadOnlyRootFilesystem || *security.AllowPrivilegeEscalation || security.Privileged != nil {
		t.Errorf("security context %+v", security)
	}
}

// What the kubelet does: the container's arguments, and its probes.
func TestPodAnswersItsProbes(t *testing.T) {
	kerneltest.RequireNetNS(t)
	container := daemonSet(t, manifests(t)).Template.Spec.Containers[0]
	ns := kerneltest.New(t)
	e := start(t, ns, ns.Command(t, exporterPath(t), container.Args...))
	for _, probe := range []*core.Probe{container.LivenessProbe, container.ReadinessProbe} {
		if probe.HTTPGet.Port.String() != container.Ports[0].Name || container.Ports[0].ContainerPort != 10048 {
			t.Errorf("probes port %v of %v", probe.HTTPGet.Port, container.Ports)
		}
		if status, _, err := e.TryGet(probe.HTTPGet.Path); status != 200 || err != nil {
			t.Errorf("%s: %d, %v", probe.HTTPGet.Path, status, err)
		}
	}
}

// promtool reads what the operator would hand to Prometheus.
func TestRulesOfTheManifestAreThoseOfTheAlerts(t *testing.T) {
	promtool := kerneltest.RequireCommand(t, "promtool")
	rules, ok := manifests(t)["PrometheusRule sockstate-exporter"].(*monitoring.PrometheusRule)
	if !ok {
		return // no alerts in this tree
	}
	text, err := json.Marshal(rules.Spec)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/rules.yml"
	write(t, path, string(text))
	got := run(t, exec.Command(promtool, "check", "rules", path))
	want := run(t, exec.Command(promtool, "check", "rules", "../../alerts/sockstate.rules.yml"))
	_, got, _ = strings.Cut(got, "\n")
	_, want, _ = strings.Cut(want, "\n")
	if got != want || !strings.Contains(got, "rules found") {
		t.Errorf("promtool: %s, of the file: %s", got, want)
	}
}
