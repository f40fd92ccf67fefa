package owner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"sockstate_exporter/internal/linux"
)

// holders are the processes that have one socket open.
type holders struct {
	owner  process
	at     linux.SocketFD // the owner's descriptor
	count  int
	opener bool // the process that was the first owner still is one of them
}

// add counts a process, and makes it the owner if it comes before the one so far.
func (h *holders) add(p *process, at linux.SocketFD, opener identity) {
	h.count++
	h.opener = h.opener || p.identity == opener
	if h.count == 1 || before(p, &h.owner) {
		h.owner, h.at = *p, at
	}
}

// before reports whether a owns a socket that a and b have open. The older process does: the
// other one inherited the socket. A service manager is always older, and keeps the sockets that it
// made for its services (systemd.socket(5)). Those belong to the services.
func before(a, b *process) bool {
	if a.place.manager != b.place.manager {
		return b.place.manager
	}
	// A child often starts in the same clock tick as its parent.
	return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid)) < 0
}

// A scanResult is what a scan of all processes found.
type scanResult struct {
	holders map[uint32]*holders // by inode
	refused int                 // processes that the scan could not look into
}

// A search has the inodes that a scan looks for. Each has the process that was its first owner, or
// nothing.
type search map[uint32]identity

// scan looks for the inodes among the descriptors of all processes. It does not stop when it has
// found them all: only at the end it knows the oldest process, and how many there are.
func (f *Finder) scan(ctx context.Context, wanted search) (scanResult, error) {
	found := scanResult{holders: make(map[uint32]*holders)}
	procs, err := f.fs.AllProcs()
	if err != nil {
		return found, fmt.Errorf("find socket owners: list processes: %w", err)
	}
	for _, p := range procs {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		held, thread, err := f.socketsOf(ctx, p.PID, wanted)
		if errors.Is(err, os.ErrPermission) {
			found.refused++
		}
		if err != nil || len(held) == 0 {
			continue // processes end all the time
		}
		owner, err := f.readProcess(p, thread, func() (err error) {
			held, err = linux.OpenSocketFDs(f.fdDir(p.PID, thread), held)
			return err
		})
		if err == nil {
			found.add(&owner, held, wanted)
		}
	}
	return found, ctx.Err()
}

// socketsOf returns the wanted sockets that a process has open, and the thread that shows them if
// the main thread does not.
func (f *Finder) socketsOf(ctx context.Context, pid int, wanted search) (held []linux.SocketFD, thread int, err error) {
	held, sockets, err := socketsIn(ctx, f.fdDir(pid, 0), wanted)
	if sockets || err != nil {
		return held, 0, err
	}
	for _, thread := range linux.ThreadsOfEnded(f.proc, pid) {
		held, sockets, err := socketsIn(ctx, f.fdDir(pid, thread), wanted)
		if sockets || err != nil {
			return held, thread, err
		}
	}
	return nil, 0, nil
}

// socketsIn returns the wanted sockets in a directory of descriptors, and whether it has any socket.
func socketsIn(ctx context.Context, dir string, wanted search) (held []linux.SocketFD, sockets bool, err error) {
	err = linux.SocketFDs(ctx, dir, func(s linux.SocketFD) bool {
		sockets = true
		if _, ok := wanted[s.Inode]; ok {
			held = append(held, s)
		}
		return true
	})
	return held, sockets, err
}

// taskDir is the directory of a process in procfs, or of one of its threads.
func (f *Finder) taskDir(pid, thread int) string {
	dir := filepath.Join(f.proc, strconv.Itoa(pid))
	if thread == 0 {
		return dir
	}
	return filepath.Join(dir, "task", strconv.Itoa(thread))
}

func (f *Finder) fdDir(pid, thread int) string { return filepath.Join(f.taskDir(pid, thread), "fd") }

// add counts a process once for each socket that it has open.
func (f *scanResult) add(p *process, held []linux.SocketFD, wanted search) {
	seen := make(map[uint32]bool, len(held))
	for _, d := range held {
		if seen[d.Inode] {
			continue
		}
		seen[d.Inode] = true
		h := f.holders[d.Inode]
		if h == nil {
			h = new(holders)
			f.holders[d.Inode] = h
		}
		h.add(p, d, wanted[d.Inode])
	}
}
