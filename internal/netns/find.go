package netns

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// A candidate is a namespace that was found, with its possible names.
type candidate struct {
	inode uint64
	rank  int // index of its Spec

	path        string // empty where it was found through a process
	short, long string
	pids        []int  // the processes in it, those first that were in it the last time
	mount       string // where it is mounted, if only that keeps it

	ns      *Namespace
	unnamed bool // its name is its number

	glob        bool // path was not named as it is
	known       *known
	asks        bool           // for its container
	container   sock.Container // that it is called by
	provisional bool           // as in known
}

func (c *candidate) process() bool { return c.path == "" }

// find lists each namespace once, with the first Spec that found it.
func (d *Discoverer) find(s *Set, fail func(error)) []*candidate {
	seen := map[uint64]bool{d.own: true}
	var found []*candidate
	for rank, spec := range d.cfg.Specs {
		paths, err := spec.paths(d.cfg.Dir)
		if err != nil {
			fail(fmt.Errorf("network namespace %q: %w", spec, err))
		}
		for _, path := range paths {
			inode, err := d.stat(path)
			// Docker leaves an ordinary file for a minute after it has stopped a container.
			if err != nil && (!spec.glob || !errors.Is(err, ErrNotNetNS)) && d.tell(path, err) {
				fail(err)
			}
			if inode == 0 || seen[inode] {
				continue
			}
			seen[inode] = true
			found = append(found, &candidate{
				inode: inode, rank: rank, path: path, short: d.shortName(path), long: path, glob: spec.Glob(),
			})
		}
	}
	if d.cfg.Processes {
		processes, err := d.findProcesses(s, seen, found)
		if err != nil {
			s.unsure = true
			fail(err)
		}
		found = append(found, processes...)
	}
	return found
}

// shortName returns the last part of the path. A path in procfs stays whole: its last part is
// always "net".
func (d *Discoverer) shortName(path string) string {
	if strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, d.cfg.Proc+"/") {
		return path
	}
	return filepath.Base(path)
}

// stat returns the inode number of a namespace, 0 where the file does not exist.
func (d *Discoverer) stat(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case gone(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("stat network namespace %s: %w", path, err)
	case st.Dev != d.dev:
		return 0, fmt.Errorf("%s: %w", path, ErrNotNetNS)
	}
	return st.Ino, nil
}

func (d *Discoverer) pidPath(pid int) string {
	return filepath.Join(d.cfg.Proc, strconv.Itoa(pid), "ns/net")
}

// findProcesses returns the namespaces of processes, and adds the processes to those that were found.
func (d *Discoverer) findProcesses(s *Set, seen map[uint64]bool, files []*candidate) ([]*candidate, error) {
	pids, err := linux.PIDs(d.cfg.Proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []*candidate
	byInode := make(map[uint64]*candidate)
	for _, c := range files {
		byInode[c.inode] = c
	}
	for _, pid := range pids {
		link, err := os.Readlink(d.pidPath(pid))
		if err != nil {
			if os.IsPermission(err) && !linux.IsKernelThread(d.cfg.Proc, pid) {
				s.Unreadable++
			}
			continue
		}
		inode, ok := linux.LinkInode("net", link)
		c := byInode[inode]
		if !ok || c == nil && seen[inode] {
			continue
		}
		if c == nil {
			c = &candidate{inode: inode, rank: len(d.cfg.Specs)}
			byInode[inode] = c
			found = append(found, c)
		}
		c.pids = append(c.pids, pid)
	}
	for inode, k := range d.byInode() {
		if c := byInode[inode]; c != nil {
			slices.SortStableFunc(c.pids, func(a, b int) int {
				return compareBool(!slices.Contains(k.pids, a), !slices.Contains(k.pids, b))
			})
		}
	}
	slices.SortFunc(found, func(a, b *candidate) int { return cmp.Compare(a.inode, b.inode) })
	return found, nil
}
