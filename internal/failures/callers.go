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
// can make ten thousand failing calls a second. So callers looks up at most maxCallers processes in
// callersTime, and at most callersOfUser of one user. It keeps the latest one of each user.
type callers struct {
	finder OwnerFinder // nil: off

	mu    sync.Mutex
	users map[user]*userCallers
	asked int
	since time.Time
}

// A user makes calls fail. In containers nearly everybody has uid 0, so users of different network
// namespaces differ. All namespaces that are not watched are one: a user can make more of them.
type user struct {
	netns uint32 // 0: not watched
	uid   uint32 // Event.User
}

type userCallers struct {
	last  caller
	owner owner.Owner
	asked int
}

type caller struct {
	pid    uint32
	cgroup uint64
	comm   [16]byte
}

const (
	maxCallers    = 400
	callersOfUser = 50
	callersTime   = time.Second
)

func newCallers(finder OwnerFinder) *callers {
	return &callers{finder: finder, users: make(map[user]*userCallers)}
}

func (c *callers) of(netns uint32, e *bindtrace.Event) owner.Owner {
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
	who := caller{e.PID, e.CgroupID, e.Comm}
	if ok && who == by.last {
		return by.owner
	}
	if c.asked == maxCallers || by.asked == callersOfUser {
		return owner.Owner{}
	}
	c.asked++
	by.asked++
	by.last = who
	by.owner, _ = c.finder.OfProcess(e.PID, e.CgroupID)
	return by.owner
}

// forgetIdle starts a new second: it forgets the users who had no lookup in the last one.
func (c *callers) forgetIdle() {
	for who, by := range c.users {
		if by.asked == 0 {
			delete(c.users, who)
		}
		by.asked = 0
	}
}
