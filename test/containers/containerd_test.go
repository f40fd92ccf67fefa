package containers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sockstate_exporter/internal/kerneltest"
)

// A cluster is a node with containerd, and the part of a kubelet that these tests need: it asks containerd
// for pods by the CRI, and lays out the names of logs.
type cluster struct {
	*node
	client cri.RuntimeServiceClient
	logs   string // as /var/log
	uids   int
}

// tasks is the folder that names containers.
func (c *cluster) tasks() string { return filepath.Join(c.dir, "state/io.containerd.runtime.v2.task") }

const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + imageName + `"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`

const network = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods0", "isGateway": false, "ipMasq": false,
	"ipam": {"type": "host-local", "subnet": "10.88.0.0/16", "dataDir": %q}}]}`

// newCluster starts containerd. files are in the image, beside the server.
func newCluster(t *testing.T, files map[string][]byte, options ...func(*node)) *cluster {
	t.Helper()
	kerneltest.RequireRoot(t)
	for _, program := range []string{"containerd", "ctr", "runc", "nsenter"} {
		kerneltest.RequireCommand(t, program)
	}
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		kerneltest.Skip(t, "needs the CNI plugins: %v", err)
	}
	c := &cluster{node: &node{ns: kerneltest.New(t), dir: shortDir(t), log: new(kerneltest.Log)}}
	for _, set := range options {
		set(c.node)
	}
	c.logs = filepath.Join(c.dir, "log")
	c.write(t, "config.toml", fmt.Sprintf(containerdConfig, c.dir))
	c.write(t, "cni/10-pods.conflist", fmt.Sprintf(network, filepath.Join(c.dir, "ipam")))
	for _, dir := range []string{"log/containers", "log/pods"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.start(t, "containerd", "--config", filepath.Join(c.dir, "config.toml"), "--log-level", "error")

	conn, err := grpc.NewClient("unix://"+filepath.Join(c.dir, "sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c.client = cri.NewRuntimeServiceClient(conn)
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.client.Version(ctx, &cri.VersionRequest{})
		return err
	})
	c.run(t, "ctr", "--address", filepath.Join(c.dir, "sock"), "--namespace", "k8s.io", "images", "import", image(t, files))
	return c
}

func (c *cluster) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A pod is a sandbox with its containers.
type pod struct {
	cluster   *cluster
	name, uid string
	sandbox   string
	config    *cri.PodSandboxConfig
}

const namespace = "shop"

// pod makes one, with the cgroup that the kubelet's driver cgroupfs gives it.
func (c *cluster) pod(t *testing.T, name string, options ...func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	p, err := c.tryPod(t.Context(), name, options...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (c *cluster) tryPod(ctx context.Context, name string, options ...func(*cri.PodSandboxConfig)) (*pod, error) {
	c.uids++
	p := &pod{cluster: c, name: name, uid: fmt.Sprintf("8d5c1f6e-0b3a-4c47-9d86-%012x", c.uids)}
	logs := filepath.Join(c.logs, "pods", namespace+"_"+name+"_"+p.uid)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	p.config = &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: p.uid},
		LogDirectory: logs,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/burstable/pod" + p.uid,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
	for _, change := range options {
		change(p.config)
	}
	answer, err := c.client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		return nil, fmt.Errorf("run pod %s: %w", name, err)
	}
	p.sandbox = answer.PodSandboxId
	return p, nil
}

// container starts a container that listens on the addresses.
func (p *pod) container(t *testing.T, name string, addresses ...string) {
	t.Helper()
	if err := p.tryContainer(t.Context(), name, &cri.ContainerConfig{Args: addresses}); err != nil {
		t.Fatal(err)
	}
}

func (p *pod) tryContainer(ctx context.Context, name string, config *cri.ContainerConfig) error {
	if config.Metadata == nil {
		config.Metadata = new(cri.ContainerMetadata)
	}
	config.Metadata.Name = name
	config.Image = &cri.ImageSpec{Image: imageName}
	config.LogPath = filepath.Join(name, "0.log")
	if config.Linux == nil {
		config.Linux = &cri.LinuxContainerConfig{}
	}
	if err := os.MkdirAll(filepath.Join(p.config.LogDirectory, name), 0o755); err != nil {
		return err
	}
	made, err := p.cluster.client.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.sandbox, Config: config, SandboxConfig: p.config})
	if err != nil {
		return fmt.Errorf("create container %s: %w", name, err)
	}
	if _, err := p.cluster.client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return fmt.Errorf("start container %s: %w", name, err)
	}
	link := fmt.Sprintf("%s_%s_%s-%s.log", p.name, namespace, name, made.ContainerId)
	return os.Symlink(filepath.Join(p.config.LogDirectory, config.LogPath), filepath.Join(p.cluster.logs, "containers", link))
}

func (p *pod) remove(t *testing.T) {
	t.Helper()
	if err := p.tryRemove(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// tryRemove removes the pod, and its logs as a kubelet would.
func (p *pod) tryRemove(ctx context.Context) error {
	if _, err := p.cluster.client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return fmt.Errorf("stop pod %s: %w", p.name, err)
	}
	if _, err := p.cluster.client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.name, err)
	}
	links, err := filepath.Glob(filepath.Join(p.cluster.logs, "containers", p.name+"_"+namespace+"_*"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, p.config.LogDirectory) {
			if err := os.Remove(link); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(p.config.LogDirectory)
}
