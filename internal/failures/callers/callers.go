// Package callers finds out which processes made calls that failed, at a bounded rate.
package callers

import (
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"
)

// A Finder says what a process belongs to: *owner.Finder.
type Finder interface {
	OfProcess(pid uint32, started time.Duration, cgroup uint64) (owner.Owner, bool)
}

// Callers finds out which process made a failed call. That takes some system calls, and a process
// can make ten thousand failing calls a second. So it looks up at most maxCallers processes in
// callersTime, and at most callersOfUser of one user. It keeps the latest one of each user.
type Callers struct {
	finder Finder // nil: off

	mu    sync.Mutex
	users map[user]*userCallers
	asked int
	since time.Time
}

// A user makes calls fail. Users of different network namespaces differ: in containers nearly everybody
// has uid 0.
type user struct {
	netns uint32
	uid   uint32 // Event.User
}

type userCallers struct {
	last  caller
	owner owner.Owner
	asked int
}

type caller struct {
	pid     uint32
	started time.Duration
	cgroup  uint64
	name    string
}

const (
	maxCallers    = 400
	callersOfUser = 50
	callersTime   = time.Second
)

// New returns Callers that ask the finder; nil: nobody is known.
func New(finder Finder) *Callers {
	return &Callers{finder: finder, users: make(map[user]*userCallers)}
}

// Of returns the process of an event, as far as it is known. netns is 0 for a namespace that is not
// watched.
func (c *Callers) Of(netns uint32, e *bindtrace.Event) owner.Owner {
	if c.finder == nil {
		return owner.Owner{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.since) > callersTime {
		c.since, c.asked = now, 0
		c.forgetIdle()
	}
	by, ok := c.users[user{netns, e.User}]
	if !ok {
		if len(c.users) >= maxCallers {
			return owner.Owner{}
		}
		by = new(userCallers)
		c.users[user{netns, e.User}] = by
	}
	who := caller{e.PID, e.Started, e.CgroupID, e.Process}
	if ok && who == by.last {
		return by.owner
	}
	if c.asked == maxCallers || by.asked == callersOfUser {
		return owner.Owner{}
	}
	c.asked++
	by.asked++
	by.last = who
	by.owner, _ = c.finder.OfProcess(e.PID, e.Started, e.CgroupID)
	return by.owner
}

// forgetIdle starts a new second: it forgets the users who had no lookup in the last one.
func (c *Callers) forgetIdle() {
	for who, by := range c.users {
		if by.asked == 0 {
			delete(c.users, who)
		}
		by.asked = 0
	}
}
