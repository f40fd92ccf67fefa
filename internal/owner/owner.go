package owner

import "strings"

// An Owner is the process that has a socket open, with its unit and container. A field that is not
// known is empty.
type Owner struct {
	Process   string // name of the main thread (/proc/PID/comm), any bytes; PR_SET_NAME keeps 15
	Unit      string // systemd unit; if it is not the system's, with what it is in: "user@1000/x.service"
	Runtime   string // what runs the container: one of the Runtime constants
	Container string // 64 hexadecimal digits, or the container's name where it has no id
	Within    string // what the container is in, if it is not the system's: "user@1000"
	PID       int    // in the pid namespace of /proc
	Processes int    // how many had the socket open at the last scan

	Many Many // names that metrics leave out, because the port has had too many
}

// The container runtimes that the name of a cgroup can tell.
const (
	RuntimeDocker     = "docker"
	RuntimeContainerd = "containerd"
	RuntimeCRIO       = "crio"
	RuntimePodman     = "podman"
	RuntimeLXC        = "lxc"
	RuntimeMachine    = "machine"   // systemd-nspawn, or a virtual machine of libvirt
	RuntimeOther      = "container" // the cgroup has an id without a runtime
)

// Known reports whether any field is known.
func (o Owner) Known() bool { return o != Owner{Many: o.Many} }

// ShortContainer returns the container as people know it: the first 12 digits of an id, or the name.
// As in Unit, what it is in comes first if it is not the system's.
func (o Owner) ShortContainer() string {
	if o.Container == "" {
		return ""
	}
	return mark(o.Within, o.shortID())
}

func (o Owner) shortID() string {
	if isID(o.Container) {
		return o.Container[:12]
	}
	return o.Container
}

// mark puts before a name what it is in. No name of a unit or a container has a slash.
func mark(within, name string) string {
	if within == "" {
		return name
	}
	return within + "/" + name
}

// Service returns the unit of the process. For a container without a unit of its own it returns
// runtime and id: "docker-0123456789ab".
func (o Owner) Service() string {
	own := o.Unit[strings.LastIndexByte(o.Unit, '/')+1:]
	if o.Container == "" || own != "" && !scopeOf(own, o.Container) {
		return o.Unit
	}
	return mark(o.Within, o.Runtime+"-"+o.shortID())
}

// A Socket is what Find looks for.
type Socket struct {
	Cookie uint64 // identifies the socket: the kernel gives no cookie twice
	Inode  uint32 // in sockfs; 0 where no process can have the socket open
}
