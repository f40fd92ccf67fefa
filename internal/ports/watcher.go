package ports

import (
	"maps"
	"slices"
	"time"

	"sockstate_exporter/internal/sock"
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
	Exclude   []Exclusion   // never by discovery; Ports are not affected
	MaxPorts  int           // most ports of all Watchers of a Plan; 1 or more
}

// A Set is the ports watched at one moment. Sets share memory: its fields must
// not be changed. It is not changed by the Watcher either, so it may be kept,
// and read from any goroutine.
type Set struct {
	Ports   []Port // sorted by number
	Dropped int    // ports that should be watched and are not, for Limit
	Limit   int    // Config.MaxPorts: of the Ports of all Watchers together

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

// A Watcher keeps the ports of one protocol to watch in one network namespace, from one
// snapshot to the next. It is not safe for concurrent use; several of a Plan are.
type Watcher struct {
	plan  *Plan
	rules *rules
	kept  []Port // those of rules.asked that are watched, listener or not

	now       time.Time            // latest time seen
	seen      map[uint16]time.Time // when a discovered port last had a listener
	lingering []uint16             // sorted

	set   Set
	claim int  // of the budget, for discovered ports
	stale bool // set no longer fits seen
}

// New checks cfg and returns the Watcher of the TCP ports of the exporter's own network
// namespace, without others beside it: see [NewPlan].
func New(cfg Config) (*Watcher, error) {
	p, err := NewPlan(cfg)
	if err != nil {
		return nil, err
	}
	return p.Own(sock.TCP), nil
}

// Close gives the ports back to the budget. The Watcher must not be used any more.
func (w *Watcher) Close() { w.claim = w.plan.budget.claim(w.claim, 0) }

// Asked says whether somebody asked for the port.
func (w *Watcher) Asked(p uint16) bool { return w.rules.asked.has(p) }

// Update takes the ports that have a listener now, in any order, duplicates
// allowed, and returns the ports to watch. It remembers ports that exceed the
// budget, too, and watches them when the budget allows it.
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
	w.discover(listening)
	w.forget()
	if w.stale || w.set.Dropped > 0 && w.plan.budget.hasRoom() {
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
	w.lingering = append(w.lingering[:0], ports...)
	slices.Sort(w.lingering)
}

func (w *Watcher) discover(listening []uint16) {
	for _, p := range listening {
		if !w.discoverable(p) {
			continue
		}
		if _, ok := w.seen[p]; !ok {
			w.stale = true
		}
		w.seen[p] = w.now
	}
}

func (w *Watcher) discoverable(p uint16) bool {
	asked := w.Asked(p)
	switch {
	case p == 0, asked && w.own():
		return false
	case asked:
		return true
	}
	return w.plan.listeners && !w.rules.excluded.has(p)
}

// own: the ports that were asked for are watched here, listener or not.
func (w *Watcher) own() bool { return w.kept != nil }

func (w *Watcher) forget() {
	maps.DeleteFunc(w.seen, func(p uint16, seen time.Time) bool {
		if seen.Equal(w.now) || w.now.Sub(seen) < w.plan.retention {
			return false
		}
		if _, lingers := slices.BinarySearch(w.lingering, p); lingers {
			return false
		}
		w.stale = true
		return true
	})
}

func (w *Watcher) build() Set {
	w.claim = w.plan.budget.claim(w.claim, len(w.seen))
	ports := append(make([]Port, 0, len(w.kept)+w.claim), w.kept...)
	for _, p := range slices.Sorted(maps.Keys(w.seen))[:w.claim] {
		ports = append(ports, Port{Number: p, Name: w.rules.names[p].Name, Source: SourceListener})
	}
	slices.SortFunc(ports, func(a, b Port) int { return int(a.Number) - int(b.Number) })

	dropped := len(w.seen) - w.claim
	if w.own() {
		dropped += w.rules.asked.len() - len(w.kept)
	}
	set := Set{Ports: ports, Dropped: dropped, Limit: w.plan.budget.limit}
	if len(ports) > 0 { // most namespaces have no UDP port to watch
		set.index = newPortIndex(ports)
	}
	return set
}
