package containers

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/test/launch"
)

// capabilities are those of docs/containers.md for bind tracing, owners and namespaces.
func capabilities() []string {
	return []string{"BPF", "PERFMON", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"}
}

// The exporter in a pod, as a DaemonSet runs it: in the network and the pid namespace of the node, with
// the capabilities that it needs, a read-only root, and names of logs and tasks as read-only mounts.
func TestExporterInAPodSeesTheOthersByName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exporter")
	launch.Copy(t, path)
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, map[string][]byte{"sockstate_exporter": program}, withHostPIDs)
	web := c.pod(t, "web-0")
	web.container(t, "nginx", "0.0.0.0:8080")
	ofNode := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_NODE}
	own := c.pod(t, "exporter-x2x4z", func(p *cri.PodSandboxConfig) { p.Linux.SecurityContext.NamespaceOptions = ofNode })
	mount := func(from, to string) *cri.Mount {
		return &cri.Mount{HostPath: from, ContainerPath: "/host" + to, Readonly: true}
	}
	err = own.tryContainer(t.Context(), "sockstate-exporter", &cri.ContainerConfig{
		Command: []string{"/sockstate_exporter"},
		Args:    []string{"--web.listen-address=" + launch.Address, allNamespaces, "--path.rootfs=/host"},
		Mounts: []*cri.Mount{
			mount(filepath.Join(c.logs, "containers"), "/var/log/containers"), mount(filepath.Join(c.logs, "pods"), "/var/log/pods"),
			mount(c.tasks(), "/run/containerd/io.containerd.runtime.v2.task"),
			{HostPath: mounts.Tracefs, ContainerPath: mounts.Tracefs, Readonly: true}, // where tracing needs tracepoints
		},
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: ofNode, ReadonlyRootfs: true, NoNewPrivs: true,
			Capabilities: &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: capabilities()},
			Seccomp:      &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := &exporter{launch.Of(t, c.ns, launch.Address, c.ns.Command(t, "true")), make(map[string]float64)}
	eventually(t, func() error {
		if status, _, err := e.TryGet("/-/ready"); err != nil || status != http.StatusOK {
			return fmt.Errorf("the exporter is not ready: status %d: %w", status, err)
		}
		return nil
	})
	m := e.expect(t,
		web.info(), web.listener("nginx", "0.0.0.0", "8080"),
		`sockstate_tcp_listener_info{address="127.0.0.1",container="sockstate-exporter",family="ipv4",port="10048",process="sockstate_exporter"} 1`,
	)
	for _, feature := range []string{"bind_tracing", "owners", "namespaces", "reuse_flags"} {
		if n, err := m.Sum("sockstate_feature_available", `feature="`+feature+`"`); err != nil || n != 1 {
			t.Errorf("%s: got %v, %v, want 1\n%s", feature, n, err, strings.Join(slices.Collect(m.Samples("sockstate_feature_available")), "\n"))
		}
	}
	web.crash(t, "sidecar", "0.0.0.0:8080", 2)
	eventually(t, func() error {
		if n := failures(e.metrics(t), "shop/web-0"); n != 2 {
			return fmt.Errorf("%v failed binds of the crash loop, want 2", n)
		}
		return nil
	})
	if page := e.Get(t, "/failures?format=json"); !strings.Contains(page, "server in pod shop/web-0 (pid ") {
		t.Errorf("/failures does not name the pod:\n%s", page)
	}
}
