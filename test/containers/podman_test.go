package containers

import (
	"path/filepath"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestPodmanContainersAreCalledByName(t *testing.T) {
	kerneltest.RequireRoot(t)
	for _, program := range []string{"podman", "conmon", "runc", "nsenter"} {
		kerneltest.RequireCommand(t, program)
	}
	n := newNode(t)
	storage := filepath.Join(n.dir, "storage")
	podman := func(args ...string) {
		t.Helper()
		n.run(t, append([]string{
			"podman", "--root=" + storage, "--runroot=" + filepath.Join(n.dir, "run"), "--tmpdir=" + filepath.Join(n.dir, "tmp"),
			"--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime=runc",
		}, args...)...)
	}
	podman("load", "--input", image(t, nil))
	podman("run", "--detach", "--network=none", "--name=web", imageName, "127.0.0.1:8080")
	podman("run", "--detach", "--network=none", "--name=gone", "--rm", imageName, "127.0.0.1:8081")
	e := n.watch(t, allNamespaces, "--containers.storage="+storage)
	e.expect(t,
		`sockstate_netns_info{netns="web",runtime="podman"} 1`, `sockstate_netns_info{netns="gone",runtime="podman"} 1`,
		`sockstate_tcp_listener_info{address="127.0.0.1",container="web",family="ipv4",netns="web",port="8080",process="server"} 1`,
		`sockstate_tcp_listener_info{address="127.0.0.1",container="gone",family="ipv4",netns="gone",port="8081",process="server"} 1`,
	)
	podman("stop", "--time=1", "web", "gone")
}
