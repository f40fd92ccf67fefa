package owner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// holders are the processes that have one socket open.
type holders struct {
	owner     process
	at        linux.SocketFD // the owner's descriptor
	count     int
	opener    bool // the process that was the first owner still is one of them
	inherited bool // as in Owner
}

// add counts a process, and makes it the owner if it comes before the one so far.
func (h *holders) add(p *process, at linux.SocketFD, opener identity) {
	h.count++
	h.inherited = at.Inherited && (h.inherited || h.count == 1) // for all of them
	h.opener = h.opener || p.identity == opener
	if h.count == 1 || before(p, &h.owner) {
		h.owner, h.at = *p, at
	}
}

// before reports whether a owns a socket that a and b have open. The older process does: the
// other one inherited the socket. A service manager is always older, and keeps the sockets that it
// made for its services (systemd.socket(5)). Those belong to the services.
func before(a, b *process) bool {
	if a.place.Manager != b.place.Manager {
		return b.place.Manager
	}
	// A child often starts in the same clock tick as its parent.
	return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid)) < 0
}

// A scanResult is what a scan of all processes found.
type scanResult struct {
	holders map[uint32]*holders // by inode
	refused int                 // processes that the scan could not look into
	blind   bool                // there may be processes of which the scan sees nothing
}

// A search has the inodes that a scan looks for. Each has the process that was its first owner, or
// nothing.
type search map[uint32]identity

func (s search) has(inode uint32) bool {
	_, ok := s[inode]
	return ok
}

// scan looks for the inodes among the descriptors of all processes. It does not stop when it has
// found them all: only at the end it knows the oldest process, and how many there are.
func (f *Finder) scan(ctx context.Context, wanted search) (scanResult, error) {
	if f.searcher != nil && !time.Now().Before(f.procfsUntil) {
		held, err := f.searcher.Search(ctx, wanted.has)
		if err == nil || ctx.Err() != nil {
			return f.scanHolders(held, wanted), ctx.Err()
		}
		f.procfsUntil = time.Now().Add(searchAgain)
	}
	return f.scanProcfs(ctx, wanted)
}

// scanHolders reads the processes that a Searcher has found.
func (f *Finder) scanHolders(held []linux.SocketHolder, wanted search) scanResult {
	found := scanResult{holders: make(map[uint32]*holders)}
	for _, h := range held {
		p, err := f.fs.Proc(h.PID)
		if err == nil {
			var owner process
			owner, err = f.readProcess(p, h.Thread, nil)
			if err == nil && owner.start == h.Start {
				found.add(&owner, h.FDs, wanted)
			}
		}
		if err != nil && !errors.Is(unix.Kill(h.PID, 0), unix.ESRCH) { // procfs hides it (hidepid)
			found.refused++
			found.blind = true
		}
	}
	return found
}

// scanProcfs looks into /proc/PID/fd of all processes.
func (f *Finder) scanProcfs(ctx context.Context, wanted search) (scanResult, error) {
	found := scanResult{holders: make(map[uint32]*holders)}
	found.blind = !f.root || !linux.HasCap(unix.CAP_SYS_PTRACE) || !linux.HasCap(unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE)
	procs, err := f.fs.AllProcs()
	if err != nil {
		return found, fmt.Errorf("find socket owners: list processes: %w", err)
	}
	for _, p := range procs {
		if err := ctx.Err(); err != nil {
			return found, err
		}
		held, thread, err := linux.SocketsOf(ctx, f.proc, p.PID, wanted.has)
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
