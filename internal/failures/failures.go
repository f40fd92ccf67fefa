package failures

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/failures/callers"
	"sockstate_exporter/internal/failures/earlier"
	"sockstate_exporter/internal/failures/pace"
	"sockstate_exporter/internal/failures/retired"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/watch"
)

// Binds are the bind() and listen() calls that failed since the exporter started.
type Binds struct {
	// Counts are by the Inode of a Namespace of the snapshot. 0 stands for all namespaces that are
	// not watched.
	Counts []bindtrace.Count
	// Connects says that connect() is counted, too.
	Connects bool
	Stats    bindtrace.Stats
	Latest   []Failure // the latest failed bind() of each namespace, port, family and protocol

	// Failing are the watched TCP ports where a bind() has failed, and say whether binds fail now.
	// FailingUDP are the UDP ports.
	Failing, FailingUDP []failing.State

	// Conflicts count the bind() calls that failed with EADDRINUSE, by diagnosis. A call counts a
	// moment after its event was read. Calls whose event was lost are missing.
	Conflicts []ConflictCount

	// Recent are the latest failed calls, the latest first, on watched ports and on others.
	// Their number is bounded.
	Recent []Recent
}

// ErrnoName is the symbolic name of an error, EADDRINUSE, or empty where it has none.
func ErrnoName(errno unix.Errno) string { return unix.ErrnoName(errno) }

// A Key identifies a Failure: the Recorder keeps the latest failure of each Key.
type Key struct {
	Netns     uint32 // inode number of the network namespace, 0: not a watched one
	Port      uint16 // the port that was asked for; valid unless OtherPort
	OtherPort bool   // not a watched port
	Family    sock.Family
	Protocol  sock.Protocol
}

// compare puts what is watched first.
func (k Key) compare(o Key) int {
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

// A Tracer counts failed calls and hands over events: *bindtrace.Tracer.
type Tracer interface {
	SetWatch(namespaces []uint32, ports []bindtrace.Port) error
	Counts(counts []bindtrace.Count) ([]bindtrace.Count, error)
	Stats() (bindtrace.Stats, error)
	ConnectsErr() error
	Read(deadline time.Time, e *bindtrace.Event) error
}

// Config says what a Recorder records, and how.
type Config struct {
	Tracer Tracer

	// Host asks the namespaces where a bind has failed.
	Host *probe.Host

	// Watch watches the ports where calls fail; nil: they are not watched for that.
	Watch Watch

	// Owners finds who failed to bind; nil: nobody is known.
	Owners callers.Finder

	// Sockets finds who has a blocking socket open; nil: nobody is known.
	Sockets udp.Finder
	// OnConflict gets the calls that failed because a server cannot have its port, or connect() found
	// none, and why: at most once in half a minute for each port. Follow calls it, once at a time; nil is not called.
	OnConflict func(Conflict)
}

// A Recorder records failed calls. Its methods may be called from any goroutine.
type Recorder struct {
	cfg          Config
	conflicts    *conflicts
	callers      *callers.Callers
	retired      *retired.Namespaces // Update alone uses it
	earlier      *earlier.Failures[user, bindtrace.Key]
	failing, udp *failing.Tracker // of TCP ports, and of UDP ports

	mu      sync.Mutex
	watched *watched
}

// New returns a Recorder.
func New(cfg Config) *Recorder {
	if cfg.OnConflict == nil {
		cfg.OnConflict = func(Conflict) {}
	}
	return &Recorder{
		cfg:       cfg,
		conflicts: newConflicts(cfg.Host.OwnInode),
		callers:   callers.New(cfg.Owners),
		retired:   retired.New(),
		earlier:   earlier.New[user](func(key bindtrace.Key) bindtrace.Key { key.Port, key.OtherPort = 0, true; return key }),
		failing:   failing.New(),
		udp:       failing.New(),
		watched:   newWatched(cfg.Host.OwnInode, nil),
	}
}

// Update tells the tracer which ports and namespaces to count by number, and reads its counts.
// sets are the watched ports by the inode number of the namespace, and others the watched
// namespaces beside the own one.
func (r *Recorder) Update(sets map[uint32][]watch.Set, others []netns.ID) (Binds, error) {
	tracer := r.cfg.Tracer
	gone := r.retired.Replace(others)
	if len(gone) > 0 {
		// The tracer knows namespaces by number: a new one with the number of one that is gone must
		// not go on from its counts.
		if err := tracer.SetWatch(newWatched(r.cfg.Host.OwnInode, sets).without(gone).list()); err != nil {
			return Binds{}, err
		}
	}
	watched := r.watch(sets, gone)
	if err := tracer.SetWatch(watched.list()); err != nil {
		return Binds{}, err
	}
	r.failing.Forget(func(netns uint32) bool { return gone[netns] })
	r.udp.Forget(func(netns uint32) bool { return gone[netns] })
	counts, err := tracer.Counts(nil)
	if err != nil {
		return Binds{}, err
	}
	counts = r.withEarlier(counts)
	stats, err := tracer.Stats()
	return Binds{
		Counts:     counts,
		Connects:   tracer.ConnectsErr() == nil,
		Stats:      stats,
		Latest:     r.conflicts.latest.all(),
		Failing:    r.failing.Update(time.Now(), func(k failing.Key) bool { return watched.watches(k.Netns, k.Port) }),
		FailingUDP: r.udp.Update(time.Now(), func(k failing.Key) bool { return watched.watches(k.Netns, k.Port) }),
		Conflicts:  r.conflicts.all(),
		Recent:     r.conflicts.recent.all(),
	}, err
}

// Follow notes the tracer's events, and looks for the causes of conflicts, until the tracer is
// closed. It leaves nothing running.
func (r *Recorder) Follow() error {
	err := r.follow(pace.Reads(func(e *bindtrace.Event) error { return r.cfg.Tracer.Read(time.Time{}, e) }))
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// follow notes events until read says that there are no more.
func (r *Recorder) follow(read func(*bindtrace.Event) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() { newInspector(&r.cfg, r.conflicts, r.failing.Served).run(ctx) })
	defer looking.Wait()
	defer cancel()
	var e bindtrace.Event
	for {
		if err := read(&e); err != nil {
			return err
		}
		r.add(&e)
	}
}

func (r *Recorder) add(e *bindtrace.Event) {
	r.keepInSight(e)
	r.noteFailing(e)
	key := r.keyOf(e)
	by := r.callers.Of(key.Netns, e)
	if strings.HasPrefix(by.Process, e.Process) {
		e.Process = by.Process // of a script, the kernel knows only the beginning
	}
	r.noteEarlier(key, e)
	r.mu.Lock()
	defer r.mu.Unlock()
	key = r.watched.place(key) // the watched ports may have changed since
	r.conflicts.recent.add(key, e, by)
	code := r.conflicts.add(key, e, by)
	if e.Op == bindtrace.OpBind {
		r.conflicts.latest.add(key, e, by, code)
	}
}

func (r *Recorder) keyOf(e *bindtrace.Event) Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := Key{Netns: e.Netns, Port: e.Port, Family: e.Family, Protocol: e.Protocol}
	if e.Op == bindtrace.OpConnect {
		key.Port = 0 // that of the event is the destination's
	}
	if !e.PortKnown || e.OwnRange {
		key.Port, key.OtherPort = 0, true
	}
	return r.watched.place(key)
}

