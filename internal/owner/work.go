package owner

import (
	"context"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// work confirms and looks for owners until nothing is due.
func (f *Finder) work() {
	// The thread's time is that of the scan.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		stale, missing := f.due()
		if len(stale) == 0 && !missing {
			return
		}
		lost := f.confirm(stale)
		if !missing && !lost {
			continue
		}
		start := threadTime()
		found, err := f.scan(f.ctx, f.inodes())
		f.conclude(found, err)
		sleep(f.ctx, restFactor*(threadTime()-start))
	}
}

// threadTime is the CPU time that the thread has used.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
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
func (f *Finder) due() (stale map[holder][]linux.SocketFD, missing bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stale = make(map[holder][]linux.SocketFD)
	now := time.Now()
	for _, e := range f.known {
		switch {
		case e.due.After(now):
		case e.asked.Before(e.checked): // nobody wants to know any more
		case e.settled():
			stale[e.owner.holder] = append(stale[e.owner.holder], e.at)
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

// confirm checks that the owners still have their sockets. It returns true where one does not.
func (f *Finder) confirm(stale map[holder][]linux.SocketFD) (lost bool) {
	type having struct {
		holder
		linux.SocketFD
	}
	fresh := make(map[having]process)
	for id, held := range stale {
		p, err := f.fs.Proc(id.pid)
		if err != nil {
			continue
		}
		owner, err := f.readProcess(p, id.thread, func() (err error) {
			held, err = linux.OpenSocketFDs(f.fdDir(id.pid, id.thread), held)
			return err
		})
		if err != nil || owner.holder != id {
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
		if _, asked := stale[e.owner.holder]; !asked || e.due.After(now) || !e.settled() {
			continue
		}
		owner, ok := fresh[having{e.owner.holder, e.at}]
		if !ok {
			lost = true
			continue
		}
		e.owner, e.checked, e.due = owner, now, now.Add(confirmEvery)
		e.noteOpener(f.gone, f.named)
	}
	return lost
}

// inodes begins a scan for the inodes of all known sockets: a scan for all costs as much as for one.
func (f *Finder) inodes() search {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted := make(search, len(f.known))
	f.scans++
	for s, e := range f.known {
		wanted[s.Inode] = identity{}
		if e.first != nil {
			wanted[s.Inode] = e.first.identity
		}
	}
	return wanted
}

// conclude records the result of a scan.
func (f *Finder) conclude(found scanResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return
	}
	f.err = err
	if err == nil {
		f.refused = 0
	}
	absence := NoProcess
	switch {
	case found.blind:
		absence = Hidden
	case found.refused > 0:
		absence = Refused
	}
	now := time.Now()
	for s, e := range f.known {
		if e.needs > f.scans {
			continue // added, or lost, after the scan began
		}
		e.looked, e.checked = true, now
		if h := found.holders[s.Inode]; h != nil {
			e.found, e.holders = true, *h
			e.link = filepath.Join(f.fdDir(h.owner.pid, h.owner.thread), strconv.Itoa(h.at.FD))
		} else if err == nil {
			e.found, e.absence, f.refused = false, absence, found.refused
		}
		e.noteOpener(f.gone, f.named)
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
