package snapshot

import (
	"cmp"
	"context"
	"maps"
	"sync"
	"time"

	"sockstate_exporter/internal/linux"
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

	idleWalks time.Duration // of a walkBudget
}

func newHost(cfg Config) *host {
	return &host{
		cfg:      cfg,
		own:      newWorker(cfg, cfg.Watch.Own),
		others:   make(map[netns.ID]*worker),
		finder:   &finder{discoverer: cfg.Namespaces},
		failures: newFailures(cfg.OwnNetns, cfg.Owners),
		retired:  newRetired(),

		idleWalks: maxIdleWalks,
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

// maxIdleWalks bounds how long a snapshot looks for connections in other namespaces where the
// kernel counts nothing but listeners. The table of connections is one for all of them: with a
// million TIME_WAIT sockets in one, to find nothing in another takes a fifth of a second.
const maxIdleWalks = time.Second

// A walkBudget is what is left of that.
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
	walks := &walkBudget{left: h.idleWalks}
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
				w.cfg.walks = walks
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
func (c *Config) in(ns *netns.Namespace) Config {
	fd, in := ns.FD(), *c
	in.NetNS = fd
	in.Dial = func() (*netlinkdiag.Conn, error) { return netlinkdiag.Dial(&netlinkdiag.Config{NetNS: fd}) }
	// All at once: each time it takes another thread.
	read := sync.OnceValues(func() (p procfsValues, err error) {
		err = linux.RunInNetNS(fd, func() error {
			p = c.procfs()
			return nil
		})
		return p, err
	})
	if c.Stack != nil {
		in.Stack = func() (stack.Stats, error) {
			p, err := read()
			return p.stats, cmp.Or(err, p.statsErr)
		}
	}
	if c.LocalPorts != nil {
		in.LocalPorts = func() (uint16, uint16, error) {
			p, err := read()
			return p.first, p.last, cmp.Or(err, p.localPortsErr)
		}
	}
	if c.TCPSockets != nil {
		in.sparse = func(listening uint64) bool {
			p, err := read()
			return cmp.Or(err, p.socketsErr) == nil && p.sockets == listening
		}
	}
	return in
}

// procfsValues are what procfs says of the calling thread's network namespace.
type procfsValues struct {
	stats         stack.Stats
	statsErr      error
	first, last   uint16
	localPortsErr error
	sockets       uint64
	socketsErr    error
}

func (c *Config) procfs() (p procfsValues) {
	if c.Stack != nil {
		p.stats, p.statsErr = c.Stack()
	}
	if c.LocalPorts != nil {
		p.first, p.last, p.localPortsErr = c.LocalPorts()
	}
	if c.TCPSockets != nil {
		p.sockets, p.socketsErr = c.TCPSockets()
	}
	return p
}
