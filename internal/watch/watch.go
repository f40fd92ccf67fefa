package watch

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Source says why a port is watched.
type Source string

// The sources. A port of both has SourceFlag.
const (
	SourceFlag     Source = "flag"     // somebody asked for it
	SourceListener Source = "listener" // a listener was seen on it
)

// A Port is one watched port. Name is what the user called it, or empty.
type Port struct {
	Number uint16
	Name   string
	Source Source
}

// Config says what to watch.
type Config struct {
	Ports     []Spec        // watched always, listener or not
	Listeners bool          // watch every port that has a listener as well
	Retention time.Duration // how long such a port stays after its listener was last seen; 0 or more
	Exclude   []Range       // never by discovery; Ports are not affected
	MaxPorts  int           // most ports in a Set; 1 or more
}

// A Set is the ports watched at one moment. Sets share memory: its fields must
// not be changed. It is not changed by the Watcher either, so it may be kept,
// and read from any goroutine.
type Set struct {
	Ports   []Port // sorted by number, at most Limit
	Dropped int    // ports that should be watched and are not, for Limit
	Limit   int    // Config.MaxPorts

	index *portIndex
}

// Find returns the position of a port in s.Ports, and whether it is there.
// It allocates nothing and takes constant time.
func (s Set) Find(port uint16) (int, bool) {
	if s.index == nil {
		return 0, false
	}
	return s.index.find(port)
}

// Numbers are the numbers of s.Ports.
func (s Set) Numbers() []uint16 {
	out := make([]uint16, len(s.Ports))
	for i, p := range s.Ports {
		out[i] = p.Number
	}
	return out
}

// A Watcher keeps the ports to watch from one snapshot to the next. It is not
// safe for concurrent use.
type Watcher struct {
	cfg Config

	explicit     portSet // all of them, those beyond the budget too
	explicitKept []Port  // those within the budget, by number
	excluded     portSet

	now        time.Time            // latest time seen
	seen       map[uint16]time.Time // when a discovered port last had a listener
	discovered portSet              // the keys of seen, sorted
	lingering  portSet

	set   Set
	stale bool // set no longer fits discovered
}

// New checks cfg and returns a Watcher. Two different names for one port are
// an error; a name and no name are not, the name holds.
func New(cfg Config) (*Watcher, error) {
	if cfg.MaxPorts < 1 {
		return nil, fmt.Errorf("limit of %d watched ports is too low, want 1 or more", cfg.MaxPorts)
	}
	if cfg.Retention < 0 {
		return nil, fmt.Errorf("retention %v is negative, want 0s or more", cfg.Retention)
	}

	w := &Watcher{cfg: cfg, seen: make(map[uint16]time.Time), stale: true}
	for _, r := range cfg.Exclude {
		if err := r.check(); err != nil {
			return nil, err
		}
		w.excluded.addRange(r)
	}
	names, err := explicitNames(cfg.Ports)
	if err != nil {
		return nil, err
	}
	for _, s := range cfg.Ports {
		w.explicit.addRange(s.Range)
	}
	for p := range w.explicit.all() {
		if len(w.explicitKept) == cfg.MaxPorts {
			break
		}
		w.explicitKept = append(w.explicitKept, Port{Number: p, Name: names[p].Name, Source: SourceFlag})
	}
	return w, nil
}

// explicitNames returns, for each port that has a name, the spec that gave it.
func explicitNames(specs []Spec) (map[uint16]Spec, error) {
	names := make(map[uint16]Spec)
	for _, s := range specs {
		if err := s.check(); err != nil {
			return nil, err
		}
		if s.Name == "" {
			continue
		}
		for p := int(s.First); p <= int(s.Last); p++ {
			old, named := names[uint16(p)]
			if named && old.Name != s.Name {
				return nil, fmt.Errorf("port %d has two names, %q (from %q) and %q (from %q), want one",
					p, old.Name, old, s.Name, s)
			}
			names[uint16(p)] = s
		}
	}
	return names, nil
}

// Update takes the ports that have a listener now, in any order, duplicates
// allowed, and returns the ports to watch. Ports the budget drops are
// remembered like the others, so they come in when there is room.
//
// now should carry a monotonic reading, as time.Now's does. Time that goes
// backwards stands still until it has caught up: ports may stay longer for it,
// never shorter.
//
// While the set stays the same, Update allocates nothing.
func (w *Watcher) Update(now time.Time, listening []uint16) Set {
	if now.After(w.now) {
		w.now = now
	}
	if w.cfg.Listeners {
		w.discover(listening)
		w.forget()
	}
	if w.stale {
		w.set = w.build()
		w.stale = false
	}
	return w.set
}

// Lingering takes the ports on which the latest complete dump saw any socket
// that was not listening. It replaces what an earlier call said; after a dump
// that failed, do not call it. It holds from the next Update on, and keeps
// ports, never adds them.
func (w *Watcher) Lingering(ports []uint16) {
	clear(w.lingering[:])
	for _, p := range ports {
		w.lingering.add(p)
	}
}

func (w *Watcher) discover(listening []uint16) {
	for _, p := range listening {
		if p == 0 || w.explicit.has(p) || w.excluded.has(p) {
			continue
		}
		if !w.discovered.has(p) {
			w.discovered.add(p)
			w.stale = true
		}
		w.seen[p] = w.now
	}
}

func (w *Watcher) forget() {
	maps.DeleteFunc(w.seen, func(p uint16, seen time.Time) bool {
		listening := seen.Equal(w.now)
		if listening || w.now.Sub(seen) < w.cfg.Retention || w.lingering.has(p) {
			return false
		}
		w.discovered.remove(p)
		w.stale = true
		return true
	})
}

func (w *Watcher) build() Set {
	wanted := w.explicit.len() + len(w.seen)
	ports := append(make([]Port, 0, min(wanted, w.cfg.MaxPorts)), w.explicitKept...)
	for p := range w.discovered.all() {
		if len(ports) == w.cfg.MaxPorts {
			break
		}
		ports = append(ports, Port{Number: p, Source: SourceListener})
	}
	slices.SortFunc(ports, func(a, b Port) int { return int(a.Number) - int(b.Number) })

	return Set{
		Ports:   ports,
		Dropped: wanted - len(ports),
		Limit:   w.cfg.MaxPorts,
		index:   newPortIndex(ports),
	}
}
