package container

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"sockstate_exporter/internal/sock"
)

// maxNames bounds how many names of a folder are read.
const maxNames = 1 << 16

// An index has the names in a folder of the kubelet. It is read again when something is looked for that
// it does not have, and the folder has changed.
type index struct {
	dir string
	add func(all map[string]sock.Container, file string)

	all     map[string]sock.Container
	changed time.Time // of the folder, when it was read
	settled bool      // no file that was made at that time can have been overlooked
}

// find returns what the folder says about a key.
func (x *index) find(root, key string) (sock.Container, bool) {
	if root == "" || key == "" {
		return sock.Container{}, false
	}
	if c, ok := x.all[key]; ok {
		return c, true
	}
	x.read(filepath.Join(root, x.dir))
	c, ok := x.all[key]
	return c, ok
}

func (x *index) read(dir string) {
	now := time.Now()
	info, err := os.Stat(dir)
	if err != nil {
		x.all, x.changed = nil, time.Time{}
		return
	}
	if x.settled && x.changed.Equal(info.ModTime()) {
		return
	}
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	files, _ := f.Readdirnames(maxNames) // those that were read before an error count
	x.all = make(map[string]sock.Container, len(files))
	for _, file := range files {
		x.add(x.all, file)
	}
	// Times of files have the kernel's clock tick.
	x.changed, x.settled = info.ModTime(), now.Sub(info.ModTime()) > time.Second
}

// shortID is the length of the ids by which logs are found. Where the name of a log would be longer than
// 255 bytes, the kubelet cuts it, and so the id.
const shortID = 12

// addLog reads POD_NAMESPACE_CONTAINER-ID.log (legacyLogSymlink of the kubelet). No name has a "_".
func addLog(all map[string]sock.Container, file string) {
	stem, ok := strings.CutSuffix(file, ".log")
	if !ok {
		return
	}
	pod, rest, _ := strings.Cut(stem, "_")
	namespace, rest, _ := strings.Cut(rest, "_")
	i := strings.LastIndexByte(rest, '-')
	if i < 0 {
		return
	}
	name, id := rest[:i], rest[i+1:]
	if !isPod(pod) || !isKubeName(namespace) || !isKubeName(name) || len(id) < shortID || !isHex(id) {
		return
	}
	all[id[:shortID]] = sock.Container{Namespace: namespace, Pod: pod, Name: name}
}

// addPod reads NAMESPACE_POD_UID (BuildPodLogsDirectory of the kubelet).
func addPod(all map[string]sock.Container, file string) {
	namespace, rest, _ := strings.Cut(file, "_")
	pod, uid, _ := strings.Cut(rest, "_")
	if isKubeName(namespace) && isPod(pod) && isUID(uid) {
		all[uid] = sock.Container{Namespace: namespace, Pod: pod, PodUID: uid}
	}
}

// kubelet returns what the kubelet's files say. The sandbox of a pod has no log.
func (n *Names) kubelet(id sock.ContainerID) found {
	pod, _ := n.pods.find(n.paths.Kubelet, id.PodUID)
	log, ok := n.logs.find(n.paths.Kubelet, id.ID[:shortID])
	switch {
	case !ok:
		return found{names: pod}
	case pod.Pod == "":
		return found{names: log}
	case pod.PodName() == log.PodName():
		pod.Name = log.Name
	}
	return found{names: pod}
}
