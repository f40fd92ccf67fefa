package watch

import (
	"maps"
	"slices"
	"time"

	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
)

// Source says why a port is watched.
type Source string

// The sources. A port of several has the first.
const (
	SourceFlag     Source = "flag"     // somebody asked for it
	SourceListener Source = "listener" // a listener was seen on it
	SourceFailure  Source = "failure"  // a bind to it failed, and it has no place as one of the others
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
	MaxPorts  int           // most ports of all Watchers of a Plan, beside those of SourceFailure; 1 or more
}

// A Set is the ports watched at one moment. Sets share memory: its fields must
// not be changed. It is not changed by the Watcher either, so it may be kept,
// and read from any goroutine.
type Set struct {
	Ports   []Port // sorted by number
	Dropped int    // ports that should be watched and are not, for Limit
	Limit   int    // Config.MaxPorts: of all Watchers together; ports of SourceFailure have their own

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

// A Server is a port that has a listener.
type Server struct {
	Port   uint16
	UID    uint32 // of the user who made the oldest listener of the port
	Cookie uint64 // of that listener
}

// A Watcher keeps the ports of one protocol to watch in one network namespace, from one
// snapshot to the next. It is not safe for concurrent use; several of a Plan are.
type Watcher struct {
	plan     *Plan
	rules    *rules
	protocol sock.Protocol
	netns    uint32 // inode number, 0 for the exporter's own
	kept     []Port // those of rules.asked that are watched, listener or not

	now       time.Time         // latest time seen
	seen      map[uint16]server // discovered ports
	lingering []uint16          // sorted
	failing   []uint16          // sorted
	scratch   []uint16

	looked bool // at least once
	// young has the ports whose oldest listener may be gone in a moment.
	young map[uint16]newcomer

	set   Set
	stale bool // set no longer fits seen or failing

	// Of the budget, which guards them.
	places    map[uint16]*place
	disturbed bool
	settled   uint64 // budget.changes then
}

// A server is what is known of a discovered port.
type server struct {
	last    time.Time // when it last had a listener
	account uint32    // of share.Account
}

// A newcomer is the oldest listener of a port, and when it was first seen.
type newcomer struct {
	cookie uint64
	since  time.Time
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
func (w *Watcher) Close() {
	var none portSet
	w.plan.budget.settle(w, nil, &none)
	w.plan.failing.forget(w.netns, w.protocol)
}

// Set returns the latest set of watched ports.
func (w *Watcher) Set() Set { return w.set }

// Asked says whether somebody asked for the port.
func (w *Watcher) Asked(p uint16) bool { return w.rules.asked.has(p) }

// serverAge is the age from which a socket counts as a server's, if the port may be one that the
// kernel or a client has chosen: resolvers, FTP servers and tests open one for each query, transfer
// or run. UDP servers on a port below lowPorts count at once.
const (
	serverAge = time.Minute
	lowPorts  = 1024
)

// Discover is Update for those of the ports that belong to a server. chosen is ip_local_port_range,
// empty where it is not known. A TCP listener in that range counts once it is a minute old, and so
// does a UDP socket on a port from 1024 up; in that range a UDP socket never counts. A socket
// counts at once if it is there when the exporter first looks, or if its port is watched or was
// asked for.
func (w *Watcher) Discover(now time.Time, listening []Server, chosen sock.PortRange) Set {
	var counted []Server
	before := w.young
	w.young = nil
	for _, s := range listening {
		switch {
		case w.Asked(s.Port), w.knows(s.Port):
		case w.protocol == sock.UDP && s.Port < lowPorts:
		case w.protocol == sock.UDP && chosen.Contains(s.Port):
			continue
		case w.protocol == sock.TCP && !chosen.Contains(s.Port):
		case w.looked && !w.grownUp(now, &s, before):
			continue
		}
		counted = append(counted, s)
	}
	w.looked = true
	return w.Update(now, counted)
}

// knows says that the port is watched, or would be if there were room.
func (w *Watcher) knows(p uint16) bool {
	_, seen := w.seen[p]
	_, watched := w.set.Find(p)
	return seen || watched
}

// grownUp says that the oldest listener of the port is old enough. If not, it is remembered.
func (w *Watcher) grownUp(now time.Time, s *Server, before map[uint16]newcomer) bool {
	n, ok := before[s.Port]
	if !ok || n.cookie != s.Cookie {
		n = newcomer{cookie: s.Cookie, since: now}
	}
	if now.Sub(n.since) >= serverAge {
		return true
	}
	if w.young == nil {
		w.young = make(map[uint16]newcomer)
	}
	w.young[s.Port] = n
	return false
}

// Update takes the ports that have a listener now, in any order, duplicates
// allowed, and returns the ports to watch. Ports for which the budget has no place are
// remembered like the others, so they come in when there is room.
//
// now should carry a monotonic reading, as time.Now's does. Time that goes
// backwards stands still until it has caught up: ports may stay longer for it,
// never shorter.
//
// While the set stays the same, Update allocates nothing.
func (w *Watcher) Update(now time.Time, listening []Server) Set {
	if now.After(w.now) {
		w.now = now
	}
	w.discover(listening)
	w.forget()
	w.fail()
	if w.stale || w.plan.budget.due(w, w.set.Dropped > 0) {
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

func (w *Watcher) discover(listening []Server) {
	for i := range listening {
		l := &listening[i]
		if !w.discoverable(l.Port) {
			continue
		}
		s := server{last: w.now, account: share.Account(l.UID)}
		if before, ok := w.seen[l.Port]; !ok || before.account != s.account {
			w.stale = true
		}
		w.seen[l.Port] = s
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
	maps.DeleteFunc(w.seen, func(p uint16, s server) bool {
		if s.last.Equal(w.now) || w.now.Sub(s.last) < w.plan.retention {
			return false
		}
		if _, lingers := slices.BinarySearch(w.lingering, p); lingers {
			return false
		}
		w.stale = true
		return true
	})
}

// fail takes the ports to which a bind failed.
func (w *Watcher) fail() {
	w.scratch = w.plan.failing.on(w.now, w.netns, w.protocol, w.scratch[:0])
	if !slices.Equal(w.scratch, w.failing) {
		w.failing, w.scratch = w.scratch, w.failing
		w.stale = true
	}
}

func (w *Watcher) build() Set {
	wants := make([]want, 0, len(w.seen))
	for _, p := range slices.Sorted(maps.Keys(w.seen)) {
		wants = append(wants, want{port: p, user: user{w.netns, w.seen[p].account}, asked: w.Asked(p)})
	}
	var has portSet
	w.plan.budget.settle(w, wants, &has)

	ports, dropped := append(make([]Port, 0, len(w.kept)+len(wants)), w.kept...), 0
	add := func(p uint16, source Source) {
		ports = append(ports, Port{Number: p, Name: w.rules.names[p].Name, Source: source})
	}
	for _, n := range wants {
		if has.has(n.port) {
			add(n.port, SourceListener)
		} else {
			dropped++
		}
	}
	for _, p := range w.kept {
		has.add(p.Number)
	}
	for _, p := range w.failing {
		if has.has(p) {
			continue
		}
		add(p, SourceFailure)
		if _, listens := w.seen[p]; listens || w.own() && w.Asked(p) {
			dropped--
		}
	}
	if w.own() {
		dropped += w.rules.asked.len() - len(w.kept)
	}
	slices.SortFunc(ports, func(a, b Port) int { return int(a.Number) - int(b.Number) })
	set := Set{Ports: slices.Clip(ports), Dropped: dropped, Limit: w.plan.budget.limit}
	if len(ports) > 0 { // most namespaces have no UDP port to watch
		set.index = newPortIndex(ports)
	}
	return set
}
