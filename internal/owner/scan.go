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
	owner process
	at    linux.SocketFD // the owner's descriptor
	count int
}

// add counts a process, and makes it the owner if it comes before the one so far.
func (h *holders) add(p *process, at linux.SocketFD) {
	h.count++
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

// scan looks for the inodes among the descriptors of all processes. It does not stop when it has
// found them all: only at the end it knows the oldest process, and how many there are.
func (f *Finder) scan(ctx context.Context, wanted map[uint32]bool) (scanResult, error) {
	found := scanResult{holders: make(map[uint32]*holders)}
	procs, err := f.fs.AllProcs()
	if err != nil {
		return found, fmt.Errorf("find socket owners: list processes: %w", err)
	}
	for _, p := range procs {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		dir := f.fdDir(p.PID)
		held, err := socketsOf(ctx, dir, wanted)
		if errors.Is(err, os.ErrPermission) {
			found.refused++
		}
		if err != nil || len(held) == 0 {
			continue // processes end all the time
		}
		owner, err := readProcess(p, func() (err error) {
			held, err = linux.OpenSocketFDs(dir, held)
			return err
		})
		if err == nil {
			found.add(&owner, held)
		}
	}
	return found, ctx.Err()
}

// socketsOf returns the wanted sockets that a process has open. dir is /proc/PID/fd.
func socketsOf(ctx context.Context, dir string, wanted map[uint32]bool) ([]linux.SocketFD, error) {
	var held []linux.SocketFD
	err := linux.SocketFDs(ctx, dir, func(s linux.SocketFD) bool {
		if wanted[s.Inode] {
			held = append(held, s)
		}
		return true
	})
	return held, err
}

func (f *Finder) fdDir(pid int) string { return filepath.Join(f.proc, strconv.Itoa(pid), "fd") }

// add counts a process once for each socket that it has open.
func (f *scanResult) add(p *process, held []linux.SocketFD) {
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
		h.add(p, d)
	}
}
