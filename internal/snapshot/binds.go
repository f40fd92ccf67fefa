package snapshot

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/watch"
)

// Binds are the bind() and listen() calls that failed since the exporter started.
type Binds struct {
	OwnNetns uint32 // inode number of the namespace of the snapshot, as in Counts
	Counts   []bindtrace.Count
	Stats    bindtrace.Stats
	Latest   []Failure // the latest failed bind() of each port, family and protocol

	// Conflicts count the causes of bind()s that failed with EADDRINUSE: of those whose event
	// was read, a moment after it.
	Conflicts []ConflictCount
}

// A Failure is a failed bind().
type Failure struct {
	FailureKey
	Time    time.Time
	Errno   unix.Errno
	Process string // what the thread called itself: any bytes
}

// ErrnoName is the symbolic name of an error, EADDRINUSE, or empty where it has none.
func ErrnoName(errno unix.Errno) string { return unix.ErrnoName(errno) }

// A FailureKey is what the latest failure is kept for.
type FailureKey struct {
	OwnNetns  bool   // in the exporter's network namespace; else in another
	Port      uint16 // the port that was asked for; valid unless OtherPort
	OtherPort bool   // not a watched port
	Family    bindtrace.Family
	Protocol  bindtrace.Protocol
}

// compare puts the exporter's own namespace first, and watched ports.
func (k FailureKey) compare(o FailureKey) int {
	return cmp.Or(
		first(k.OwnNetns, o.OwnNetns),
		first(!k.OtherPort, !o.OtherPort),
		cmp.Compare(k.Port, o.Port),
		cmp.Compare(k.Protocol, o.Protocol),
		cmp.Compare(k.Family, o.Family),
	)
}

func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// readBinds reads the tracer's counts.
func (w *worker) readBinds() (Binds, error) {
	if w.cfg.Binds == nil {
		return Binds{}, ErrOff
	}
	counts, err := w.cfg.Binds.Counts(nil)
	if err != nil {
		return Binds{}, err
	}
	stats, err := w.cfg.Binds.Stats()
	return Binds{
		OwnNetns:  w.cfg.OwnNetns,
		Counts:    counts,
		Stats:     stats,
		Latest:    w.failures.all(),
		Conflicts: w.failures.conflicts.all(),
	}, err
}

// traceWatched tells the tracer which ports to count by number.
func (w *worker) traceWatched() error {
	if w.cfg.Binds == nil {
		return nil
	}
	w.failures.watch(w.set)
	ports := make([]uint16, len(w.set.Ports))
	for i, p := range w.set.Ports {
		ports[i] = p.Number
	}
	return w.cfg.Binds.SetWatch(ports)
}

// failures keep the latest failed bind() by key. Their number is bounded by that of the
// watched ports, whatever ports are asked for.
type failures struct {
	own uint32 // inode number of the exporter's network namespace

	conflicts *conflicts

	mu     sync.Mutex
	set    watch.Set
	latest map[FailureKey]Failure
}

func newFailures(own uint32) *failures {
	return &failures{own: own, conflicts: newConflicts(), latest: make(map[FailureKey]Failure)}
}

// follow notes events until read says that there are no more.
func (f *failures) follow(read func(*bindtrace.Event) error) error {
	var e bindtrace.Event
	for {
		if err := read(&e); err != nil {
			return err
		}
		f.add(&e)
	}
}

func (f *failures) add(e *bindtrace.Event) {
	if e.Op != bindtrace.OpBind {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := FailureKey{OwnNetns: e.Netns == f.own, Port: e.Port, Family: e.Family, Protocol: e.Protocol}
	if !e.PortKnown || !f.watched(e.Port) {
		key.Port, key.OtherPort = 0, true
	}
	f.conflicts.add(key, e)
	f.latest[key] = Failure{FailureKey: key, Time: e.Time, Errno: e.Errno, Process: e.Command()}
}

// watched is called with mu held.
func (f *failures) watched(port uint16) bool {
	_, ok := f.set.Find(port)
	return ok || port == 0
}

// watch takes the set of watched ports, and forgets the failures of others.
func (f *failures) watch(set watch.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set = set
	for key := range f.latest {
		if !key.OtherPort && !f.watched(key.Port) {
			delete(f.latest, key)
		}
	}
}

func (f *failures) all() []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Failure, 0, len(f.latest))
	for _, failure := range f.latest {
		out = append(out, failure)
	}
	slices.SortFunc(out, func(a, b Failure) int { return a.compare(b.FailureKey) })
	return out
}

// Events are read maxBurst in burstTime at most, so that a storm of failing binds, which any
// user can make, costs a few percent of a CPU. What the ring cannot hold meanwhile is
// counted by the tracer (Stats.Lost).
const (
	maxBurst  = 4096
	burstTime = 100 * time.Millisecond
)

// paced reads no faster than that.
func paced(read func(*bindtrace.Event) error) func(*bindtrace.Event) error {
	n, start := 0, time.Now()
	return func(e *bindtrace.Event) error {
		if n++; n > maxBurst {
			time.Sleep(burstTime - time.Since(start))
			n, start = 1, time.Now()
		}
		return read(e)
	}
}

// FollowBinds notes the tracer's events, and looks for the causes of conflicts, until the
// tracer is closed. It leaves nothing running.
func (t *Taker) FollowBinds() error {
	tracer := t.work.cfg.Binds
	if tracer == nil {
		return nil
	}
	err := t.follow(func(e *bindtrace.Event) error { return tracer.Read(time.Time{}, e) })
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// follow notes events until read says that there are no more.
func (t *Taker) follow(read func(*bindtrace.Event) error) error {
	looker := &looker{cfg: &t.work.cfg, conflicts: t.work.failures.conflicts, tidings: newTidings()}
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() { looker.run(ctx) })
	defer looking.Wait()
	defer cancel()
	return t.work.failures.follow(paced(read))
}
