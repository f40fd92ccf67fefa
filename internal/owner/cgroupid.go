package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// fileidKernfs is FILEID_KERNFS (Linux 5.5). Such a handle is the id of a kernfs node. For a
	// directory of cgroup2 that is the id of the cgroup.
	fileidKernfs = 0xfe

	maxCgroups = 1024 // places kept
)

// errNoCgroup2 means that the unified hierarchy is not mounted.
var errNoCgroup2 = errors.New("no cgroup2 file system")

// cgroupIDs turns ids of the unified cgroup hierarchy into places.
type cgroupIDs struct {
	mount *os.File // root of the hierarchy; nil: not mounted

	mu    sync.Mutex
	known map[uint64]place // the kernel does not use an id twice
}

// openCgroupIDs looks for the unified hierarchy at path, and below it in "unified", where systemd
// mounts it on a host with both versions.
func openCgroupIDs(path string) *cgroupIDs {
	c := &cgroupIDs{known: make(map[uint64]place)}
	for _, path := range []string{path, filepath.Join(path, "unified")} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if mount, err := os.Open(path); err == nil {
			c.mount = mount
			break
		}
	}
	return c
}

func (c *cgroupIDs) close() error {
	if c.mount == nil {
		return nil
	}
	return c.mount.Close()
}

// place returns the place of a cgroup, also of one without a process.
func (c *cgroupIDs) place(id uint64) (place, bool) {
	c.mu.Lock()
	p, ok := c.known[id]
	c.mu.Unlock()
	if ok {
		return p, true
	}
	path, err := c.path(id)
	if err != nil {
		return place{}, false
	}
	p = parsePath(path)
	c.keep(id, p)
	return p, true
}

func (c *cgroupIDs) keep(id uint64, p place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCgroups {
		for old := range c.known {
			delete(c.known, old)
			break
		}
	}
	c.known[id] = p
}

// path returns the path of a cgroup below the root of the hierarchy. It needs
// CAP_DAC_READ_SEARCH.
func (c *cgroupIDs) path(id uint64) (string, error) {
	if c.mount == nil {
		return "", errNoCgroup2
	}
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(c.mount.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	// /proc and not Options.Proc: the descriptor is this process's own.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("read path of cgroup %d: %w", id, err)
	}
	return strings.TrimPrefix(path, c.mount.Name()), nil
}
