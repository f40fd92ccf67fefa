package chart

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/model/labels"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// everything is all that can be rendered, by where it comes from.
func everything(t *testing.T) map[string]objects {
	t.Helper()
	all := map[string]objects{"deploy/kubernetes": plainManifests(t)}
	for _, path := range ciValues(t) {
		all[filepath.Base(path)] = render(t, read(t, path))
	}
	return all
}

func TestObjectsAreOfTheAPI(t *testing.T) {
	kinds := make(map[string]bool)
	for from, objects := range everything(t) {
		for name, object := range objects {
			kind, name, _ := strings.Cut(name, " ")
			kinds[kind] = true
			if problems := validation.IsDNS1123Subdomain(name); problems != nil {
				t.Errorf("%s: %s %s: %v", from, kind, name, problems)
			}
			o, ok := object.(meta.Object)
			if !ok {
				t.Fatalf("%T has no metadata", object)
			}
			for key, value := range o.GetLabels() {
				if problems := slices.Concat(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)); problems != nil {
					t.Errorf("%s: %s %s: label %s: %q: %v", from, kind, name, key, value, problems)
				}
			}
			for _, label := range []string{"name", "instance", "version"} {
				if o.GetLabels()["app.kubernetes.io/"+label] == "" {
					t.Errorf("%s: %s %s has no label %s", from, kind, name, label)
				}
			}
		}
	}
	if want := []string{"ConfigMap", "DaemonSet", "PodMonitor", "PrometheusRule", "Secret", "Service", "ServiceAccount", "ServiceMonitor"}; !slices.Equal(slices.Sorted(maps.Keys(kinds)), want) {
		t.Errorf("rendered %v, want %v", slices.Sorted(maps.Keys(kinds)), want)
	}
}

func TestSelectorsSelectThePods(t *testing.T) {
	for from, objects := range everything(t) {
		set := only[apps.DaemonSet](t, objects)
		pods, services := labels.FromMap(set.Spec.Template.Labels), labels.EmptyLabels()
		selectors := map[string]map[string]string{"DaemonSet": set.Spec.Selector.MatchLabels}
		for name, object := range objects {
			switch o := object.(type) {
			case *core.Service:
				services, selectors[name] = labels.FromMap(o.Labels), o.Spec.Selector
			case *monitoring.PodMonitor:
				selectors[name] = o.Spec.Selector.MatchLabels
			}
		}
		for name, object := range objects {
			if o, ok := object.(*monitoring.ServiceMonitor); ok && !selects(o.Spec.Selector.MatchLabels, services) {
				t.Errorf("%s: %s selects %v, the service has %v", from, name, o.Spec.Selector.MatchLabels, services)
			}
		}
		for name, selector := range selectors {
			if !selects(selector, pods) {
				t.Errorf("%s: %s selects %v, the pods have %v", from, name, selector, pods)
			}
		}
	}
}

func selects(selector map[string]string, of labels.Labels) bool {
	for key, value := range selector {
		if of.Get(key) != value {
			return false
		}
	}
	return len(selector) > 0
}

func TestPodCannotDoMoreThanItsCapabilities(t *testing.T) {
	for from, objects := range everything(t) {
		spec := podSpec(t, objects)
		if !spec.HostNetwork || !spec.HostPID || spec.HostIPC {
			t.Errorf("%s: the network of the node %v, its processes %v, its IPC %v", from, spec.HostNetwork, spec.HostPID, spec.HostIPC)
		}
		if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
			t.Errorf("%s: the pod has a token of the API server", from)
		}
		security := spec.Containers[0].SecurityContext
		if !*security.ReadOnlyRootFilesystem || *security.AllowPrivilegeEscalation || security.Privileged != nil {
			t.Errorf("%s: security context %+v", from, security)
		}
		if !slices.Equal(security.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Errorf("%s: only %v are dropped", from, security.Capabilities.Drop)
		}
		for _, mount := range spec.Containers[0].VolumeMounts {
			if !mount.ReadOnly && mount.Name != "more" {
				t.Errorf("%s: %s can be written", from, mount.MountPath)
			}
			if mount.MountPath == "/run" || mount.MountPath == "/run/containerd" {
				t.Errorf("%s: %s has the socket of containerd", from, mount.MountPath)
			}
		}
	}
}

func TestVolumesAreMountedAndMountsHaveVolumes(t *testing.T) {
	for from, objects := range everything(t) {
		spec := podSpec(t, objects)
		var volumes, mounted []string
		for _, v := range spec.Volumes {
			volumes = append(volumes, v.Name)
		}
		for _, m := range spec.Containers[0].VolumeMounts {
			mounted = append(mounted, m.Name)
		}
		if slices.Sort(volumes); !slices.Equal(volumes, slices.Sorted(slices.Values(mounted))) {
			t.Errorf("%s: volumes %v, mounted are %v", from, volumes, mounted)
		}
	}
}
