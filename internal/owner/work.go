package owner

import (
	"context"
	"time"
)

// work does what is due, until nothing is.
func (f *Finder) work() {
	for {
		stale, missing := f.due()
		if len(stale) == 0 && !missing {
			return
		}
		lost := f.confirm(stale)
		if !missing && !lost {
			continue
		}
		start := time.Now()
		wanted := f.inodes()
		found, err := f.scan(f.ctx, wanted)
		f.conclude(wanted, found, err)
		sleep(f.ctx, restFactor*time.Since(start))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// due says whose owner has to be looked up again, and whether any socket has to be looked for.
// If there is neither, the worker is done.
func (f *Finder) due() (stale map[identity]bool, missing bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stale = make(map[identity]bool)
	now := time.Now()
	for _, e := range f.known {
		switch {
		case e.due.After(now):
		case e.settled():
			stale[e.owner.identity] = true
		default:
			missing = true
		}
	}
	if f.ctx.Err() != nil {
		stale, missing = nil, false
	}
	f.working = len(stale) > 0 || missing
	return stale, missing
}

// settled says whether the owner is found for good. A service manager may still pass the
// socket on.
func (e *entry) settled() bool { return e.found && !e.owner.place.manager }

// confirm looks those owners up again, and says whether any is gone.
func (f *Finder) confirm(stale map[identity]bool) (lost bool) {
	fresh := make(map[identity]process)
	for id := range stale {
		p, err := f.fs.Proc(id.pid)
		if err != nil {
			continue
		}
		if owner, err := readProcess(p, nil); err == nil && owner.identity == id {
			fresh[id] = owner
		}
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, e := range f.known {
		if !e.settled() || !stale[e.owner.identity] {
			continue
		}
		if owner, ok := fresh[e.owner.identity]; ok {
			e.owner, e.due = owner, now.Add(confirmEvery)
		} else {
			e.due, lost = now, true
		}
	}
	return lost
}

// inodes are those of all sockets that are asked about: a scan costs the same for all of them.
func (f *Finder) inodes() map[uint32]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := make(map[uint32]bool, len(f.known))
	for _, e := range f.known {
		wanted[e.inode] = true
	}
	return wanted
}

// conclude notes what a scan for those inodes came to.
func (f *Finder) conclude(wanted map[uint32]bool, found findings, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return
	}
	f.err = err
	if err == nil {
		f.refused = found.refused
	}
	now := time.Now()
	for _, e := range f.known {
		if !wanted[e.inode] {
			continue // asked for since
		}
		e.looked = true
		if h := found.holders[e.inode]; h != nil {
			e.found, e.owner, e.count = true, h.owner, h.count
		} else if err == nil {
			e.found = false
		}
		if e.settled() && err == nil {
			e.misses, e.due = 0, now.Add(confirmEvery)
		} else if !e.due.After(now) {
			e.due = now.Add(min(firstRetry<<min(e.misses, 20), lastRetry))
			e.misses++
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}
