package owner

import (
	"context"
	"time"

	"sockstate_exporter/internal/linux"
)

// work confirms and looks for owners until nothing is due.
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

// due returns the descriptors to confirm, by owner, and whether a scan has to look for a socket. If
// there is neither, the worker ends. It looks only for what a caller has asked about since the last
// look: an exporter that nobody scrapes does nothing.
func (f *Finder) due() (stale map[identity][]linux.SocketFD, missing bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stale = make(map[identity][]linux.SocketFD)
	now := time.Now()
	for _, e := range f.known {
		switch {
		case e.due.After(now):
		case e.asked.Before(e.checked): // nobody wants to know any more
		case e.settled():
			stale[e.owner.identity] = append(stale[e.owner.identity], e.at)
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

// settled reports whether the owner is final. A service manager may still pass the socket on.
func (e *entry) settled() bool { return e.found && !e.owner.place.manager }

// confirm checks that the owners still have their sockets. It returns true where one does not.
func (f *Finder) confirm(stale map[identity][]linux.SocketFD) (lost bool) {
	type having struct {
		identity
		linux.SocketFD
	}
	fresh := make(map[having]process)
	for id, held := range stale {
		p, err := f.fs.Proc(id.pid)
		if err != nil {
			continue
		}
		owner, err := readProcess(p, func() (err error) {
			held, err = linux.OpenSocketFDs(f.fdDir(id.pid), held)
			return err
		})
		if err != nil || owner.identity != id {
			continue
		}
		for _, d := range held {
			fresh[having{id, d}] = owner
		}
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, e := range f.known {
		if _, asked := stale[e.owner.identity]; !asked || e.due.After(now) || !e.settled() {
			continue
		}
		owner, ok := fresh[having{e.owner.identity, e.at}]
		if !ok {
			lost = true
			continue
		}
		e.owner, e.checked, e.due = owner, now, now.Add(confirmEvery)
	}
	return lost
}

// inodes returns the inodes of all known sockets: a scan for all costs as much as for one.
func (f *Finder) inodes() map[uint32]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := make(map[uint32]bool, len(f.known))
	for _, e := range f.known {
		wanted[e.inode] = true
	}
	return wanted
}

// conclude records the result of a scan for the inodes.
func (f *Finder) conclude(wanted map[uint32]bool, found scanResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return
	}
	f.err = err
	if err == nil {
		f.refused = 0
	}
	now := time.Now()
	for _, e := range f.known {
		if !wanted[e.inode] {
			continue // added after the scan began
		}
		e.looked, e.checked = true, now
		if h := found.holders[e.inode]; h != nil {
			e.found, e.holders = true, *h
		} else if err == nil {
			e.found, f.refused = false, found.refused
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
