package snapshot

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
)

// Binds are the bind() and listen() calls that failed since the exporter started.
type Binds struct {
	// Counts are by the Inode of a Namespace of the snapshot, or 0 for all others.
	Counts []bindtrace.Count
	// Connects says that connect() is counted, too.
	Connects bool
	Stats    bindtrace.Stats
	Latest   []Failure // the latest failed bind() of each namespace, port, family and protocol

	// Conflicts count the causes of bind()s that failed with EADDRINUSE: of those whose event
	// was read, a moment after it.
	Conflicts []ConflictCount

	// Recent are the latest failed bind()s, the latest first, watched ports or not. Their
	// number is bounded.
	Recent []RecentFailure
}

// A Failure is a failed bind().
type Failure struct {
	FailureKey
	Time    time.Time
	Errno   unix.Errno
	Process string // what the thread called itself: any bytes

	// Owner is the process, as far as that is known: it may have ended.
	Owner owner.Owner
}

// ErrnoName is the symbolic name of an error, EADDRINUSE, or empty where it has none.
func ErrnoName(errno unix.Errno) string { return unix.ErrnoName(errno) }

// A FailureKey is what the latest failure is kept for.
type FailureKey struct {
	Netns     uint32 // inode number of the network namespace, 0: not a watched one
	Port      uint16 // the port that was asked for; valid unless OtherPort
	OtherPort bool   // not a watched port
	Family    bindtrace.Family
	Protocol  bindtrace.Protocol
}

// compare puts what is watched first.
func (k FailureKey) compare(o FailureKey) int {
	return cmp.Or(
		first(k.Netns != 0, o.Netns != 0),
		cmp.Compare(k.Netns, o.Netns),
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

// binds tells the tracer which ports and namespaces to count by number, and reads its counts.
func (h *host) binds(set *netns.Set) (Binds, error) {
	tracer := h.cfg.Binds
	if tracer == nil {
		return Binds{}, ErrOff
	}
	sets := h.watched(set)
	gone := h.retired.replace(set)
	h.failures.watch(sets, gone)
	if err := tracer.SetWatch(h.failures.ports()); err != nil {
		return Binds{}, err
	}
	if h.cfg.Namespaces != nil { // else it is the own one, as from the beginning
		if err := tracer.SetNamespaces(slices.Collect(maps.Keys(sets))); err != nil {
			return Binds{}, err
		}
	}
	counts, err := tracer.Counts(nil)
	if err != nil {
		return Binds{}, err
	}
	stats, err := tracer.Stats()
	return Binds{
		Counts:    h.retired.settle(counts, gone),
		Connects:  tracer.ConnectsErr() == nil,
		Stats:     stats,
		Latest:    h.failures.all(),
		Conflicts: h.failures.conflicts.all(),
		Recent:    h.failures.conflicts.recent.all(),
	}, err
}

// failures keep the latest failed bind() by key. Their number is bounded by that of the
// watched ports, whatever ports are asked for.
type failures struct {
	conflicts *conflicts
	callers   *callers

	mu     sync.Mutex
	sets   map[uint32][]ports.Set // by inode number of the network namespace
	union  map[uint16]struct{}    // the ports of all sets
	latest map[FailureKey]Failure
}

func newFailures(own uint32, owners OwnerFinder) *failures {
	return &failures{
		conflicts: newConflicts(),
		callers:   &callers{finder: owners},
		sets:      map[uint32][]ports.Set{own: nil},
		latest:    make(map[FailureKey]Failure),
	}
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
	by := f.callers.of(e)
	f.mu.Lock()
	defer f.mu.Unlock()
	key := FailureKey{Netns: e.Netns, Port: e.Port, Family: e.Family, Protocol: e.Protocol}
	if _, ok := f.sets[e.Netns]; !ok {
		key.Netns = 0
	}
	if !e.PortKnown || !f.watched(e.Port) {
		key.Port, key.OtherPort = 0, true
	}
	f.conflicts.recent.add(key, e, by)
	f.conflicts.add(key, e, by)
	f.latest[key] = Failure{FailureKey: key, Time: e.Time, Errno: e.Errno, Process: e.Command(), Owner: by}
}

// watched is called with mu held. As in the tracer's counts, a port that is watched in one
// namespace is told by number in all.
func (f *failures) watched(port uint16) bool {
	_, ok := f.union[port]
	return ok || port == 0
}

// watch takes the watched ports of the watched namespaces, and forgets the failures of others.
// gone has the numbers of namespaces that are no more.
func (f *failures) watch(sets map[uint32][]ports.Set, gone map[uint32]bool) {
	f.conflicts.retire(func(netns uint32) bool {
		_, watched := sets[netns]
		return gone[netns] || !watched
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets = sets
	f.union = make(map[uint16]struct{})
	for _, of := range sets {
		for _, set := range of {
			for _, p := range set.Ports {
				f.union[p.Number] = struct{}{}
			}
		}
	}
	for key := range f.latest {
		if gone[key.Netns] || !key.OtherPort && !f.watched(key.Port) {
			delete(f.latest, key)
		}
	}
}

// ports are those that are watched anywhere.
func (f *failures) ports() []uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.union))
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
	tracer := t.host.cfg.Binds
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
	looker := newLooker(t.host)
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() { looker.run(ctx) })
	defer looking.Wait()
	defer cancel()
	return t.host.failures.follow(paced(read))
}
