package chart

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"sockstate_exporter/internal/kerneltest"
)

const (
	chart      = "../../deploy/helm/sockstate-exporter"
	plain      = "../../deploy/kubernetes"
	rulesFile  = "../../alerts/sockstate.rules.yml"
	dashboards = "../../dashboards"

	// What alerts and dashboards have in place of the two addresses that a user sets.
	runbookPlace = "https://runbooks.example.com"
	grafanaPlace = "https://grafana.example.com"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A failure is what helm says when it refuses.
type failure struct{ text string }

func (f *failure) Error() string { return f.text }

// template renders the chart. values are YAML, beside those that have no default.
func template(t *testing.T, values string) (string, error) {
	t.Helper()
	helm := kerneltest.RequireCommand(t, "helm")
	cmd := exec.CommandContext(t.Context(), helm, "template", "sockstate-exporter", chart,
		"--namespace", "monitoring", "--values", chart+"/ci/default-values.yaml", "--values", "-")
	cmd.Stdin = strings.NewReader(values)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = &failure{stderr.String()}
	}
	return string(out), err
}

// render decodes what the chart makes of the values.
func render(t *testing.T, values string) objects {
	t.Helper()
	text, err := template(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, text)
}

// refused is helm's answer to values that the chart refuses.
func refused(t *testing.T, values string) string {
	t.Helper()
	_, err := template(t, values)
	var f *failure
	if !errors.As(err, &f) {
		t.Fatalf("the chart takes\n%s", values)
	}
	return f.text
}

// objects are what is rendered, by kind and name.
type objects map[string]any

// decode is as strict as the API server: a field that its type does not have, in this spelling, is
// an error.
func decode(t *testing.T, text string) objects {
	t.Helper()
	out := make(objects)
	for _, doc := range strings.Split("\n"+text, "\n---\n")[1:] {
		var head struct {
			meta.TypeMeta   `json:",inline"`
			meta.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%v in\n%.500s", err, doc)
		}
		object := map[string]any{
			"apps/v1 DaemonSet":                       new(apps.DaemonSet),
			"v1 Service":                              new(core.Service),
			"v1 ServiceAccount":                       new(core.ServiceAccount),
			"v1 Secret":                               new(core.Secret),
			"v1 ConfigMap":                            new(core.ConfigMap),
			"monitoring.coreos.com/v1 PodMonitor":     new(monitoring.PodMonitor),
			"monitoring.coreos.com/v1 ServiceMonitor": new(monitoring.ServiceMonitor),
			"monitoring.coreos.com/v1 PrometheusRule": new(monitoring.PrometheusRule),
		}[head.APIVersion+" "+head.Kind]
		if object == nil {
			t.Fatalf("%s %s is not known here", head.APIVersion, head.Kind)
		}
		data, err := yaml.YAMLToJSONStrict([]byte(doc + "\n"))
		if err != nil {
			t.Fatalf("%s %s: %v", head.Kind, head.Name, err)
		}
		unknown, err := json.UnmarshalStrict(data, object)
		if err := errors.Join(append(unknown, err)...); err != nil {
			t.Errorf("%s %s: %v", head.Kind, head.Name, err)
		}
		if out[head.Kind+" "+head.Name] != nil {
			t.Errorf("two objects are %s %s", head.Kind, head.Name)
		}
		out[head.Kind+" "+head.Name] = object
	}
	return out
}

// plainManifests are those of deploy/kubernetes.
func plainManifests(t *testing.T) objects {
	t.Helper()
	paths, err := filepath.Glob(plain + "/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("plain manifests: %v, %v", paths, err)
	}
	text := ""
	for _, path := range paths {
		text += read(t, path)
	}
	return decode(t, text)
}

// ciValues are the values that `make lint-chart` takes.
func ciValues(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(chart + "/ci/*-values.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("values: %v, %v", paths, err)
	}
	return paths
}

// only is the one object of a type.
func only[T any](t *testing.T, objects objects) *T {
	t.Helper()
	var found []*T
	for _, object := range objects {
		if o, ok := object.(*T); ok {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of the type %T, want 1", len(found), *new(T))
	}
	return found[0]
}

func podSpec(t *testing.T, objects objects) core.PodSpec {
	t.Helper()
	spec := only[apps.DaemonSet](t, objects).Spec.Template.Spec
	if len(spec.Containers) != 1 {
		t.Fatalf("%d containers, want 1", len(spec.Containers))
	}
	return spec
}
