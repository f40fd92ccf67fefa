package owner

import (
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/procfs"
)

// errReused is the answer about a process that ended while it was read, and left its number
// to another.
var errReused = errors.New("process id was reused")

// An identity names a process for ever.
type identity struct {
	pid   int
	start uint64 // clock ticks after boot
}

// A process is what is shown of one.
type process struct {
	identity
	name  string
	place place
}

// readProcess reads a process, and calls check, if any, while it certainly is the same.
func readProcess(p procfs.Proc, check func() error) (process, error) {
	before, err := p.Stat()
	if err != nil {
		return process{}, fmt.Errorf("read process %d: %w", p.PID, err)
	}
	name, err := p.Comm()
	if err != nil {
		return process{}, fmt.Errorf("read name of process %d: %w", p.PID, err)
	}
	// Cgroups may be missing from the kernel altogether.
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

// maxComm is what proc_task_name shows at most.
const maxComm = 64

func (p *process) shown() Owner {
	return Owner{
		Process:   p.name,
		Unit:      p.place.unit,
		Runtime:   p.place.runtime,
		Container: p.place.container,
		PID:       p.pid,
	}
}
