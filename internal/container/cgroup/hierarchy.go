package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fileidKernfs is FILEID_KERNFS (Linux 5.5). Such a handle is the id of a kernfs node. For a directory of
// cgroup2 that is the id of the cgroup.
const fileidKernfs = 0xfe

// errNoCgroup2 means that the unified hierarchy is not mounted.
var errNoCgroup2 = errors.New("no cgroup2 file system")

// A Hierarchy is the unified one. It finds the paths of cgroups by their ids, with CAP_DAC_READ_SEARCH, from Linux
// 5.5 on.
type Hierarchy struct {
	mount *os.File // its root; nil: not mounted
}

// OpenHierarchy looks for the unified hierarchy at path, and below it in "unified", where systemd mounts it on a host
// with both versions.
func OpenHierarchy(path string) *Hierarchy {
	for _, path := range []string{path, filepath.Join(path, "unified")} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if mount, err := os.Open(path); err == nil {
			return &Hierarchy{mount}
		}
	}
	return new(Hierarchy)
}

// Root is where it is mounted; empty: nowhere.
func (h *Hierarchy) Root() string {
	if h.mount == nil {
		return ""
	}
	return h.mount.Name()
}

// Close closes it.
func (h *Hierarchy) Close() error {
	if h.mount == nil {
		return nil
	}
	return h.mount.Close()
}

// Path returns the path of a cgroup below the root of the hierarchy, also of one without a process.
func (h *Hierarchy) Path(id uint64) (string, error) {
	if h.mount == nil {
		return "", errNoCgroup2
	}
	handle := unix.NewFileHandle(fileidKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(h.mount.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	// /proc: the descriptor is this process's own.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("read path of cgroup %d: %w", id, err)
	}
	return strings.TrimPrefix(path, h.mount.Name()), nil
}
