package failing

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
)

// Binds count as failing for these times after the last failure.
const (
	keep       = 15 * time.Minute
	keepServed = time.Hour // where something listened
)

// Bounds. Ports may fail before they are watched, and any user can make them fail.
const (
	maxUnwatched = 256
	ofUser       = maxUnwatched / 4
	maxAddresses = 8 // of a port and family
)

// A Key is a TCP port, for MPTCP as well.
type Key struct {
	Netns  uint32 // inode number
	Port   uint16
	Family sock.Family
}

// Compare sorts.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Netns, o.Netns), cmp.Compare(k.Port, o.Port), cmp.Compare(k.Family, o.Family))
}

// A Failure is a bind() or listen() that failed.
type Failure struct {
	Key
	Time   time.Time
	User   uint32
	Addr   netip.Addr // that the bind was to; invalid: not known
	V6Only bool

	// InTheWay are the sockets that the kernel had in the way, by inode, as far as they are known.
	InTheWay []uint32

	PID     int // of who called, and what it calls itself
	Process string
}

// A State says whether binds to a port fail now.
type State struct {
	Key
	Failing bool

	// Of the latest failure while Failing: who called, and whether a listener was in the way when the
	// exporter last looked.
	PID     int
	Process string
	Beside  bool
}

// A Tracker follows failures and listeners. Its methods may be called from any goroutine.
type Tracker struct {
	mu    sync.Mutex
	ports map[Key]*port
	looks map[uint32]look // by network namespace

	others int          // of ports: those that are not watched
	users  map[user]int // of others: how many of each user
}

type user struct{ netns, uid uint32 }

// A look is what a snapshot has shown of a network namespace.
type look struct {
	at        time.Time
	listeners []ports.Listener
	served    map[served]time.Time // when something last listened
}

type served struct {
	port   uint16
	family sock.Family
}

// A port has a state from its first failure until it leaves the watch.
type port struct {
	watched  bool
	old      bool // an Update has passed, and it was not watched
	by       user // of the first failure
	listened bool // something listened within keepServed before a failure
	binds    []bind
}

// A bind is an address that binds fail for.
type bind struct {
	addr   netip.Addr // invalid: any
	v6only bool
	last   time.Time // failure
	pid    int       // of the last failure, as process
	name   string
	judged bool            // known and beside are of the last failure
	known  map[uint64]bool // cookies of the listeners that were there before it
	inWay  []uint32        // inodes of sockets that were
	beside bool            // the latest snapshot after it has shown a listener in the way
}

// New returns a Tracker that knows nothing.
func New() *Tracker {
	return &Tracker{ports: make(map[Key]*port), users: make(map[user]int), looks: make(map[uint32]look)}
}

// Failed notes a failure. It runs for every event.
func (t *Tracker) Failed(f Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.ports[f.Key]
	if p == nil {
		by := user{f.Netns, f.User}
		if t.others >= maxUnwatched || t.users[by] >= ofUser {
			return
		}
		p = &port{by: by}
		t.ports[f.Key] = p
		t.users[by]++
		t.others++
	}
	at, ok := t.looks[f.Netns].served[served{f.Port, f.Family}]
	p.listened = p.listened || ok && f.Time.Sub(at) < keepServed
	p.fail(&f)
}

func (p *port) fail(f *Failure) {
	is := func(b bind) bool { return b.addr == f.Addr && b.v6only == f.V6Only }
	i := slices.IndexFunc(p.binds, is)
	if i < 0 {
		if len(p.binds) == maxAddresses {
			oldest := slices.MinFunc(p.binds, func(a, b bind) int { return a.last.Compare(b.last) })
			p.binds = slices.DeleteFunc(p.binds, func(b bind) bool { return b.addr == oldest.addr && b.v6only == oldest.v6only })
		}
		p.binds = append(p.binds, bind{addr: f.Addr, v6only: f.V6Only})
		i = len(p.binds) - 1
	}
	if b := &p.binds[i]; f.Time.After(b.last) {
		b.last, b.judged, b.known, b.inWay, b.beside, b.pid, b.name = f.Time, false, nil, f.InTheWay, false, f.PID, f.Process
	}
}

// Look takes the TCP listeners on the watched ports of a network namespace. at is when the exporter
// began to ask for them. It keeps the slice.
func (t *Tracker) Look(netns uint32, at time.Time, listeners []ports.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.looks[netns]
	t.looks[netns] = look{at: at, listeners: listeners, served: serve(before.served, at, listeners)}
	failing := make(map[uint16]bool)
	for key, p := range t.ports {
		if key.Netns == netns && len(p.binds) > 0 {
			failing[key.Port] = true
		}
	}
	if len(failing) == 0 {
		return
	}
	earlier, now := byPort(before.listeners, failing), byPort(listeners, failing)
	for key, p := range t.ports {
		if key.Netns == netns {
			p.look(key, before.at, at, earlier[key.Port], now[key.Port])
		}
	}
}

// Served says whether something listened on the port within the last hour.
func (t *Tracker) Served(netns uint32, number uint16) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, family := range sock.Families() {
		if _, ok := t.looks[netns].served[served{number, family}]; ok {
			return true
		}
	}
	return false
}

