package owner

import (
	"sockstate_exporter/internal/container/cgroup"
	"sockstate_exporter/internal/sock"
)

// An Owner is the process that has a socket open, with its unit and container. A field that is not
// known is empty.
type Owner struct {
	Process   string // its name: any bytes, at most 64
	Exe       string // the path of its executable, or the end of that: at most 256 bytes
	Unit      string // systemd unit; if it is not the system's, with what it is in: "user@1000/x.service"
	Runtime   string // what runs the container: one of the Runtime constants of sock
	Container string // 64 hexadecimal digits, or the container's name where it has no id
	Within    string // what the container is in, if it is not the system's: "user@1000"
	PID       int    // in the pid namespace of /proc
	Processes int    // how many had the socket open at the last scan

	Named sock.Container // the container as people call it: Options.Containers

	// Inherited says that whoever opened the socket does not have it any more, as far as the kernel shows, and
	// nobody waits for its connections (linux.SocketFD.Inherited). False where that is not known.
	Inherited bool

	Absence Absence // why no process is known
	Opener  *Opener // who had the socket open first; nil: the process above, or it has not been seen

	Many Many // names that metrics leave out, because the port has had too many
}

// An Absence says why no process is known to have a socket open.
type Absence uint8

// The reasons. NotSearched is also the Absence of an Owner that is known.
const (
	NotSearched Absence = iota // no scan has looked for the socket yet

	// NoProcess: all processes were looked into, and none has the socket among its descriptors.
	// The socket may be on its way through a Unix socket (SCM_RIGHTS), registered with io_uring
	// alone, open in a thread that has descriptors of its own, or the kernel's own (NFS).
	NoProcess

	// Hidden: some processes may not be looked into, or are not visible, and may have the socket.
	// Who has more privileges, or is in the initial pid namespace, sees them.
	Hidden

	// Refused: a security module hides some processes from everybody.
	Refused
)

// An Opener is the process that was the first Owner of a socket and does not have it open any more.
// Somebody else still has: a child of the Opener, or who got the socket by SCM_RIGHTS.
type Opener struct {
	Process, Unit, Runtime, Container, Within string // as in Owner

	Named sock.Container // as in Owner

	PID   int
	Ended bool // the process has ended; else it only closed the socket

	// SameProgram says that the Owner has the executable and the name of the Opener, as another
	// worker of the same server has.
	SameProgram bool
}

// Many says which names of an Owner are left out where a port has had too many (internal/share).
type Many struct {
	Process, Unit bool
}

// Known reports whether any field is known.
func (o Owner) Known() bool { return o != Owner{Many: o.Many, Absence: o.Absence, Opener: o.Opener} }

// ShortContainer returns the first 12 digits of the container's id, or its name where it has no id. What
// it is in comes first, as in Unit.
func (o Owner) ShortContainer() string { return o.place().ShortContainer() }

// Service tells apart what serves: it returns the unit of the process, and runtime and id for a container
// without a unit of its own: "docker-0123456789ab".
func (o Owner) Service() string { return o.place().Service() }

func (o Owner) place() cgroup.Shown {
	return cgroup.Shown{Unit: o.Unit, Runtime: o.Runtime, Container: o.Container, Within: o.Within}
}

// A Socket is what Find looks for.
type Socket struct {
	Cookie uint64 // identifies the socket: the kernel gives no cookie twice
	Inode  uint32 // in sockfs; 0 where no process can have the socket open
}
