package container

import (
	"cmp"
	"path/filepath"
	"sync"
	"time"

	"sockstate_exporter/internal/container/cgroup"
	"sockstate_exporter/internal/sock"

	"github.com/prometheus/procfs"
)

// Paths say where the files are. An empty one switches its source off.
type Paths struct {
	Kubelet    string // "/var/log": has containers/ and pods/
	Containerd string // "/run/containerd/io.containerd.runtime.v2.task"
	Docker     string // "/var/lib/docker/containers"
	Storage    string // "/var/lib/containers/storage": of CRI-O and Podman
}

// DefaultPaths are those of most hosts.
func DefaultPaths() Paths {
	return Paths{
		Kubelet:    "/var/log",
		Containerd: "/run/containerd/io.containerd.runtime.v2.task",
		Docker:     "/var/lib/docker/containers",
		Storage:    "/var/lib/containers/storage",
	}
}

// Below returns the paths below a folder at which the root of the host is mounted.
func (p Paths) Below(root string) Paths {
	for _, path := range []*string{&p.Kubelet, &p.Containerd, &p.Docker, &p.Storage} {
		if *path != "" {
			*path = filepath.Join(root, *path)
		}
	}
	return p
}

const (
	// A container without all of its names is looked up again after firstRetry, then after twice that,
	// and so on, up to lastRetry: a kubelet makes its link after the start of the container.
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute

	// A container that nobody has asked about for keepUnasked is forgotten.
	keepUnasked = 10 * time.Minute
	maxKnown    = 4096
)

// Names knows the names of containers. It reads the files of each container once, and forgets it ten
// minutes after the last question. Its methods may be called concurrently. A nil *Names knows none.
type Names struct {
	paths Paths

	mu    sync.Mutex
	known map[sock.ContainerID]*entry
	swept time.Time
	logs  index // of /var/log/containers
	pods  index // of /var/log/pods
}

type entry struct {
	names  sock.Container
	whole  bool // there is nothing more to know
	asked  time.Time
	due    time.Time // of the next look
	misses int
}

// New returns Names that has read nothing so far.
func New(paths Paths) *Names {
	return &Names{
		paths: paths,
		known: make(map[sock.ContainerID]*entry),
		logs:  index{dir: "containers", add: addLog},
		pods:  index{dir: "pods", add: addPod},
	}
}

// Of returns the names of a container. What is not known is empty.
func (n *Names) Of(id sock.ContainerID) sock.Container {
	if n == nil || !isID(id.ID) {
		return sock.Container{}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	n.forget(now)
	e := n.known[id]
	if e == nil {
		n.makeRoom()
		e = &entry{due: now}
		n.known[id] = e
	}
	e.asked = now
	if !e.whole && !now.Before(e.due) {
		n.look(id, e)
		e.due = now.Add(min(firstRetry<<min(e.misses, 20), lastRetry))
		e.misses++
	}
	return e.names
}

// forget forgets, once a minute, what nobody has asked about.
func (n *Names) forget(now time.Time) {
	if now.Sub(n.swept) < time.Minute {
		return
	}
	n.swept = now
	for id, e := range n.known {
		if now.Sub(e.asked) > keepUnasked {
			delete(n.known, id)
		}
	}
}

// makeRoom forgets any container where there are too many: it is read again.
func (n *Names) makeRoom() {
	for id := range n.known {
		if len(n.known) < maxKnown {
			return
		}
		delete(n.known, id)
	}
}

// A found container is what one source says of it.
type found struct {
	names   sock.Container
	sandbox bool // of a pod: it has no name of its own
}

// look reads what the files say. What the kubelet says comes first.
func (n *Names) look(id sock.ContainerID, e *entry) {
	kubelet := n.kubelet(id)
	from := n.runtime(id)
	names := kubelet.names
	if names.Pod == "" || names.PodName() == from.names.PodName() {
		names.Namespace = cmp.Or(names.Namespace, from.names.Namespace)
		names.Pod = cmp.Or(names.Pod, from.names.Pod)
		names.PodUID = cmp.Or(names.PodUID, from.names.PodUID)
		names.Name = cmp.Or(names.Name, from.names.Name)
		names.Service, names.Joined = from.names.Service, from.names.Joined
	}
	names.Runtime = from.names.Runtime
	if names.Runtime == "" && id.Runtime != sock.RuntimeOther {
		names.Runtime = id.Runtime
	}
	if names.Pod != "" {
		names.PodUID = cmp.Or(names.PodUID, id.PodUID)
	}
	if names.String() != "" { // else it stays as it was
		e.names = names
	}
	e.whole = e.names.Name != "" && (id.PodUID == "" || names.Pod != "") || from.sandbox
}

// runtime asks the runtime that the cgroup names, or all of them.
func (n *Names) runtime(id sock.ContainerID) found {
	sources := map[string][]func(string) (found, bool){
		sock.RuntimeContainerd: {n.containerd},
		sock.RuntimeDocker:     {n.docker},
		sock.RuntimeCRIO:       {n.storage},
		sock.RuntimePodman:     {n.storage},
		sock.RuntimeOther:      {n.containerd, n.storage, n.docker},
	}
	for _, source := range sources[id.Runtime] {
		if f, ok := source(id.ID); ok {
			return f
		}
	}
	return found{}
}

// OfPID returns the names of the container of a process, and what its cgroup calls it: a short id, or the
// name of a container that has no id. Soon another process may have the pid.
func (n *Names) OfPID(pid int) (named sock.Container, id string) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return named, ""
	}
	proc, err := fs.Proc(pid)
	if err != nil {
		return named, ""
	}
	cgroups, err := proc.Cgroups()
	if err != nil {
		return named, ""
	}
	place := cgroup.Of(cgroups)
	return n.Of(place.ID()), place.Shown().ShortContainer()
}
