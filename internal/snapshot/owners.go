package snapshot

import (
	"context"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"
)

// OwnerFinder finds who has a socket open: *owner.Finder.
type OwnerFinder interface {
	Find(context.Context, []owner.Socket) (map[uint64]owner.Owner, error)
	OfProcess(pid uint32, cgroup uint64) (owner.Owner, bool)
}

// named are the groups with their owners. Of several sockets in a group, the owner is that of
// the first one, which has the lowest cookie. That owners cannot be found is not this part's
// failure: they are unknown then.
func (w *worker) named(ctx context.Context, groups Part[[]Group], listeners []listener) Part[[]Group] {
	if w.cfg.Owners == nil || groups.Err != nil || len(listeners) == 0 {
		return groups
	}
	start := time.Now()
	owners := w.owners(ctx, listeners)
	groups.Data = slices.Clone(groups.Data)
	for i := range groups.Data {
		groups.Data[i].Owner = owners[groups.Data[i].GroupKey]
	}
	groups.Duration += time.Since(start)
	return groups
}

func (w *worker) owners(ctx context.Context, listeners []listener) map[GroupKey]owner.Owner {
	sockets := make([]owner.Socket, len(listeners))
	for i := range listeners {
		sockets[i] = owner.Socket{Cookie: listeners[i].cookie, Inode: listeners[i].inode}
	}
	found, _ := w.cfg.Owners.Find(ctx, sockets)
	first := make(map[GroupKey]uint64)
	out := make(map[GroupKey]owner.Owner)
	for i := range listeners {
		l := &listeners[i]
		of, ok := found[l.cookie]
		if before, seen := first[l.key]; ok && (!seen || l.cookie < before) {
			first[l.key], out[l.key] = l.cookie, of
		}
	}
	return out
}

// callers finds out who a failed call was made by. That takes some system calls, and failing
// calls can be made by the ten thousand a second: beyond maxCallers in callersTime nobody is
// asked about, but for the one that was asked about last.
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
