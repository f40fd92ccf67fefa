package chart

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// pod prepares the exporter with the arguments of the container. It listens where the test finds
// it, and web.yml, if it has one, is in dir.
func pod(t *testing.T, container core.Container, dir string) *launch.Exporter {
	t.Helper()
	var args []string
	for _, arg := range container.Args {
		switch name, _, _ := strings.Cut(arg, "="); {
		case name == "--web.listen-address", name == "--web.config.file" && dir == "":
		case name == "--web.config.file":
			args = append(args, strings.Replace(arg, container.VolumeMounts[len(container.VolumeMounts)-1].MountPath, dir, 1))
		default:
			args = append(args, arg)
		}
	}
	return launch.New(t, kerneltest.New(t), args...)
}

// What the kubelet does: the arguments of the container, and its probes.
func TestExporterTakesTheArgumentsAndAnswersTheProbes(t *testing.T) {
	kerneltest.RequireNetNS(t)
	started := make(map[string]bool)
	for from, objects := range everything(t) {
		container := podSpec(t, objects).Containers[0]
		args := strings.Join(container.Args, " ")
		if started[args] {
			continue
		}
		started[args] = true
		t.Run(from, func(t *testing.T) {
			e := pod(t, container, "")
			e.Run(t)
			for _, probe := range []*core.Probe{container.LivenessProbe, container.ReadinessProbe} {
				if probe.HTTPGet == nil {
					continue // connects only
				}
				if probe.HTTPGet.Port.String() != container.Ports[0].Name {
					t.Errorf("probes port %v of %v", probe.HTTPGet.Port, container.Ports)
				}
				e.Get(t, probe.HTTPGet.Path)
			}
		})
	}
}

func TestPortIsThatOfTheArguments(t *testing.T) {
	container := podSpec(t, render(t, "port: 9999\nlistenAddress: 127.0.0.1")).Containers[0]
	if port := container.Ports[0]; port.ContainerPort != 9999 || port.HostPort != 9999 || !slices.Contains(container.Args, "--web.listen-address=127.0.0.1:9999") {
		t.Errorf("ports %+v, arguments %v", container.Ports, container.Args)
	}
	if host := container.LivenessProbe.HTTPGet.Host; host != "127.0.0.1" {
		t.Errorf("the kubelet asks %q, where nothing listens", host)
	}
}

// The Secret is what --web.config.file names.
func TestPasswordOfTheValuesKeepsOthersOut(t *testing.T) {
	kerneltest.RequireNetNS(t)
	objects := render(t, `
web:
  config:
    basic_auth_users:
      prometheus: $2a$04$eWgvQ6vX1OcZ.n/4XYyrYeGfnShJ06tJBSJrhZ4jrXU6EztFwXp7e # correct horse
`)
	spec := podSpec(t, objects)
	secret := only[core.Secret](t, objects)
	volume := spec.Volumes[len(spec.Volumes)-1]
	if name := volume.Projected.Sources[0].Secret.Name; name != secret.Name {
		t.Fatalf("the volume %s has the Secret %s, want %s", volume.Name, name, secret.Name)
	}
	dir := t.TempDir()
	for name, text := range secret.StringData {
		write(t, filepath.Join(dir, name), text)
	}
	e := pod(t, spec.Containers[0], dir)
	e.Address = "prometheus:correct%20horse@" + launch.Address
	e.Run(t)
	e.Address = launch.Address
	if status, _, err := e.TryGet("/metrics"); status != http.StatusUnauthorized || err != nil {
		t.Errorf("without the password: status %d, %v; want 401", status, err)
	}
	if probe := spec.Containers[0].ReadinessProbe; probe.HTTPGet != nil || probe.TCPSocket == nil {
		t.Errorf("the kubelet has no password for its probe %+v", probe)
	}
}

func TestProbesFollowTheWebConfig(t *testing.T) {
	for values, want := range map[string]string{
		"": "HTTP",
		"web: {config: {tls_server_config: {cert_file: tls.crt, key_file: tls.key}}}":                                   "HTTPS",
		"web: {config: {tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}}}": "TCP",
		"web: {config: {tls_server_config: {cert_file: a, key_file: b, client_auth_type: VerifyClientCertIfGiven}}}":    "HTTPS",
		"web: {existingSecret: web}": "TCP",
		"web: {existingSecret: web}\nlivenessProbe: {httpGet: {path: /, port: metrics, scheme: HTTPS}}": "HTTPS",
	} {
		probe := podSpec(t, render(t, values)).Containers[0].LivenessProbe
		got := "TCP"
		if probe.HTTPGet != nil {
			got = string(probe.HTTPGet.Scheme)
		}
		if got != want {
			t.Errorf("with %q the kubelet asks by %s, want %s", values, got, want)
		}
	}
}
