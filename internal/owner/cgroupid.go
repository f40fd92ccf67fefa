package owner

import (
	"sync"

	"sockstate_exporter/internal/container/cgroup"
)

const maxCgroups = 1024 // places kept

// cgroupIDs turns ids of the unified cgroup hierarchy into places.
type cgroupIDs struct {
	*cgroup.Hierarchy

	mu    sync.Mutex
	known map[uint64]cgroup.Place // the kernel does not use an id twice
}

func openCgroupIDs(path string) *cgroupIDs {
	return &cgroupIDs{Hierarchy: cgroup.OpenHierarchy(path), known: make(map[uint64]cgroup.Place)}
}

// place returns the place of a cgroup, also of one without a process.
func (c *cgroupIDs) place(id uint64) (cgroup.Place, bool) {
	c.mu.Lock()
	p, ok := c.known[id]
	c.mu.Unlock()
	if ok {
		return p, true
	}
	path, err := c.Path(id)
	if err != nil {
		return cgroup.Place{}, false
	}
	p = cgroup.Parse(path)
	c.keep(id, p)
	return p, true
}

func (c *cgroupIDs) keep(id uint64, p cgroup.Place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCgroups {
		for old := range c.known {
			delete(c.known, old)
			break
		}
	}
	c.known[id] = p
}
