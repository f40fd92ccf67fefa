package container

import (
	"cmp"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sockstate_exporter/internal/sock"
)

// annotations are the part of a bundle's config.json that has names.
type annotations struct {
	Annotations map[string]string `json:"annotations"`
}

// containerd reads the bundle of a task. What the CRI plugin made has the names of the pod.
func (n *Names) containerd(id string) (found, bool) {
	if n.paths.Containerd == "" {
		return found{}, false
	}
	for _, namespace := range namespacesFirst(n.paths.Containerd, "k8s.io") {
		var bundle annotations
		if err := readJSON(filepath.Join(n.paths.Containerd, namespace, id, "config.json"), &bundle); err != nil {
			continue
		}
		const prefix = "io.kubernetes.cri."
		f := podOf(sock.RuntimeContainerd, bundle.Annotations, prefix+"sandbox-namespace", prefix+"sandbox-name", prefix+"sandbox-uid", prefix+"container-name")
		f.sandbox = bundle.Annotations[prefix+"container-type"] == "sandbox"
		return f, namespace != "moby" // Docker's tasks are here, too, without names
	}
	return found{}, false
}

// namespacesFirst returns the folders in a folder, one of them first.
func namespacesFirst(dir, first string) []string {
	return append([]string{first}, slices.DeleteFunc(folders(dir), func(s string) bool { return s == first })...)
}

// maxFolders bounds the namespaces of containerd, and the drivers of a storage.
const maxFolders = 64

// folders returns the names in a folder, sorted.
func folders(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(maxFolders)
	slices.Sort(names)
	return names
}

// storage reads the bundle of a container of CRI-O or Podman.
func (n *Names) storage(id string) (found, bool) {
	if n.paths.Storage == "" {
		return found{}, false
	}
	for _, driver := range folders(n.paths.Storage) {
		if !strings.HasSuffix(driver, "-containers") {
			continue
		}
		dir := filepath.Join(n.paths.Storage, driver)
		var bundle annotations
		if err := readJSON(filepath.Join(dir, id, "userdata", "config.json"), &bundle); err != nil {
			continue
		}
		if bundle.Annotations["io.container.manager"] == "libpod" {
			name := cmp.Or(podmanName(filepath.Join(dir, "containers.json"), id), podmanName(filepath.Join(dir, "volatile-containers.json"), id))
			return found{names: sock.Container{Runtime: sock.RuntimePodman, Name: name}}, true
		}
		const prefix = "io.kubernetes."
		f := podOf(sock.RuntimeCRIO, bundle.Annotations, prefix+"pod.namespace", prefix+"pod.name", prefix+"pod.uid", prefix+"container.name")
		f.sandbox = bundle.Annotations[prefix+"cri-o.ContainerType"] == "sandbox"
		if f.sandbox {
			f.names.Name = "" // "POD"
		}
		return f, true
	}
	return found{}, false
}

// podOf reads the names of a pod and a container under these keys.
func podOf(runtime string, from map[string]string, namespace, pod, uid, name string) found {
	f := found{names: sock.Container{Runtime: runtime}}
	if isKubeName(from[namespace]) && isPod(from[pod]) {
		f.names.Namespace, f.names.Pod = from[namespace], from[pod]
		if isUID(from[uid]) {
			f.names.PodUID = from[uid]
		}
		if isKubeName(from[name]) {
			f.names.Name = from[name]
		}
	}
	return f
}

// podmanName returns the first name of a container in a list of them.
func podmanName(path, id string) string {
	f, err := open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	list := json.NewDecoder(io.LimitReader(f, maxFile))
	if _, err := list.Token(); err != nil {
		return ""
	}
	for list.More() {
		var c struct {
			ID    string   `json:"id"`
			Names []string `json:"names"`
		}
		if err := list.Decode(&c); err != nil {
			return ""
		}
		if c.ID == id && len(c.Names) > 0 && isName(c.Names[0]) {
			return c.Names[0]
		}
	}
	return ""
}

// docker reads what Docker keeps of a container. The labels may be the image's: the service of Docker
// Compose counts only where the name of the container, which nobody but its maker chooses, agrees.
func (n *Names) docker(id string) (found, bool) {
	if n.paths.Docker == "" {
		return found{}, false
	}
	var config struct {
		Name   string
		Config struct{ Labels map[string]string }
	}
	dir := filepath.Join(n.paths.Docker, id)
	if err := readJSON(filepath.Join(dir, "config.v2.json"), &config); err != nil {
		return found{}, false
	}
	name := strings.TrimPrefix(config.Name, "/")
	if pod, ok := dockerPod(name); ok {
		return pod, true
	}
	f := found{names: sock.Container{Runtime: sock.RuntimeDocker}}
	if isName(name) {
		f.names.Name = name
		f.names.Service = composeService(name, config.Config.Labels)
	}
	var host struct{ NetworkMode string }
	if err := readJSON(filepath.Join(dir, "hostconfig.json"), &host); err == nil {
		f.names.Joined = strings.HasPrefix(host.NetworkMode, "container:")
	}
	return f, true
}

// dockerPod reads the name that cri-dockerd gives a container: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT.
func dockerPod(name string) (found, bool) {
	parts := strings.Split(name, "_")
	if len(parts) < 6 || parts[0] != "k8s" || !isPod(parts[2]) || !isKubeName(parts[3]) || !isUID(parts[4]) {
		return found{}, false
	}
	f := found{names: sock.Container{Runtime: sock.RuntimeDocker, Namespace: parts[3], Pod: parts[2], PodUID: parts[4]}}
	if f.sandbox = parts[1] == "POD"; !f.sandbox && isKubeName(parts[1]) {
		f.names.Name = parts[1]
	}
	return f, true
}

// composeService returns the service of a container that is called PROJECT-SERVICE-NUMBER, or with "_".
func composeService(name string, labels map[string]string) string {
	project, service := labels["com.docker.compose.project"], labels["com.docker.compose.service"]
	if project == "" || !isName(service) {
		return ""
	}
	for _, separator := range []string{"-", "_"} {
		if number, ok := strings.CutPrefix(name, project+separator+service+separator); ok && isNumber(number) {
			return service
		}
	}
	return ""
}
