package owner

import (
	"errors"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ.
const clockTick = 10 * time.Millisecond

var errOtherProcess = errors.New("another process has its id")

// OfProcess returns what is known about a process that may have ended. pid is its id in the initial
// pid namespace, started the time after boot when it started, and cgroupID the id of its cgroup
// (bpf_get_current_cgroup_id). The Process and PID of a process that has ended are empty. It returns
// false where nothing is known.
func (f *Finder) OfProcess(pid uint32, started time.Duration, cgroupID uint64) (Owner, bool) {
	at, known := f.cgroup.place(cgroupID)
	if p, err := f.live(pid, started); err == nil {
		return p.shown(1, f.named), true
	}
	owner := shown(&at, f.named)
	return owner, known && (owner.Unit != "" || owner.Container != "")
}

// live reads a process. procfs has another process with the pid if that one started at another time,
// or if it shows another pid namespace.
func (f *Finder) live(pid uint32, started time.Duration) (process, error) {
	if !f.root {
		return process{}, errOtherProcess
	}
	proc, err := f.fs.Proc(int(pid))
	if err != nil {
		return process{}, err
	}
	p, err := f.readProcess(proc, 0, nil)
	if err == nil && p.start != uint64(started/clockTick) {
		err = errOtherProcess
	}
	return p, err
}
