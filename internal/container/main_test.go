package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// id is that of a container, by a number.
func id(n int) string { return fmt.Sprintf("%064x", 0xabcdef000000+n) }

const (
	uid       = "0b5c4a3f-6f0e-4a52-9f3e-1f2d3c4b5a69"
	staticUID = "f5d4b7a2c1e09f8d7c6b5a4938271605"
)

// A tree is the root of a host. It is laid out as a kubelet, and the runtimes, would.
type tree struct {
	t    testing.TB
	root string
}

func newTree(t testing.TB) *tree {
	t.Helper()
	return &tree{t, t.TempDir()}
}

func (r *tree) names() *Names { return New(DefaultPaths().Below(r.root)) }

func (r *tree) path(path string) string { return filepath.Join(r.root, path) }

func (r *tree) file(path, text string) {
	r.t.Helper()
	path = r.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// kubelet makes what a kubelet makes for a container: its folder of logs, with the log of the runtime, and
// the link to it. Without a container it makes the folder of the pod.
func (r *tree) kubelet(namespace, pod, uid, container, id string) {
	r.t.Helper()
	dir := fmt.Sprintf("/var/log/pods/%s_%s_%s", namespace, pod, uid)
	if container == "" {
		if err := os.MkdirAll(r.path(dir), 0o700); err != nil {
			r.t.Fatal(err)
		}
		return
	}
	r.file(filepath.Join(dir, container, "0.log"), "")
	r.file("/var/log/containers/.made", "")
	link := fmt.Sprintf("%s_%s_%s-%s", pod, namespace, container, id)
	link = link[:min(len(link), 255-len(".log"))] + ".log"
	if err := os.Symlink(filepath.Join(dir, container, "0.log"), r.path("/var/log/containers/"+link)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *tree) containerd(namespace, id, annotations string) {
	r.t.Helper()
	r.file(fmt.Sprintf("/run/containerd/io.containerd.runtime.v2.task/%s/%s/config.json", namespace, id),
		fmt.Sprintf(`{"ociVersion": "1.0.2", "process": {"args": ["/pause"]}, "annotations": {%s}, "linux": {}}`, annotations))
}

func (r *tree) storage(id, annotations string) {
	r.t.Helper()
	r.file(fmt.Sprintf("/var/lib/containers/storage/overlay-containers/%s/userdata/config.json", id), fmt.Sprintf(`{"annotations": {%s}}`, annotations))
}

func (r *tree) docker(id, config, host string) {
	r.t.Helper()
	r.file(fmt.Sprintf("/var/lib/docker/containers/%s/config.v2.json", id), config)
	r.file(fmt.Sprintf("/var/lib/docker/containers/%s/hostconfig.json", id), host)
}

// cri are the annotations of containerd's CRI plugin.
func cri(kind, namespace, pod, uid, container string) string {
	all := fmt.Sprintf(`"io.kubernetes.cri.container-type": %q, "io.kubernetes.cri.sandbox-id": %q, "io.kubernetes.cri.sandbox-namespace": %q,
		"io.kubernetes.cri.sandbox-name": %q, "io.kubernetes.cri.sandbox-uid": %q`, kind, id(1), namespace, pod, uid)
	if container != "" {
		all += fmt.Sprintf(`, "io.kubernetes.cri.container-name": %q, "io.kubernetes.cri.image-name": "localhost/web:1"`, container)
	}
	return all
}

// crio are the annotations of CRI-O.
func crio(kind, namespace, pod, uid, container string) string {
	return fmt.Sprintf(`"io.kubernetes.cri-o.ContainerType": %q, "io.kubernetes.pod.namespace": %q, "io.kubernetes.pod.name": %q,
		"io.kubernetes.pod.uid": %q, "io.kubernetes.container.name": %q`, kind, namespace, pod, uid, container)
}

var longPod = "long-" + strings.Repeat("x", 200) + "-7d9f4"