// serve notes when something last listened.
func serve(times map[served]time.Time, at time.Time, listeners []ports.Listener) map[served]time.Time {
	if times == nil {
		times = make(map[served]time.Time)
	}
	maps.DeleteFunc(times, func(_ served, last time.Time) bool { return at.Sub(last) >= keepServed })
	for i := range listeners {
		for _, family := range sock.Families() {
			if serves(&listeners[i], family) {
				times[served{listeners[i].Port, family}] = at
			}
		}
	}
	return times
}

func byPort(listeners []ports.Listener, wanted map[uint16]bool) map[uint16][]*ports.Listener {
	out := make(map[uint16][]*ports.Listener, len(wanted))
	for i := range listeners {
		if l := &listeners[i]; wanted[l.Port] {
			out[l.Port] = append(out[l.Port], l)
		}
	}
	return out
}

// look takes the listeners on the port, in the snapshot before and in this one.
func (p *port) look(key Key, earlier, at time.Time, before, now []*ports.Listener) {
	p.listened = p.listened || slices.ContainsFunc(now, func(l *ports.Listener) bool { return serves(l, key.Family) })
	kept := p.binds[:0]
	for _, b := range p.binds {
		if b.last.After(at) || !b.over(key.Family, earlier, before, now) {
			kept = append(kept, b)
		}
	}
	p.binds = kept
}

// over says that a bind worked since the last failure, or that what made it fail is gone.
func (b *bind) over(family sock.Family, earlier time.Time, before, now []*ports.Listener) bool {
	if !b.judged && b.last.After(earlier) {
		b.known = make(map[uint64]bool)
		for _, l := range before {
			b.known[l.Cookie] = true
		}
	}
	b.judged = true
	there := false
	for _, l := range now {
		if !b.meets(family, l) {
			continue
		}
		old := b.known[l.Cookie] || slices.Contains(b.inWay, l.Inode)
		if there = true; !old && serves(l, family) {
			return true
		}
	}
	over := b.beside && !there
	b.beside = there
	return over
}

// meets says that the bind and the listener cannot both have the port, as far as their addresses say.
func (b *bind) meets(family sock.Family, l *ports.Listener) bool {
	if !b.addr.IsValid() {
		return serves(l, family)
	}
	addr, other := b.addr.WithZone("").Unmap(), l.Address.WithZone("").Unmap()
	switch {
	case addr == netip.IPv6Unspecified() && !b.v6only, other == netip.IPv6Unspecified() && !l.V6Only:
		return true
	case addr.Is4() != other.Is4():
		return false
	}
	return addr == other || addr.IsUnspecified() || other.IsUnspecified()
}

// serves says that clients of the family can connect to the listener: to one on :: without
// IPV6_V6ONLY, and to one on a v4-mapped address, by IPv4 as well.
func serves(l *ports.Listener, family sock.Family) bool {
	ipv4 := l.Address.Is4In6() || l.Address == netip.IPv6Unspecified() && !l.V6Only
	return l.Family == family || family == sock.FamilyIPv4 && ipv4
}

// Update forgets the ports that are not watched any more, and returns the states of the others,
// sorted. A failure has two updates' time until its port is watched.
func (t *Tracker) Update(now time.Time, watched func(Key) bool) []State {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []State
	for key, p := range t.ports {
		if !t.update(key, p, watched(key)) {
			continue
		}
		state := State{Key: key, Failing: p.failing(now)}
		if state.Failing {
			b := slices.MaxFunc(p.binds, func(a, b bind) int { return a.last.Compare(b.last) })
			state.PID, state.Process, state.Beside = b.pid, b.name, b.beside
		}
		out = append(out, state)
	}
	slices.SortFunc(out, func(a, b State) int { return a.Compare(b.Key) })
	return out
}

// update says whether the port has a state to show.
func (t *Tracker) update(key Key, p *port, watched bool) bool {
	switch {
	case p.watched && watched:
		return true
	case watched:
		p.watched = true
		t.giveBack(p.by)
		return true
	case p.watched:
		delete(t.ports, key)
	case p.old:
		delete(t.ports, key)
		t.giveBack(p.by)
	}
	p.old = true
	return false
}

func (t *Tracker) giveBack(by user) {
	t.others--
	if t.users[by]--; t.users[by] == 0 {
		delete(t.users, by)
	}
}

// failing forgets the binds that nobody has tried for long.
func (p *port) failing(now time.Time) bool {
	most := keep
	if p.listened {
		most = keepServed
	}
	p.binds = slices.DeleteFunc(p.binds, func(b bind) bool { return now.Sub(b.last) >= most })
	return len(p.binds) > 0
}

// Forget forgets a network namespace that is gone.
func (t *Tracker) Forget(gone func(netns uint32) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for netns := range t.looks {
		if gone(netns) {
			delete(t.looks, netns)
		}
	}
	for key, p := range t.ports {
		if !gone(key.Netns) {
			continue
		}
		delete(t.ports, key)
		if !p.watched {
			t.giveBack(p.by)
		}
	}
}
