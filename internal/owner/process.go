package owner

import (
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/procfs"

	"sockstate_exporter/internal/container/cgroup"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// errReused means that a process ended while it was read, and another one got its number.
var errReused = errors.New("process id was reused")

// An identity tells a process from every other one, also from later ones with its pid.
type identity struct {
	pid   int
	start uint64 // clock ticks after boot
}

// A holder is a process, and where its descriptors are.
type holder struct {
	identity
	thread int // that shows them; 0: the main one
}

// A process is what an Owner shows, and what identifies it.
type process struct {
	holder
	name  string
	exe   string // path of the executable, or empty
	place cgroup.Place
}

// readProcess reads a process. It calls check, if that is not nil, while the process is certain to
// be the same. thread is as in holder.
func (f *Finder) readProcess(p procfs.Proc, thread int, check func() error) (process, error) {
	before, err := p.Stat()
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", p.PID, err)
	}
	comm, err := p.Comm()
	if err != nil {
		return process{}, fmt.Errorf("read name of process %d: %w", p.PID, err)
	}
	name, exe := linux.ProcessName(f.taskDir(p.PID, thread), comm)
	// A kernel may have no cgroups at all.
	cgroups, err := p.Cgroups()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return process{}, fmt.Errorf("read cgroups of process %d: %w", p.PID, err)
	}
	if check != nil {
		if err := check(); err != nil {
			return process{}, err
		}
	}
	after, err := p.Stat()
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", p.PID, err)
	}
	if before.Starttime != after.Starttime {
		return process{}, fmt.Errorf("read process %d: %w", p.PID, errReused)
	}
	return process{
		holder: holder{identity{p.PID, before.Starttime}, thread},
		name:   name,
		exe:    exe,
		place:  cgroup.Of(cgroups),
	}, nil
}

// shown returns the process as the Owner of a socket that so many processes have open.
func (p *process) shown(processes int, named namer) Owner {
	o := shown(&p.place, named)
	o.Process, o.Exe, o.PID, o.Processes = p.name, p.exe, p.pid, processes
	return o
}

// A namer says what people call a container.
type namer func(sock.ContainerID) sock.Container

func shown(p *cgroup.Place, named namer) Owner {
	s := p.Shown()
	o := Owner{Unit: s.Unit, Runtime: s.Runtime, Container: s.Container, Within: s.Within}
	if id := p.ID(); id != (sock.ContainerID{}) {
		o.Named = named(id)
	}
	return o
}

// gone reports whether the process has ended. One that waits to be reaped has.
func (f *Finder) gone(id identity) bool {
	p, err := f.fs.Proc(id.pid)
	if err != nil {
		return true
	}
	stat, err := p.Stat()
	return err != nil || stat.Starttime != id.start || stat.State == "Z" || stat.State == "X"
}
