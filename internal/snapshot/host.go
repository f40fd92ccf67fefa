package snapshot

import (
	"context"
	"maps"
	"sync"

	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A host asks the sources of all network namespaces. It is used by one flight at a time, and
// keeps what has to outlive a snapshot.
type host struct {
	cfg      Config
	own      *worker
	others   map[netns.ID]*worker
	finder   *finder
	failures *failures
	retired  *retired
}

func newHost(cfg Config) *host {
	return &host{
		cfg:      cfg,
		own:      newWorker(cfg, cfg.Watch.Own),
		others:   make(map[netns.ID]*worker),
		finder:   &finder{discoverer: cfg.Namespaces},
		failures: newFailures(cfg.OwnNetns, cfg.Owners),
		retired:  newRetired(),
	}
}

func (h *host) close() error { return h.own.close() }

// A finder finds the other network namespaces. It may be used by several goroutines.
type finder struct {
	mu         sync.Mutex
	discoverer *netns.Discoverer // nil: there are none
}

// open finds those of the moment. The caller closes the Set.
func (f *finder) open() (*netns.Set, Part[Discovery]) {
	set := new(netns.Set)
	return set, take(func() (Discovery, error) {
		if f.discoverer == nil {
			return Discovery{}, ErrOff
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		*set = *f.discoverer.Open()
		return Discovery{Dropped: set.Dropped, Unreadable: set.Unreadable}, set.Err
	})
}

// maxEntered bounds how many of the other namespaces are asked at a time: each takes a thread
// or two.
const maxEntered = 8

// run takes the parts and publishes each as soon as it is there. Namespaces do not wait for
// each other, but for failed binds, which need to know what all of them watch.
func (h *host) run(ctx context.Context, publish func(func(*Snapshot))) {
	publishOwn := func(set func(*Namespace)) { publish(func(s *Snapshot) { set(&s.Namespace) }) }
	publishOwn(func(s *Namespace) { s.Inode = h.cfg.OwnNetns })
	var running, listed sync.WaitGroup
	running.Go(func() { h.own.readStack(publishOwn) })
	// First, so that its ports come first where not all can be watched.
	h.own.list(ctx, publishOwn)
	running.Go(func() { h.own.take(ctx, publishOwn) })

	set, found := h.finder.open()
	defer func() {
		running.Wait()
		_ = set.Close()
	}()
	publish(func(s *Snapshot) {
		s.expect(set)
		s.Discovery = found
	})
	h.keep(set)
	entered := make(chan struct{}, maxEntered)
	enter := func(f func()) {
		entered <- struct{}{}
		defer func() { <-entered }()
		f()
	}
	for i, ns := range set.Namespaces {
		w := h.others[ns.ID]
		publish := func(set func(*Namespace)) { publish(func(s *Snapshot) { set(&s.Others[i]) }) }
		listed.Add(1)
		running.Go(func() {
			defer func() {
				w.leave()
				_ = ns.Close() // of what was only read
			}()
			enter(func() {
				defer listed.Done()
				w.cfg = h.cfg.in(ns)
				w.list(ctx, publish)
			})
			enter(func() {
				w.readStack(publish)
				w.take(ctx, publish)
			})
		})
	}
	listed.Wait()
	binds := take(func() (Binds, error) { return h.binds(set) })
	publish(func(s *Snapshot) { s.Binds = binds })
}

// expect makes room for the namespaces.
func (s *Snapshot) expect(set *netns.Set) {
	s.Others = make([]Namespace, len(set.Namespaces))
	for i, ns := range set.Namespaces {
		s.Others[i] = Namespace{Name: ns.Name, Inode: uint32(ns.ID.Inode)}
		for err := range s.Others[i].errs() {
			*err = errPending
		}
	}
}

// keep forgets the namespaces that are no more, and gets to know new ones.
func (h *host) keep(set *netns.Set) {
	there := make(map[netns.ID]bool, len(set.Namespaces))
	for _, ns := range set.Namespaces {
		there[ns.ID] = true
	}
	maps.DeleteFunc(h.others, func(id netns.ID, w *worker) bool {
		if !there[id] {
			w.forget()
		}
		return !there[id]
	})
	for id := range there {
		if h.others[id] == nil {
			h.others[id] = newWorker(h.cfg, h.cfg.Watch.Elsewhere)
		}
	}
}

// watched are the ports that are watched, by the number of the namespace.
func (h *host) watched(set *netns.Set) map[uint32][]watch.Set {
	sets := map[uint32][]watch.Set{h.cfg.OwnNetns: h.own.sets()}
	for _, ns := range set.Namespaces {
		sets[uint32(ns.ID.Inode)] = h.others[ns.ID].sets()
	}
	return sets
}

// sets are those of the protocols.
func (w *worker) sets() []watch.Set {
	if w.udp == nil {
		return []watch.Set{w.set}
	}
	return []watch.Set{w.set, w.udp.set}
}

// leave lets go of the namespace: its sockets would keep it in being.
func (w *worker) leave() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

// in is the Config for another network namespace, while that is open.
func (c Config) in(ns *netns.Namespace) Config {
	fd, read, localPorts := ns.FD(), c.Stack, c.LocalPorts
	c.NetNS = fd
	c.Dial = func() (*netlinkdiag.Conn, error) { return netlinkdiag.Dial(&netlinkdiag.Config{NetNS: fd}) }
	if read != nil {
		c.Stack = func() (s stack.Stats, err error) {
			err = netns.Run(fd, func() (err error) {
				s, err = read()
				return err
			})
			return s, err
		}
	}
	if localPorts != nil {
		c.LocalPorts = func() (first, last uint16, err error) {
			err = netns.Run(fd, func() (err error) {
				first, last, err = localPorts()
				return err
			})
			return first, last, err
		}
	}
	return c
}