// watch takes the watched ports of the watched namespaces, and forgets the failures of others.
// gone has the inode numbers of namespaces that are gone.
func (r *Recorder) watch(sets map[uint32][]watch.Set, gone map[uint32]bool) *watched {
	now := newWatched(r.cfg.Host.OwnInode, sets)
	r.mu.Lock() // so that no failure comes with a key of before, once they are retired
	defer r.mu.Unlock()
	r.conflicts.earlier.Update(
		func(key ConflictKey) bool { return now.watches(key.Netns, key.Port) },
		func(key ConflictKey) bool { return gone[key.Netns] })
	r.conflicts.retire(func(key Key) Key {
		if _, ok := now.namespaces[key.Netns]; key.Netns != 0 && (gone[key.Netns] || !ok) {
			key.Netns, key.OtherPort = 0, key.Port != 0 || key.OtherPort
			key.Port = 0
		}
		return now.place(key)
	})
	r.earlier.Update(
		func(key bindtrace.Key) bool { return now.watches(key.Netns, key.Port) },
		func(key bindtrace.Key) bool { return gone[key.Netns] })
	r.watched = now
	r.conflicts.latest.keep(func(key Key) bool { return !gone[key.Netns] && now.place(key) == key })
	return now
}

// noteEarlier notes a failure of a port that may be watched soon.
func (r *Recorder) noteEarlier(key Key, e *bindtrace.Event) {
	if key.Netns == 0 || !key.OtherPort || !e.PortKnown || e.Port == 0 || e.Op != bindtrace.OpBind {
		return
	}
	switch e.Errno {
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.EACCES:
		r.earlier.Add(user{key.Netns, e.User}, bindtrace.Key{
			Netns: key.Netns, Port: e.Port, Op: bindtrace.OpBind, Family: e.Family, Protocol: e.Protocol, Errno: e.Errno,
		}, 1)
	}
}

// withEarlier counts the failures that came just before their port was watched under its number.
func (r *Recorder) withEarlier(counts []bindtrace.Count) []bindtrace.Count {
	sums := make(map[bindtrace.Key]uint64, len(counts))
	for _, c := range counts {
		sums[c.Key] = c.N
	}
	r.earlier.Apply(sums)
	r.earlier.Shown(sums)
	out := counts[:0]
	for key, n := range sums {
		out = append(out, bindtrace.Count{Key: key, N: n})
	}
	return out
}
