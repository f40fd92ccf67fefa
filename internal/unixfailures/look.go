package unixfailures

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/unixdiag"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixsock/unixlook"
)

const (
	maxWaiting = 32 // failures that wait for a look
	userShare  = 4  // one user may take a quarter

	// Looks are at least lookGap apart, and take at most a fifth of the time of a CPU.
	lookGap   = 200 * time.Millisecond
	gapRatio  = 4
	lookLimit = 10 * time.Second

	clockTick = 10 * time.Millisecond // USER_HZ
)

// wait makes a failure wait for a look, if a look could show something and there is room.
func (r *Recorder) wait(key rowKey, e *bindtrace.UnixEvent) bool {
	if r.cfg.Looker == nil || !hasName(e) || !unixdiag.Asks(e.Errno) {
		return false
	}
	if _, ok := r.waiting[key]; !ok {
		if len(r.waiting) == maxWaiting || r.shares[e.User] == maxWaiting/userShare {
			return false
		}
		r.shares[e.User]++
	}
	r.waiting[key] = *e
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

func (r *Recorder) take() map[rowKey]bindtrace.UnixEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.waiting
	r.waiting, r.shares = make(map[rowKey]bindtrace.UnixEvent), make(map[uint32]int)
	return taken
}

// lookAlways looks until ctx ends.
func (r *Recorder) lookAlways(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		began := time.Now()
		r.look(ctx)
		rest := time.NewTimer(max(lookGap, gapRatio*time.Since(began)))
		select {
		case <-ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
	}
}

// look finds out what was in the way of all failures that wait.
func (r *Recorder) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	var keys []rowKey
	var queries []unixlook.Query
	for key, e := range r.take() {
		q, err := r.queryOf(&e)
		if err != nil {
			d := unixdiag.OfLook(&unixsock.Verdict{Seen: unixsock.Seen{Name: key.name}}, err)
			r.settle(key, &d)
			continue
		}
		keys, queries = append(keys, key), append(queries, q)
	}
	verdicts, _ := r.cfg.Looker.Look(ctx, queries) // each verdict says what could not be seen
	for i, key := range keys {
		if queries[i].Dir != 0 {
			_ = unix.Close(queries[i].Dir)
		}
		if ctx.Err() == nil {
			d := unixdiag.OfLook(&verdicts[i], nil)
			r.settle(key, &d)
		}
	}
}

// queryOf says where to look. Where the process is in the exporter's mount namespace and has its root
// directory, its absolute paths are the exporter's. The caller closes the directory of the query.
func (r *Recorder) queryOf(e *bindtrace.UnixEvent) (unixlook.Query, error) {
	q := unixlook.Query{Name: nameOf(e)}
	lives := r.lives(e)
	switch {
	case e.Abstract:
		if e.Netns != r.cfg.OwnNetns {
			q.Netns = e.Netns
		}
		return q, nil
	case filepath.IsAbs(e.Path) && e.MountNS != 0 && e.MountNS == r.mntns && (!lives || !r.hasOtherRoot(e)):
		return q, nil
	case lives:
		if q.Dir = r.open(int(e.PID), e.Path, func() bool { return r.lives(e) }); q.Dir != 0 {
			return q, nil
		}
	}
	if filepath.IsAbs(e.Path) && e.MountNS != 0 {
		q.Dir = r.neighbour(e)
	}
	if q.Dir == 0 {
		return q, ended(e)
	}
	return q, nil
}

// open opens the directory where a path of a process begins, or returns 0. right says whether it is the
// process that is meant: another one may have its id by now.
func (r *Recorder) open(pid int, path string, right func() bool) int {
	fd, err := unixlook.OpenDir(r.cfg.Proc, pid, path)
	if err != nil {
		return 0
	}
	if !right() {
		_ = unix.Close(fd)
		return 0
	}
	return fd
}

// neighbour opens the root directory of another process in the mount namespace of the call, or returns 0.
// Threads of the kernel have none.
func (r *Recorder) neighbour(e *bindtrace.UnixEvent) int {
	pids, err := linux.PIDs(r.cfg.Proc)
	if err != nil {
		return 0
	}
	for _, pid := range pids {
		if r.mountNS(pid) != e.MountNS {
			continue
		}
		if fd := r.open(pid, e.Path, func() bool { return r.mountNS(pid) == e.MountNS }); fd != 0 {
			return fd
		}
	}
	return 0
}

// mountNS is the inode number of the mount namespace of a process, or 0.
func (r *Recorder) mountNS(pid int) uint32 {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(r.cfg.Proc, strconv.Itoa(pid), "ns/mnt"), &st); err != nil {
		return 0
	}
	return uint32(st.Ino)
}

// ended says what is not known of the path of a process that has ended.
func ended(e *bindtrace.UnixEvent) error {
	if !filepath.IsAbs(e.Path) {
		return unixdiag.ErrRelative
	}
	return unixdiag.ErrElsewhere
}

// hasOtherRoot says whether the process is known to have another root directory (chroot).
func (r *Recorder) hasOtherRoot(e *bindtrace.UnixEvent) bool {
	own, err := os.Stat("/")
	if err != nil {
		return false
	}
	root, err := os.Stat(filepath.Join(r.cfg.Proc, strconv.Itoa(int(e.PID)), "root"))
	return err == nil && !os.SameFile(own, root)
}

// lives says whether the process is there, and is the one that made the call.
func (r *Recorder) lives(e *bindtrace.UnixEvent) bool {
	start, err := linux.ProcessStart(r.cfg.Proc, int(e.PID))
	return err == nil && start == uint64(e.Started/clockTick) && linux.InInitPIDNamespace(r.cfg.Proc)
}
