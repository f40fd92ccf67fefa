package owner

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
)

// inInitPIDNamespace reports whether procfs shows the processes of the initial pid namespace, and
// so those of the host. Only that namespace has kernel threads. Where hidepid hides them, the
// namespace of this process decides.
func inInitPIDNamespace(proc string) bool {
	const (
		kthreadd      = 2
		procPIDInitNo = 0xEFFFFFFC // PROC_PID_INIT_INO of include/linux/proc_ns.h
	)
	if linux.IsKernelThread(proc, kthreadd) {
		return true
	}
	var st unix.Stat_t
	err := unix.Stat(filepath.Join(proc, "self/ns/pid"), &st)
	return err == nil && st.Ino == procPIDInitNo
}

var errOtherProcess = errors.New("another process has its id")

// OfProcess returns what is known about a process that may have ended. pid is its id in the initial
// pid namespace, and cgroupID the id of its cgroup (bpf_get_current_cgroup_id). The Process and PID
// of a process that has ended are empty. It returns false where nothing is known.
func (f *Finder) OfProcess(pid uint32, cgroupID uint64) (Owner, bool) {
	at, known := f.cgroup.place(cgroupID)
	if p, err := f.live(pid, cgroupID); err == nil {
		return p.shown(1), true
	}
	owner := at.shown()
	return owner, known && (owner.Unit != "" || owner.Container != "")
}

// live reads a process if it still is in that cgroup. Otherwise another process has its pid.
func (f *Finder) live(pid uint32, cgroupID uint64) (process, error) {
	proc, err := f.fs.Proc(int(pid))
	if err != nil {
		return process{}, err
	}
	return f.readProcess(proc, 0, func() error {
		if f.cgroup.mount == nil {
			if f.root {
				return nil
			}
			return errOtherProcess
		}
		cgroups, err := proc.Cgroups()
		if err != nil {
			return err
		}
		for _, c := range cgroups {
			// The unified hierarchy is the last line.
			if c.HierarchyID == 0 && f.cgroup.is(c.Path, cgroupID) {
				return nil
			}
		}
		return errOtherProcess
	})
}

// OfPID returns what is known about the process that has the pid now. Soon another one may have it.
func (f *Finder) OfPID(pid int) (Owner, bool) {
	proc, err := f.fs.Proc(pid)
	if err != nil {
		return Owner{}, false
	}
	p, err := f.readProcess(proc, 0, nil)
	if err != nil {
		return Owner{}, false
	}
	return p.shown(1), true
}
