package owner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// Options configure a Finder. The zero value is for the host that it runs on.
type Options struct {
	Proc   string        // where procfs is mounted; empty: /proc
	Cgroup string        // where cgroups are mounted; empty: /sys/fs/cgroup
	Wait   time.Duration // how long Find waits for a scan; 0: 250ms

	Searcher Searcher // nil: procfs is scanned

	// Containers says what people call a container; nil: they have no names.
	Containers func(sock.ContainerID) sock.Container
}

// A Searcher finds the processes that have some sockets open, for less than a scan of procfs takes:
// *sockfiles.Reader.
type Searcher interface {
	Search(ctx context.Context, wanted func(inode uint32) bool) ([]linux.SocketHolder, error)
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

	// Anybody can make binds fail. So the sockets of Lookup are forgotten sooner, and where the
	// Finder knows too many sockets, a Lookup leaves those of Find alone.
	keepLookup = 10 * time.Second

	// After a scan the Finder rests for this many times the CPU time of the scan. So scans take at
	// most a tenth of a CPU, also on a host whose listeners come and go all the time.
	restFactor = 9

	// Where the Searcher fails, procfs is scanned for so long.
	searchAgain = 10 * time.Minute
)

// A Finder finds the owners of sockets. Its methods may be called concurrently.
type Finder struct {
	proc   string
	fs     procfs.FS
	cgroup *cgroupIDs
	wait   time.Duration
	root   bool // procfs shows the initial pid namespace
	named  namer

	searcher    Searcher
	procfsUntil time.Time // after the Searcher has failed; only the worker uses it

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	worker sync.WaitGroup

	mu      sync.Mutex
	known   map[Socket]*entry
	turn    int    // of the socket whose owner is checked first
	scans   uint64 // that have begun
	working bool
	changed chan struct{} // closed, and replaced, when a scan is done
	refused int           // processes that the last scan could not look into, where it found no owner
	err     error         // of the last scan
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
	if opts.Containers == nil {
		opts.Containers = func(sock.ContainerID) sock.Container { return sock.Container{} }
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
		root:    linux.InInitPIDNamespace(opts.Proc),
		known:   make(map[Socket]*entry),
		changed: make(chan struct{}),
		named:   opts.Containers,

		searcher: opts.Searcher,
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// Close ends the Finder. Later calls of Find still return what is known.
func (f *Finder) Close() error {
	f.cancel()
	f.worker.Wait()
	return f.cgroup.Close()
}

// Find returns the owners of the sockets, by cookie, and why others have none. A socket that no scan
// has looked for is missing. Find answers from memory, and checks that processes still have their
// sockets. For sockets that it sees for the first time, or that their owner has lost, it waits until a
// scan is done, ctx ends, or Options.Wait is over. In the latter cases a later call has their owners.
//
// The error is that of the last scan. Find returns what is known also with an error.
func (f *Finder) Find(ctx context.Context, sockets []Socket) (map[uint64]Owner, error) {
	ctx, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	found, err := f.find(ctx, sockets, true)
	owners := make(map[uint64]Owner, len(found))
	for i := range found {
		if found[i] != (Owner{}) {
			owners[sockets[i].Cookie] = found[i]
		}
	}
	return owners, err
}

// find is Find, and waits until ctx ends. It returns an Owner for each socket. all says that these are
// all sockets that callers of Find ask about.
func (f *Finder) find(ctx context.Context, sockets []Socket, all bool) ([]Owner, error) {
	f.lose(f.lost(f.ask(sockets, all)))
	for {
		owners, complete, changed, err := f.answer(sockets)
		if complete {
			return owners, err
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
		case <-f.ctx.Done():
		}
		return owners, err
	}
}

// ask records which sockets the caller asks about, forgets those that nobody asks about any more,
// and starts the worker if something is due. It returns owners to check.
func (f *Finder) ask(sockets []Socket, all bool) []claim {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, s := range sockets {
		if s.Inode == 0 {
			continue
		}
		e := f.known[s]
		if e == nil {
			e = &entry{due: now, needs: f.scans + 1}
			f.known[s] = e
		}
		e.asked = now
	}
	f.forget(now, all && len(f.known) > maxUnasked)
	f.start(now)
	return f.claims(sockets)
}

func (f *Finder) forget(now time.Time, crowded bool) {
	for s, e := range f.known {
		unasked := now.Sub(e.asked)
		if unasked > keepUnasked || unasked > 0 && crowded || s.Cookie == 0 && unasked > keepLookup {
			delete(f.known, s)
		}
	}
}

// start starts the worker if something is due.
func (f *Finder) start(now time.Time) {
	if f.working || f.ctx.Err() != nil {
		return
	}
	for _, e := range f.known {
		if !e.due.After(now) {
			f.working = true
			f.worker.Go(f.work)
			return
		}
	}
}

// answer returns what is known, and whether a scan has looked for every socket. changed is closed
// after the next scan.
func (f *Finder) answer(sockets []Socket) (owners []Owner, complete bool, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	owners, complete = make([]Owner, len(sockets)), true
	for i, s := range sockets {
		e := f.known[s]
		switch {
		case e == nil: // the socket has no inode
		case !e.looked:
			complete = false
		default:
			owners[i] = e.shown(f.named)
		}
	}
	return owners, complete, f.changed, f.err
}
