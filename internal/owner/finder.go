package owner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// Options are those of a Finder; the zero value is the host's.
type Options struct {
	Proc   string        // where procfs is mounted; /proc
	Cgroup string        // where cgroups are mounted; /sys/fs/cgroup
	Wait   time.Duration // how long Find waits for sockets that it sees for the first time; 250ms
}

const (
	defaultWait = 250 * time.Millisecond

	// An owner's name, and that it is still there, is looked up again after that time.
	confirmEvery = time.Minute

	// A socket whose owner was not found is looked for again after firstRetry, then after
	// twice that, and so on, up to lastRetry.
	firstRetry = 10 * time.Second
	lastRetry  = time.Hour

	// A socket is forgotten when nobody asked about it for that long, or at once when
	// there are too many.
	keepUnasked = 10 * time.Minute
	maxUnasked  = 16384

	// After a scan the next one waits for this many times as long as it took, so that a host
	// whose listeners come and go all the time spends a tenth of a CPU on them and no more.
	restFactor = 9
)

// A Finder finds the owners of sockets. Its methods may be called concurrently.
type Finder struct {
	proc   string
	fs     procfs.FS
	cgroup *cgroupIDs
	wait   time.Duration
	root   bool // procfs numbers processes as the kernel does

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	worker sync.WaitGroup

	mu      sync.Mutex
	known   map[uint64]*entry // by cookie
	working bool
	changed chan struct{} // closed, and replaced, when a scan is done
	refused int           // processes that the last scan was not allowed to look into, and missed something
	err     error         // of the last scan
}

// An entry is what is known of a socket.
type entry struct {
	inode uint32
	found bool
	holders
	misses int       // how often it was looked for in vain
	looked bool      // at all
	due    time.Time // when it is looked for, or looked up, again
	asked  time.Time
}

// New makes a Finder. The caller closes it.
func New(opts Options) (*Finder, error) {
	if opts.Proc == "" {
		opts.Proc = procfs.DefaultMountPoint
	}
	if opts.Cgroup == "" {
		opts.Cgroup = "/sys/fs/cgroup"
	}
	if opts.Wait == 0 {
		opts.Wait = defaultWait
	}
	fs, err := procfs.NewFS(opts.Proc)
	if err != nil {
		return nil, fmt.Errorf("find owners of sockets: %w", err)
	}
	f := &Finder{
		proc:    opts.Proc,
		fs:      fs,
		cgroup:  openCgroupIDs(opts.Cgroup),
		wait:    opts.Wait,
		root:    inInitPIDNamespace(opts.Proc),
		known:   make(map[uint64]*entry),
		changed: make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// Close ends the Finder. What was asked before still gets an answer.
func (f *Finder) Close() error {
	f.cancel()
	f.worker.Wait()
	return f.cgroup.close()
}

// Find returns the owners of those sockets, by cookie; sockets whose owner is not known are
// missing. It answers from memory. Only for sockets that it sees for the first time it waits,
// until all processes were looked through, ctx ends, or Options.Wait is over: then a later
// call has them.
//
// The error is that of the last time when the processes could not be looked through; what is
// known comes with it.
func (f *Finder) Find(ctx context.Context, sockets []Socket) (map[uint64]Owner, error) {
	f.ask(sockets)

	timeout := time.NewTimer(f.wait)
	defer timeout.Stop()
	for {
		owners, complete, changed, err := f.answer(sockets)
		if complete {
			return owners, err
		}
		select {
		case <-changed:
			continue
		case <-timeout.C:
		case <-ctx.Done():
		case <-f.ctx.Done():
		}
		return owners, err
	}
}

// ask notes what is asked for, forgets what is not any more, and starts to work if there is
// something to do.
func (f *Finder) ask(sockets []Socket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, s := range sockets {
		if s.Inode == 0 {
			continue
		}
		e := f.known[s.Cookie]
		if e == nil {
			e = &entry{inode: s.Inode, due: now}
			f.known[s.Cookie] = e
		}
		e.asked = now
	}
	crowded := len(f.known) > maxUnasked
	idle := true
	for cookie, e := range f.known {
		if now.Sub(e.asked) > keepUnasked || crowded && e.asked.Before(now) {
			delete(f.known, cookie)
		} else if !e.due.After(now) {
			idle = false
		}
	}
	if idle || f.working || f.ctx.Err() != nil {
		return
	}
	f.working = true
	f.worker.Go(f.work)
}

// answer returns what is known, and whether all of it was looked for. changed is closed when
// that may be otherwise.
func (f *Finder) answer(sockets []Socket) (owners map[uint64]Owner, complete bool, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	owners, complete = make(map[uint64]Owner, len(sockets)), true
	for _, s := range sockets {
		e := f.known[s.Cookie]
		switch {
		case e == nil: // without inode
		case e.found:
			owner := e.owner.shown()
			owner.Processes = e.count
			owners[s.Cookie] = owner
		case !e.looked:
			complete = false
		}
	}
	return owners, complete, f.changed, f.err
}
