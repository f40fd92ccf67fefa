package linux

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// PIDs returns the processes that the procfs mounted at proc shows, the lowest number first.
func PIDs(proc string) ([]int, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// IsKernelThread reports whether the process is a thread of the kernel: PF_KTHREAD of
// include/linux/sched.h is set in the flags of /proc/PID/stat. It returns false where it cannot
// tell.
func IsKernelThread(proc string, pid int) bool {
	const pfKthread = 0x00200000
	stat, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	// The name is in parentheses, and may contain parentheses.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&pfKthread != 0
}

// LinkInode parses a link of procfs that names an object of a kind by its inode number:
// "net:[4026531840]" in /proc/PID/ns, "socket:[12345]" in /proc/PID/fd.
func LinkInode(kind, link string) (uint64, bool) {
	number, ok := strings.CutPrefix(link, kind)
	if !ok {
		return 0, false
	}
	number, ok = strings.CutPrefix(number, ":[")
	if !ok {
		return 0, false
	}
	number, ok = strings.CutSuffix(number, "]")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(number, 10, 64)
	return inode, err == nil
}
