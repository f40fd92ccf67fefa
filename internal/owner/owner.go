package owner

// An Owner is the process that has a socket open, and what that process belongs to. What is
// not known is empty.
type Owner struct {
	Process   string // name of the main thread (/proc/PID/comm), any bytes; PR_SET_NAME keeps 15
	Unit      string // systemd unit
	Runtime   string // what runs the container: one of the Runtime constants
	Container string // its id, 64 hexadecimal digits, or its name where it has no id
	PID       int    // as /proc numbers it
	Processes int    // that had the socket open when it was looked for
}

// The container runtimes that a cgroup tells apart.
const (
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
	RuntimeCRIO       = "crio"
	RuntimePodman     = "podman"
	RuntimeLXC        = "lxc"
	RuntimeMachine    = "machine"   // systemd-nspawn, or a virtual machine of libvirt
	RuntimeOther      = "container" // the cgroup has an id, and does not say whose
)

// Known says whether anything is.
func (o Owner) Known() bool { return o != Owner{} }

// ShortContainer is the id as people know it: of hexadecimal ones the first 12 digits.
func (o Owner) ShortContainer() string {
	if isID(o.Container) {
		return o.Container[:12]
	}
	return o.Container
}

// Service names in one word what the process belongs to: its unit, or, where that is nothing
// but the scope that the runtime made for the container, "docker-0123456789ab".
func (o Owner) Service() string {
	if o.Container == "" || o.Unit != "" && !scopeOf(o.Unit, o.Container) {
		return o.Unit
	}
	return o.Runtime + "-" + o.ShortContainer()
}

// A Socket is one to find the owner of.
type Socket struct {
	Cookie uint64 // names the socket; the kernel gives none twice
	Inode  uint32 // in sockfs; 0 where no process can have the socket open
}
