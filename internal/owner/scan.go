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
	at    linux.SocketFD // where the owner has it
	count int
}

// add counts a process, and makes it the owner if it is a better one.
func (h *holders) add(p *process, at linux.SocketFD) {
	h.count++
	if h.count == 1 || before(p, &h.owner) {
		h.owner, h.at = *p, at
	}
}

// before says whether a socket that both have open is a's rather than b's: of the older one,
// which the other inherited it from. A service manager, always older, keeps the sockets that
// it made for its services (systemd.socket(5)); they are the services'.
func before(a, b *process) bool {
	if a.place.manager != b.place.manager {
		return b.place.manager
	}
	// Children often start within the clock tick of their parent.
	return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid)) < 0
}

// A findings is what a walk over all processes came to.
type findings struct {
	holders map[uint32]*holders // by inode
	refused int                 // processes that may not be looked into
}

// scan looks through the descriptors of all processes for those inodes. Every process is
// asked: which is the oldest, and how many there are, is known only at the end.
func (f *Finder) scan(ctx context.Context, wanted map[uint32]bool) (findings, error) {
	found := findings{holders: make(map[uint32]*holders)}
	procs, err := f.fs.AllProcs()
	if err != nil {
		return found, fmt.Errorf("find owners of sockets: list processes: %w", err)
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

// add counts a process for each socket that it has open, however often.
func (f *findings) add(p *process, held []linux.SocketFD) {
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
