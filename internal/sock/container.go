package sock

// A Container is what people call a container. A field that is not known is empty. The names are those
// of Kubernetes, Docker and Podman: ASCII letters, digits, and ".", "_", "-".
type Container struct {
	Runtime string // one of the Runtime constants

	Name    string // in its pod, or as its runtime calls it
	Service string // of Docker Compose

	Namespace, Pod, PodUID string // of Kubernetes

	// Joined says that Docker has put it into the network namespace of another container. The containers
	// of a pod share a namespace, which belongs to the pod.
	Joined bool
}

// A ContainerID says which container a process is in, by its cgroup. It is zero for a process in none, and
// where the cgroup could be anybody's.
type ContainerID struct {
	ID      string // 64 hexadecimal digits
	Runtime string // one of the Runtime constants
	PodUID  string // of Kubernetes; empty: not known
}

// The container runtimes.
const (
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
	RuntimeCRIO       = "crio"
	RuntimePodman     = "podman"
	RuntimeLXC        = "lxc"
	RuntimeMachine    = "machine"   // systemd-nspawn, or a virtual machine of libvirt
	RuntimeOther      = "container" // the name of its cgroup has an id without a runtime
)

// PodName is NAMESPACE/POD, and empty for a container that is not in a pod.
func (c Container) PodName() string {
	if c.Pod == "" {
		return ""
	}
	return c.Namespace + "/" + c.Pod
}

// String is the name of its network namespace: NAMESPACE/POD, or the name of the container.
func (c Container) String() string {
	if c.Pod != "" {
		return c.PodName()
	}
	return c.Name
}

// Label is the value of the label "container": the name in the pod, or of the service in Docker
// Compose, or of the container.
func (c Container) Label() string {
	if c.Service != "" {
		return c.Service
	}
	return c.Name
}
