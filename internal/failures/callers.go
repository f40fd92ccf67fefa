package failures

import (
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"
)

// An OwnerFinder says what a process belongs to: *owner.Finder.
type OwnerFinder interface {
	OfProcess(pid uint32, cgroup uint64) (owner.Owner, bool)
}

// callers finds out which process made a failed call. That takes some system calls, and a process
// can make ten thousand failing calls a second: callers looks up at most maxCallers in callersTime,
// and keeps the latest one.
type callers struct {
	finder OwnerFinder // nil: off

	mu    sync.Mutex
	last  caller
	owner owner.Owner
	asked int
	since time.Time
}

type caller struct {
	pid    uint32
	cgroup uint64
	comm   [16]byte
}

const (
	maxCallers  = 100
	callersTime = time.Second
)

func (c *callers) of(e *bindtrace.Event) owner.Owner {
	if c.finder == nil {
		return owner.Owner{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	who := caller{e.PID, e.CgroupID, e.Comm}
	if who == c.last {
		return c.owner
	}
	if now := time.Now(); now.Sub(c.since) > callersTime {
		c.since, c.asked = now, 0
	}
	if c.asked++; c.asked > maxCallers {
		return owner.Owner{}
	}
	c.last = who
	c.owner, _ = c.finder.OfProcess(e.PID, e.CgroupID)
	return c.owner
}
