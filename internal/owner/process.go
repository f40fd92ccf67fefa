package owner

import (
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/procfs"
)

// errReused means that a process ended while it was read, and another one got its number.
var errReused = errors.New("process id was reused")

// An identity tells a process from every other one, also from later ones with its pid.
type identity struct {
	pid   int
	start uint64 // clock ticks after boot
}

// A process is what an Owner shows, and what identifies it.
type process struct {
	identity
	name  string
	place place
}

// readProcess reads a process. It calls check, if that is not nil, while the process is certain to
// be the same.
func readProcess(p procfs.Proc, check func() error) (process, error) {
	before, err := p.Stat()
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", p.PID, err)
	}
	name, err := p.Comm()
	if err != nil {
		return process{}, fmt.Errorf("read name of process %d: %w", p.PID, err)
	}
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
		identity: identity{p.PID, before.Starttime},
		name:     name[:min(len(name), maxComm)],
		place:    placeOf(cgroups),
	}, nil
}

// maxComm is the longest name that proc_task_name shows.
const maxComm = 64

// shown returns the process as the Owner of a socket that so many processes have open.
func (p *process) shown(processes int) Owner {
	o := p.place.shown()
	o.Process, o.PID, o.Processes = p.name, p.pid, processes
	return o
}
