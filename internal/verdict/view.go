package verdict

import (
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// maxGroupsPerPort bounds the groups of sockets of one port, and those of its listeners, that are
// kept apart. Where there are more, they are folded: a user can bind sockets to millions of
// addresses.
const maxGroupsPerPort = 1024

// A View collects the sockets of one port as bind() sees them. The zero View is empty, and expects
// no binds.
type View struct {
	folding *bindrule.Folding

	groups map[groupKey]*group
	folded bool // there were too many groups: those that are there are folded

	// recent are some of the groups, with the key of one of their sockets. Without them a look-up
	// in the map, once per socket, would make most of a scrape of many sockets.
	recent [4]recentGroup
	next   int

	flagged    []*bindrule.Socket // more sockets, whose flags are known
	flaggedAt  time.Time          // when their timers were read
	incomplete bool               // some are in neither
	bucket     bindrule.Bucket

	listeners []bindrule.Socket
}

// A groupKey is what bind() looks at in a socket, as far as it is known.
type groupKey struct {
	addr      netip.Addr
	ifindex   uint32
	uid       uint32
	elsewhere sock.Family // as in bindrule.Socket
	state     sock.State
	kind      sock.Kind
	v6only    bool
	flags     Flags
}

// Flags are reuse flags that may be unknown: sock_diag does not show them.
type Flags struct{ ReuseAddr, ReusePort bindrule.Flag }

// A group is a number of sockets that bind() cannot tell apart.
type group struct {
	groupKey
	count   uint64
	expires time.Duration
}

type recentGroup struct {
	*group
	of groupKey // not folded
}

func newGroupKey(s *netlinkdiag.Socket) groupKey {
	return groupKey{
		addr:    s.Local.Addr(),
		ifindex: s.Ifindex,
		uid:     s.UID,
		state:   s.State,
		kind:    kindOf(s),
		v6only:  s.V6Only,
	}
}

// is says whether the key is that of the socket, without making one.
func (k *groupKey) is(s *netlinkdiag.Socket) bool {
	return k.flags == (Flags{}) && k.state == s.State && k.uid == s.UID && k.kind == kindOf(s) && k.ifindex == s.Ifindex &&
		k.v6only == s.V6Only && k.addr == s.Local.Addr()
}

func (k *groupKey) fold(f *bindrule.Folding) {
	if k.kind == sock.KindRequest { // bind() looks at none of them
		k.ifindex, k.v6only, f = 0, false, nil
	}
	b := f.Fold(bindrule.Binding{Addr: k.addr, Ifindex: k.ifindex, UID: k.uid})
	k.addr, k.elsewhere, k.ifindex, k.uid = b.Addr, b.Elsewhere, b.Ifindex, b.UID
	if k.kind != sock.KindFull {
		k.uid = 0
	}
}

func kindOf(s *netlinkdiag.Socket) sock.Kind {
	switch {
	case s.Timer == netlinkdiag.TimerTimeWait:
		return sock.KindTimeWait
	case s.State == sock.StateSynRecv:
		return sock.KindRequest
	default:
		return sock.KindFull
	}
}

// Expect says which binds will be asked about. The answers to them are the same whatever number of
// sockets is on the port. The answers to others may be unknown where there are very many kinds of
// sockets. It is called before sockets are added.
func (v *View) Expect(f *bindrule.Folding) { v.folding = f }

// Reset makes the View empty, and keeps some of its memory.
func (v *View) Reset() {
	clear(v.flagged) // what they point to is of another snapshot
	*v = View{flagged: v.flagged[:0], listeners: v.listeners[:0]}
}

// EmptyViews returns n empty Views, in the memory of some that nobody uses any more.
func EmptyViews(views []View, n int) []View {
	if cap(views) < n {
		return make([]View, n)
	}
	views = views[:n]
	for i := range views {
		views[i].Reset()
	}
	return views
}

// ResetSockets forgets what Add and AddMany have added.
func (v *View) ResetSockets() {
	v.groups, v.folded, v.recent = nil, false, [4]recentGroup{}
}

// Add takes a socket of a dump, which is not a listener. A dump does not carry reuse flags.
func (v *View) Add(s *netlinkdiag.Socket) { v.join(v.find(s), s, 1) }

// AddMany takes a number of equal sockets, whose kind and flags are known. A dump shows a request like a
// connection in SYN_RECV, as TCP Fast Open makes them, which bind() looks at.
func (v *View) AddMany(s *netlinkdiag.Socket, kind sock.Kind, flags Flags, n uint64) {
	key := newGroupKey(s)
	key.kind, key.flags = kind, flags
	v.join(v.group(key), s, n)
}

func (v *View) join(g *group, s *netlinkdiag.Socket, n uint64) {
	g.count += n
	if g.kind == sock.KindTimeWait {
		g.expires = max(g.expires, s.Expires)
	}
}

func (v *View) find(s *netlinkdiag.Socket) *group {
	for i := range v.recent {
		if r := &v.recent[i]; r.group != nil && r.of.is(s) {
			return r.group
		}
	}
	return v.group(newGroupKey(s))
}

func (v *View) group(of groupKey) *group {
	key := of
	if v.folded {
		key.fold(v.folding)
		for i := range v.recent {
			if r := &v.recent[i]; r.group != nil && r.groupKey == key {
				return r.group
			}
		}
	}
	g, ok := v.groups[key]
	if !ok {
		if !v.folded && len(v.groups) == maxGroupsPerPort {
			v.fold()
			return v.group(of)
		}
		g = v.add(key)
	}
	v.recent[v.next] = recentGroup{g, of}
	v.next = (v.next + 1) % len(v.recent)
	return g
}

func (v *View) add(key groupKey) *group {
	if v.groups == nil {
		v.groups = make(map[groupKey]*group)
	}
	g := &group{groupKey: key}
	v.groups[key] = g
	return g
}

// fold folds the groups. How many there can be then depends on the binds that are expected, and on
// nothing that a user can choose.
func (v *View) fold() {
	groups := v.groups
	v.groups, v.folded, v.recent = nil, true, [4]recentGroup{}
	for key, before := range groups {
		key.fold(v.folding)
		g, ok := v.groups[key]
		if !ok {
			g = v.add(key)
		}
		g.count += before.count
		g.expires = max(g.expires, before.expires)
	}
}

// AddFlagged takes a number of sockets whose flags are known, and keeps the pointer. Their timers were read
// at at.
func (v *View) AddFlagged(s *bindrule.Socket, at time.Time) {
	v.flagged, v.flaggedAt = append(v.flagged, s), at
}

// SetBucket takes what the kernel remembers of the binds of the port.
func (v *View) SetBucket(b bindrule.Bucket) { v.bucket = b }

// SetIncomplete says that there may be sockets that were not added.
func (v *View) SetIncomplete(incomplete bool) { v.incomplete = incomplete }

// SetListeners takes the listeners of the port, in place of those before, and the flags that are
// known of them, by socket cookie.
func (v *View) SetListeners(listeners []ports.Listener, flags map[uint64]sock.ReuseFlags) {
	if !v.setListeners(listeners, flags, false) {
		v.setListeners(listeners, flags, true)
	}
}

// setListeners returns false where there are too many to keep them apart.
func (v *View) setListeners(listeners []ports.Listener, flags map[uint64]sock.ReuseFlags, folded bool) bool {
	v.listeners = v.listeners[:0]
	index := make(map[bindrule.Socket]int)
	for i := range listeners {
		s := NewListener(&listeners[i])
		if f, known := flags[listeners[i].Cookie]; known {
			s.ReuseAddr, s.ReusePort = bindrule.FlagOf(f.ReuseAddr), bindrule.FlagOf(f.ReusePort)
		}
		if folded {
			s = v.folding.FoldSocket(s)
		}
		n, ok := index[s]
		if !ok {
			n = len(v.listeners)
			if n == maxGroupsPerPort && !folded {
				return false
			}
			index[s] = n
			v.listeners = append(v.listeners, s)
		}
		v.listeners[n].Count++
	}
	return true
}

// NewListener returns a listener as bind() sees it; its flags are not known, and its Count is 0.
func NewListener(l *ports.Listener) bindrule.Socket {
	return bindrule.Socket{
		Addr:    l.Address,
		Ifindex: l.Ifindex,
		V6Only:  bindrule.FlagOf(l.V6Only),
		UID:     bindrule.UIDOf(l.UID),
		State:   sock.StateListen,
	}
}

// Port returns what bind() meets on the port. timers are those of this moment, and the dump whose
// sockets were added ended at dumped.
func (v *View) Port(timers linux.Timers, dumped time.Time) bindrule.Port {
	port := bindrule.Port{Bucket: v.bucket, Incomplete: v.incomplete, Folding: v.folding}
	port.Sockets = slices.Grow(port.Sockets, len(v.groups)+len(v.flagged)+len(v.listeners))
	for key, g := range v.groups {
		s := bindrule.Socket{
			Addr:      key.addr,
			Elsewhere: key.elsewhere,
			Ifindex:   key.ifindex,
			State:     key.state,
			Kind:      key.kind,
			ReuseAddr: key.flags.ReuseAddr,
			ReusePort: key.flags.ReusePort,
			Count:     g.count,
		}
		// sock_diag says IPV6_V6ONLY only of these.
		if key.flags != (Flags{}) || key.state == sock.StateClose || key.state == sock.StateListen {
			s.V6Only = bindrule.FlagOf(key.v6only)
		}
		switch key.kind {
		case sock.KindFull:
			s.UID = bindrule.UIDOf(key.uid)
		case sock.KindTimeWait:
			s.Expires = timers.Gone(g.expires, dumped)
		}
		port.Sockets = append(port.Sockets, s)
	}
	for _, flagged := range v.flagged {
		s := *flagged
		if s.Kind == sock.KindTimeWait {
			s.Expires = timers.Gone(s.Expires, v.flaggedAt)
		}
		port.Sockets = append(port.Sockets, s)
	}
	port.Sockets = append(port.Sockets, v.listeners...)
	return port
}
