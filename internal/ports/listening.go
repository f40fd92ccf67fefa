package ports

import (
	"cmp"
	"container/heap"
	"iter"
	"maps"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

const (
	// maxListeners bounds the listeners of a network namespace that are known one by one. Any user
	// may make as many as they like, and each is some hundreds of bytes in a snapshot.
	maxListeners = 16_384
	// maxCookies bounds the sockets of a dump that are counted once if the dump has them twice.
	maxCookies = 1 << 18
)

// cookies are the sockets of a dump so far.
type cookies map[uint64]struct{}

// isNew says that the socket was not there before.
func (c cookies) isNew(cookie uint64) bool {
	if _, twice := c[cookie]; twice {
		return false
	}
	if len(c) < maxCookies {
		c[cookie] = struct{}{}
	}
	return true
}

// A Listening is what a dump of all listening TCP sockets of a network namespace has shown. It is a
// probe.Visitor. Its memory is bounded by the ports that there are, whatever listens on them.
type Listening struct {
	drops    *DropCounter
	expected int // about how many there are
	seen     cookies
	users    map[portUser]*userListeners
	total    uint64

	// all has the listeners while they are no more than maxListeners.
	all     []Listener
	crowded bool
}

// A portUser is a port and one of the users who listen on it.
type portUser struct {
	port    uint16
	account uint32 // of share.Account
}

// userListeners are the listeners of one user on one port.
type userListeners struct {
	oldest     uint64 // the lowest cookie
	uid        uint32 // of the oldest one
	ipv4, ipv6 uint64 // how many there are
}

// NewListening begins a dump of about so many listeners. The DropCounter gets all of them: a port may be
// watched again after the budget had no room for it.
func NewListening(now time.Time, drops *DropCounter, expected int) *Listening {
	drops.Begin(now)
	l := &Listening{drops: drops, expected: min(expected, maxListeners)}
	l.Reset()
	return l
}

// Reset implements probe.Visitor.
func (l *Listening) Reset() {
	l.seen, l.users, l.total = make(cookies, l.expected), make(map[portUser]*userListeners, l.expected), 0
	l.all, l.crowded = slices.Grow(l.all[:0], l.expected), false
}

// Add implements probe.Visitor.
func (l *Listening) Add(s *netlinkdiag.Socket) {
	listener := NewListener(s)
	l.drops.Add(&listener)
	if !l.seen.isNew(s.Cookie) {
		return
	}
	l.total++
	l.count(&listener)
	switch {
	case l.crowded:
	case len(l.all) == maxListeners:
		l.all, l.crowded = nil, true
	default:
		l.all = append(l.all, listener)
	}
}

func (l *Listening) count(s *Listener) {
	at := portUser{s.Port, share.Account(s.UID)}
	c := l.users[at]
	if c == nil {
		c = &userListeners{oldest: s.Cookie, uid: s.UID}
		l.users[at] = c
	}
	if s.Cookie < c.oldest {
		c.oldest, c.uid = s.Cookie, s.UID
	}
	if s.Family == sock.FamilyIPv6 {
		c.ipv6++
	} else {
		c.ipv4++
	}
}

// End ends the dump. It was complete.
func (l *Listening) End() {
	l.drops.End()
	l.seen = nil
}

// Total is how many listeners there are.
func (l *Listening) Total() uint64 {
	if l == nil {
		return 0
	}
	return l.total
}

// Servers returns the ports that have a listener, sorted.
func (l *Listening) Servers() []watch.Server {
	oldest := make(map[uint16]*userListeners)
	for at, c := range l.users {
		if o := oldest[at.port]; o == nil || c.oldest < o.oldest {
			oldest[at.port] = c
		}
	}
	servers := make([]watch.Server, 0, len(oldest))
	for port, c := range oldest {
		servers = append(servers, watch.Server{Port: port, UID: c.uid, Cookie: c.oldest})
	}
	slices.SortFunc(servers, func(a, b watch.Server) int { return cmp.Compare(a.Port, b.Port) })
	return servers
}

// On returns the listeners on the ports of a set, where all listeners are known one by one.
func (l *Listening) On(set watch.Set) (on OnPorts, ok bool) {
	if l.crowded {
		return OnPorts{}, false
	}
	on.Listeners = slices.Clip(slices.DeleteFunc(l.all, func(s Listener) bool {
		_, watched := set.Find(s.Port)
		return !watched
	}))
	sortListeners(on.Listeners)
	on.Groups = Groups(on.Listeners)
	l.all = nil
	return on, true
}

// OnPorts are the listeners on some ports, and their groups, both sorted by port, family, address and device.
type OnPorts struct {
	Listeners []Listener
	Groups    []Group // of Listeners, and more sockets of the same groups

	// Unknown counts, by port, the listeners that are not in Listeners, and GroupsUnknown those
	// that are in no group of Groups.
	Unknown, GroupsUnknown map[uint16]uint64
}

// A Selection takes the listeners on some ports from another dump, where there are too many to know
// all one by one. It is a probe.Visitor. Each user has a share of maxListeners, and in it each port
// has a share. Of those that have too many the most important groups come first, by ByRank.
type Selection struct {
	seen   cookies
	shares map[portUser]*selected
}

// selected are the groups that are kept of the listeners of one user on one port.
type selected struct {
	share     int // of groups, and of listeners beside the first of each group
	listeners int
	groups    map[GroupKey]*selectedGroup
	order     leastFirst // the groups

	unknown, groupsUnknown uint64
}

type selectedGroup struct {
	Group
	listeners []Listener
}

// Select begins a Selection of the listeners on the ports of a set.
func (l *Listening) Select(set watch.Set) *Selection {
	byUser := make(map[uint32]map[portUser]uint64)
	for at, c := range l.users {
		if _, ok := set.Find(at.port); ok {
			if byUser[at.account] == nil {
				byUser[at.account] = make(map[portUser]uint64)
			}
			byUser[at.account][at] = c.ipv4 + c.ipv6
		}
	}
	sums := make(map[uint32]uint64)
	for account, at := range byUser {
		for _, n := range at {
			sums[account] += n
		}
	}
	s := &Selection{shares: make(map[portUser]*selected)}
	ofUsers := share.Most(maps.Values(sums), maxListeners)
	for account, at := range byUser {
		ofPorts := share.Most(maps.Values(at), min(sums[account], ofUsers))
		for place := range at {
			s.shares[place] = &selected{share: int(max(ofPorts, 1))}
		}
	}
	s.Reset()
	return s
}

// Reset implements probe.Visitor.
func (s *Selection) Reset() {
	s.seen = make(cookies)
	for at, of := range s.shares {
		s.shares[at] = &selected{share: of.share, groups: make(map[GroupKey]*selectedGroup)}
	}
}

// Add implements probe.Visitor.
func (s *Selection) Add(socket *netlinkdiag.Socket) {
	l := NewListener(socket)
	// One that was not there at the first dump is in the next snapshot.
	if of := s.shares[portUser{l.Port, share.Account(l.UID)}]; of != nil && s.seen.isNew(l.Cookie) {
		of.add(&l)
	}
}

func (s *selected) add(l *Listener) {
	g := s.groups[l.GroupKey]
	if g == nil {
		if len(s.groups) == s.share && !s.makeRoom(l.GroupKey) {
			s.unknown++
			s.groupsUnknown++
			return
		}
		g = &selectedGroup{Group: newGroup(l)}
		s.groups[l.GroupKey] = g
		heap.Push(&s.order, l.GroupKey)
	}
	g.add(l)
	if len(g.listeners) > 0 && s.listeners >= s.share {
		s.unknown++
		return
	}
	g.listeners = append(g.listeners, *l)
	s.listeners++
}

// makeRoom removes the least important group, if that is less important than another one.
func (s *selected) makeRoom(newcomer GroupKey) bool {
	least := s.order.keys[0]
	if ByRank(least, newcomer) <= 0 {
		return false
	}
	heap.Pop(&s.order)
	gone := s.groups[least]
	delete(s.groups, least)
	s.listeners -= len(gone.listeners)
	s.unknown += uint64(len(gone.listeners))
	s.groupsUnknown += gone.Sockets
	return true
}

// leastFirst is a heap.Interface.
type leastFirst struct{ keys []GroupKey }

func (h *leastFirst) Len() int           { return len(h.keys) }
func (h *leastFirst) Less(i, j int) bool { return ByRank(h.keys[i], h.keys[j]) > 0 }
func (h *leastFirst) Swap(i, j int)      { h.keys[i], h.keys[j] = h.keys[j], h.keys[i] }

// Push implements heap.Interface.
func (h *leastFirst) Push(k any) {
	if key, ok := k.(GroupKey); ok {
		h.keys = append(h.keys, key)
	}
}

// Pop implements heap.Interface.
func (h *leastFirst) Pop() any {
	last := len(h.keys) - 1
	k := h.keys[last]
	h.keys = h.keys[:last]
	return k
}

// On returns what was selected.
func (s *Selection) On() OnPorts {
	on := OnPorts{Unknown: make(map[uint16]uint64), GroupsUnknown: make(map[uint16]uint64)}
	groups := make(map[GroupKey]Group)
	for at, of := range s.shares {
		on.Unknown[at.port] += of.unknown
		on.GroupsUnknown[at.port] += of.groupsUnknown
		for key, g := range of.groups {
			on.Listeners = append(on.Listeners, g.listeners...)
			if other, ok := groups[key]; ok { // of another user
				g.merge(&other)
			}
			groups[key] = g.Group
		}
	}
	sortListeners(on.Listeners)
	on.Groups = slices.SortedFunc(maps.Values(groups), func(a, b Group) int { return a.Compare(b.GroupKey) })
	return on
}

func (g *Group) merge(o *Group) {
	if g.UID != o.UID {
		g.UID = bindrule.UID{}
	}
	g.Cookies ^= o.Cookies
	g.Sockets += o.Sockets
	g.Queue += o.Queue
	g.QueueLimit += o.QueueLimit
	g.QueueRatio = max(g.QueueRatio, o.QueueRatio)
	g.V6Only = g.V6Only && o.V6Only
	g.DropsKnown = g.DropsKnown && o.DropsKnown
}

// AddListening counts the listeners on watched ports.
func (c *Counter) AddListening(l *Listening) {
	if l == nil {
		return
	}
	for at, of := range l.users {
		if n, ok := c.set.Find(at.port); ok {
			c.ports[n].IPv4.States[sock.StateListen] += of.ipv4
			c.ports[n].IPv6.States[sock.StateListen] += of.ipv6
		}
	}
}

// Ports yields the ports that have a listener; a port may come more than once.
func (l *Listening) Ports() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		if l == nil {
			return
		}
		for at := range l.users {
			if !yield(at.port) {
				return
			}
		}
	}
}
