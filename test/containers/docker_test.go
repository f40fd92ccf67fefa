package containers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"

	"golang.org/x/sys/unix"
)

// A docker is a node with Docker.
type docker struct {
	*node
	socket string
}

func newDocker(t *testing.T) *docker {
	t.Helper()
	kerneltest.RequireRoot(t)
	for _, program := range []string{"dockerd", "docker", "containerd", "runc", "nsenter"} {
		kerneltest.RequireCommand(t, program)
	}
	d := &docker{node: &node{ns: kerneltest.New(t), dir: shortDir(t), log: new(kerneltest.Log)}}
	if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.socket = "unix://" + filepath.Join(d.dir, "sock")
	d.start(t, "dockerd", "--host="+d.socket, "--data-root="+filepath.Join(d.dir, "data"), "--exec-root="+filepath.Join(d.dir, "exec"),
		"--pidfile="+filepath.Join(d.dir, "pid"), "--config-file="+filepath.Join(d.dir, "daemon.json"), "--storage-driver=vfs", "--log-level=error",
		"--oom-score-adjust=0", "--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false")
	eventually(t, func() error {
		out, err := d.try(t, "docker", "--host", d.socket, "version")
		if err != nil {
			return fmt.Errorf("docker version: %w\n%s\n%s", err, out, d.log)
		}
		return nil
	})
	d.docker(t, "load", "--input", image(t, nil))
	return d
}

func (d *docker) docker(t *testing.T, args ...string) string {
	t.Helper()
	return d.run(t, append([]string{"docker", "--host", d.socket}, args...)...)
}

// served says that the listener's network namespace has the name.
func served(m launch.Metrics, netns, port, container string) error {
	_, err := m.Sum("sockstate_tcp_listener_info", fmt.Sprintf("netns=%q", netns), fmt.Sprintf("port=%q", port), fmt.Sprintf("container=%q", container))
	return err
}

// ordinary are the files that are no network namespaces.
func ordinary(t *testing.T, glob string) (files []string) {
	t.Helper()
	all, err := filepath.Glob(glob)
	if err != nil || len(all) == 0 {
		t.Fatalf("no files %s: %v", glob, err)
	}
	for _, path := range all {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err == nil && st.Type != unix.NSFS_MAGIC {
			files = append(files, path)
		}
	}
	return files
}

func TestDockerContainersAreCalledByName(t *testing.T) {
	d := newDocker(t)
	d.docker(t, "run", "--detach", "--name=web", imageName, "0.0.0.0:8080")
	d.docker(t, "run", "--detach", "--name=sidecar", "--network=container:web", imageName, "0.0.0.0:9090")
	// Docker's files are mounted on the node only.
	files := fmt.Sprintf("/proc/%d/root%s/exec/netns/*", d.init.Process.Pid, d.dir)
	for _, stopped := range ordinary(t, files) {
		t.Fatalf("%s is not a network namespace", stopped)
	}
	e := d.watch(t, allNamespaces, "--netns="+files, "--containers.docker="+filepath.Join(d.dir, "data/containers"))
	const found, info = `sockstate_scrape_collector_success{collector="netns"} 1`, `sockstate_netns_info{netns="web",runtime="docker"} 1`
	e.expect(t, found, info)
	eventually(t, func() error {
		m := e.metrics(t)
		return errors.Join(served(m, "web", "8080", "web"), served(m, "web", "9090", "sidecar"))
	})
	code, text := d.check(t, "--netns=web", "--containers.docker="+filepath.Join(d.dir, "data/containers"), "8080")
	if code != 1 || !strings.Contains(text, "server in container web (pid ") {
		t.Errorf("check: exit status %d, want 1, and the name of the container:\n%s", code, text)
	}

	// The container gets a new network namespace. The other one stays where it was.
	d.docker(t, "restart", "--time=1", "web")
	var second string
	var m launch.Metrics
	eventually(t, func() error {
		m = e.metrics(t)
		names := slices.DeleteFunc(labels(m, "netns"), func(s string) bool { return !strings.HasPrefix(s, "web (net:[") })
		if len(names) != 1 {
			return fmt.Errorf("the new namespaces of web are %q, want one\n%s", names, m)
		}
		second = names[0]
		return errors.Join(served(m, "web", "9090", "sidecar"), served(m, second, "8080", "web"))
	})
	if served(m, "web", "8080", "web") == nil {
		t.Error("the listener is in the old namespace, too")
	}
	code, text = d.check(t, "--netns="+second, "--containers.docker="+filepath.Join(d.dir, "data/containers"), "8080")
	if code != 1 {
		t.Errorf("check --netns=%q: exit status %d, want 1:\n%s", second, code, text)
	}

	// A stop leaves an ordinary file where the namespace was.
	d.docker(t, "stop", "--time=1", "web", "sidecar")
	eventually(t, func() error {
		m = e.metrics(t)
		if left := slices.Collect(m.Samples("sockstate_netns_info", `runtime="docker"`)); len(left) > 0 {
			return fmt.Errorf("the containers have stopped, and these are still there: %s", left)
		}
		return nil
	})
	if len(ordinary(t, files)) == 0 {
		t.Error("Docker leaves no ordinary file")
	}
	for range 3 {
		e.expect(t, found)
	}
	d.docker(t, "start", "web")
	e.expect(t, found, info)
	eventually(t, func() error { return served(e.metrics(t), "web", "8080", "web") })
	if strings.Contains(e.Log.String(), "not a network namespace") {
		t.Errorf("the log complains of Docker's files:\n%s", e.Log)
	}
}
