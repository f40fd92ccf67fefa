package snapshot

import (
	"context"
	"maps"
	"sync"
	"time"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A host takes snapshots of all network namespaces, one at a time, and keeps what has to outlive
// them.
type host struct {
	cfg    *Config
	own    *worker
	others map[netns.ID]*worker

	idleWalks  time.Duration // of a walkBudget
	walkFailed time.Time
}

func newHost(cfg *Config) *host {
	return &host{
		cfg:       cfg,
		own:       newWorker(cfg, cfg.Watch.Own, cfg.Host.Own()),
		others:    make(map[netns.ID]*worker),
		idleWalks: maxIdleWalks,
	}
}

func (h *host) close() error { return h.own.probe.Close() }

// maxEntered bounds how many of the other namespaces are asked at a time: each takes a thread
// or two.
const maxEntered = 8

// maxIdleWalks bounds how long a snapshot looks for connections in other namespaces where the
// kernel counts nothing but listeners. All namespaces share one table of connections: with a
// million TIME_WAIT sockets in one, a search in another one takes a fifth of a second, even if it
// finds nothing.
const maxIdleWalks = time.Second

// A walkBudget is the part of maxIdleWalks that is left.
type walkBudget struct {
	mu   sync.Mutex
	left time.Duration
}

func (b *walkBudget) spent() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left <= 0
}

func (b *walkBudget) spend(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left -= d
}

// run takes the parts and publishes each as soon as it is there. What has to know what all namespaces
// watch waits until that is known: the walk through all connections, and failed calls. Apart from that,
// namespaces do not wait for each other.
func (h *host) run(ctx context.Context, holders bool, publish func(func(*Snapshot))) {
	publishOwn := func(set func(*Namespace)) { publish(func(s *Snapshot) { set(&s.Namespace) }) }
	publishOwn(func(s *Namespace) { s.Inode = h.cfg.Host.OwnInode })
	walks := &walkBudget{left: h.idleWalks}
	var running, listed sync.WaitGroup
	var binds Part[failures.Binds]
	own := h.own.begin(netns.ID{Inode: uint64(h.cfg.Host.OwnInode), Cookie: h.cfg.Host.OwnCookie}, publishOwn, walks, holders)
	running.Go(own.stack)
	// The own namespace comes first, so that its ports are watched even if the budget does not
	// suffice for all.
	own.list(ctx)

	set, found := h.discover()
	takings := []*taking{own}
	defer func() {
		running.Wait()
		for _, t := range takings {
			t.noteSplit(&binds.Data)
		}
		_ = set.Close()
	}()
	publish(func(s *Snapshot) {
		s.expect(set)
		s.Discovery = found
	})
	h.keep(set)
	walk := h.mayWalk() && h.wantsWalk(set)
	alone := !walk && len(set.Namespaces) == 0
	walked := make(chan struct{}) // closed after the walk, or without one
	entered := make(chan struct{}, maxEntered)
	enter := func(f func()) {
		entered <- struct{}{}
		defer func() { <-entered }()
		f()
	}
	for i, ns := range set.Namespaces {
		w := h.others[ns.ID]
		w.probe = h.cfg.Host.In(ns)
		other := w.begin(ns.ID, func(set func(*Namespace)) { publish(func(s *Snapshot) { set(&s.Others[i]) }) }, walks, holders)
		takings = append(takings, other)
		listed.Add(1)
		running.Go(func() {
			// An open connection to the namespace would keep it alive.
			defer func() {
				_ = w.probe.Close()
				_ = ns.Close()
			}()
			enter(func() {
				defer listed.Done()
				other.list(ctx)
				other.stack() // was read together with what list needs
			})
			<-walked
			enter(func() { other.sockets(ctx) })
		})
	}
	switch {
	case walk:
		running.Go(func() {
			own.nameOwners(ctx) // listeners do not wait for the walk
			listed.Wait()
			h.walk(ctx, takings)
			close(walked)
			own.sockets(ctx)
		})
	case !alone:
		running.Go(func() { own.sockets(ctx) })
		fallthrough
	default:
		close(walked)
	}
	listed.Wait()
	binds = take(func() (failures.Binds, error) {
		if h.cfg.Failures == nil {
			return failures.Binds{}, ErrOff
		}
		for _, t := range takings {
			h.cfg.Failures.Look(uint32(t.id.Inode), t.began, t.onWatched.Listeners, t.listening.Err)
			h.cfg.Failures.LookUDP(uint32(t.id.Inode), t.began, t.udpPorts.Data, t.udpPorts.Err)
		}
		return h.cfg.Failures.Update(h.watched(set), set.IDs())
	})
	publish(func(s *Snapshot) {
		s.Binds = binds
		h.own.noteFailures(&s.Namespace, binds.Data.Counts)
		for i, ns := range set.Namespaces {
			h.others[ns.ID].noteFailures(&s.Others[i], binds.Data.Counts)
		}
	})
	if alone {
		own.sockets(ctx) // beside nothing, a goroutine of its own would only cost time
	}
}

// discover finds the other namespaces that exist now. The caller closes the Set.
func (h *host) discover() (set *netns.Set, found Part[Discovery]) {
	found = take(func() (Discovery, error) {
		set = h.cfg.Host.Open()
		return Discovery{Dropped: set.Dropped, Unreadable: set.Unreadable}, set.Err
	})
	return set, found
}

// expect adds the namespaces to the snapshot. All their parts are pending.
func (s *Snapshot) expect(set *netns.Set) {
	s.Others = make([]Namespace, len(set.Namespaces))
	for i, ns := range set.Namespaces {
		s.Others[i] = Namespace{Name: ns.Name, Inode: uint32(ns.ID.Inode), Container: ns.Container}
		for err := range partErrors(&s.Others[i]) {
			*err = errPending
		}
	}
	for _, m := range set.Missed {
		s.Missed = append(s.Missed, Namespace{Name: m.Name, Inode: uint32(m.ID.Inode)})
	}
}

// keep removes the workers of namespaces that are gone, and adds workers for new namespaces. Those
// that were only missed keep their workers: their counters go on when they are found again.
func (h *host) keep(set *netns.Set) {
	there := make(map[netns.ID]bool, len(set.Namespaces))
	for _, id := range set.IDs() {
		there[id] = true
	}
	maps.DeleteFunc(h.others, func(id netns.ID, w *worker) bool {
		if !there[id] {
			w.forget()
		}
		return !there[id]
	})
	for id := range there {
		if h.others[id] == nil {
			watch := func(p sock.Protocol) *watch.Watcher { return h.cfg.Watch.Elsewhere(p, uint32(id.Inode)) }
			h.others[id] = newWorker(h.cfg, watch, nil)
		}
	}
}

// watched returns the watched ports by the inode number of the namespace. Failed calls in those that
// were missed are counted as before.
func (h *host) watched(set *netns.Set) map[uint32][]watch.Set {
	sets := map[uint32][]watch.Set{h.cfg.Host.OwnInode: h.own.sets()}
	for _, id := range set.IDs() {
		sets[uint32(id.Inode)] = h.others[id].sets()
	}
	return sets
}

// take calls a source and notes how long it took.
func take[T any](source func() (T, error)) Part[T] {
	start := time.Now()
	data, err := source()
	return Part[T]{Data: data, Err: err, Duration: time.Since(start)}
}
