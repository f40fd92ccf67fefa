package owner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/procfs"
)

// Options configure a Finder. The zero value is for the host that it runs on.
type Options struct {
	Proc   string        // where procfs is mounted; empty: /proc
	Cgroup string        // where cgroups are mounted; empty: /sys/fs/cgroup
	Wait   time.Duration // how long Find waits for sockets that it sees for the first time; 0: 250ms
}

const (
	defaultWait = 250 * time.Millisecond

	// How often the Finder reads the name of an owner again and checks that it has the socket.
	confirmEvery = time.Minute

	// The Finder looks again for a socket without an owner after firstRetry, then after twice
	// that, and so on, up to lastRetry.
	firstRetry = 10 * time.Second
	lastRetry  = time.Hour

	// The Finder forgets a socket that nobody has asked about for keepUnasked. Where it knows
	// more than maxUnasked sockets, it forgets those at once that the last call did not ask about.
	keepUnasked = 10 * time.Minute
	maxUnasked  = 16384

	// After a scan the Finder rests for this many times the duration of the scan. So scans take at
	// most a tenth of a CPU, also on a host whose listeners come and go all the time.
	restFactor = 9
)

// A Finder finds the owners of sockets. Its methods may be called concurrently.
type Finder struct {
	proc   string
	fs     procfs.FS
	cgroup *cgroupIDs
	wait   time.Duration
	root   bool // procfs shows the initial pid namespace

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	worker sync.WaitGroup

	mu      sync.Mutex
	known   map[uint64]*entry // by cookie
	working bool
	changed chan struct{} // closed, and replaced, when a scan is done
	refused int           // processes that the last scan could not look into, where it found no owner
	err     error         // of the last scan
}

// An entry is what the Finder knows about a socket.
type entry struct {
	inode uint32
	found bool
	holders
	misses  int       // scans in a row that did not find an owner
	looked  bool      // a scan has looked for it
	due     time.Time // when to look for it, or confirm its owner, again
	asked   time.Time // when a caller last asked about it
	checked time.Time // when its owner was last looked for or confirmed
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
		return nil, fmt.Errorf("find socket owners: %w", err)
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

// Close ends the Finder. Later calls of Find still return what is known.
func (f *Finder) Close() error {
	f.cancel()
	f.worker.Wait()
	return f.cgroup.close()
}

// Find returns the owners of the sockets, by cookie. A socket without a known owner is missing.
// Find answers from memory. For sockets that it sees for the first time it waits until a scan is
// done, ctx ends, or Options.Wait is over. In the latter cases a later call has their owners.
//
// The error is that of the last scan. Find returns what is known also with an error.
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

// ask records which sockets the caller asks about, forgets those that nobody asks about any more,
// and starts the worker if something is due.
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

// answer returns the known owners, and whether a scan has looked for every socket. changed is
// closed after the next scan.
func (f *Finder) answer(sockets []Socket) (owners map[uint64]Owner, complete bool, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	owners, complete = make(map[uint64]Owner, len(sockets)), true
	for _, s := range sockets {
		e := f.known[s.Cookie]
		switch {
		case e == nil: // the socket has no inode
		case e.found:
			owners[s.Cookie] = e.owner.shown(e.count)
		case !e.looked:
			complete = false
		}
	}
	return owners, complete, f.changed, f.err
}
