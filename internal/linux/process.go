package linux

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
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
	fields := statFields(proc, pid)
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&pfKthread != 0
}

// InInitPIDNamespace reports whether procfs shows the processes of the initial pid namespace, and
// so those of the host. Only that namespace has kernel threads. Where hidepid hides them, the
// namespace of this process decides.
func InInitPIDNamespace(proc string) bool {
	const (
		kthreadd      = 2
		procPIDInitNo = 0xEFFFFFFC // PROC_PID_INIT_INO of include/linux/proc_ns.h
	)
	if IsKernelThread(proc, kthreadd) {
		return true
	}
	var st unix.Stat_t
	err := unix.Stat(filepath.Join(proc, "self/ns/pid"), &st)
	return err == nil && st.Ino == procPIDInitNo
}

// ProcessStart returns when a process started, in clock ticks after boot.
func ProcessStart(proc string, pid int) (uint64, error) {
	const starttime = 22 - 3
	fields := statFields(proc, pid)
	if len(fields) <= starttime {
		return 0, fmt.Errorf("read start of process %d: %w", pid, os.ErrNotExist)
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}

// statFields returns the fields of /proc/PID/stat from the third on, the state. The second, the name,
// is in parentheses, and may contain parentheses.
func statFields(proc string, pid int) []string {
	stat, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

// maxThreads is how many threads ThreadsOfEnded returns. They all show the same descriptors, except one
// that ends.
const maxThreads = 4

// ThreadsOfEnded returns some threads of a process whose main thread has ended while others go on.
// /proc/PID/fd and /proc/PID/exe are empty then, and those of its threads are not. It returns nothing
// for any other process.
func ThreadsOfEnded(proc string, pid int) []int {
	tasks := filepath.Join(proc, strconv.Itoa(pid), "task")
	// proc_task_getattr counts threads as links. This costs less than to read stat.
	var st unix.Stat_t
	if err := unix.Stat(tasks, &st); err != nil || st.Nlink <= 3 {
		return nil
	}
	if fields := statFields(proc, pid); len(fields) == 0 || fields[0] != "Z" {
		return nil
	}
	threads, err := PIDs(tasks)
	if err != nil {
		return nil
	}
	threads = slices.DeleteFunc(threads, func(thread int) bool { return thread == pid })
	return threads[:min(len(threads), maxThreads)]
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
