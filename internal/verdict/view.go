package verdict

import (
	"net/netip"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// maxGroupsPerPort bounds what is kept of the sockets of one port, whatever addresses its
// users bind to.
const maxGroupsPerPort = 1024

// A View collects the sockets of one port as bind() sees them. The zero View is empty.
type View struct {
	groups   map[groupKey]*group // of sockets whose flags are not known
	overflow bool                // there are more groups than could be kept

	// recent are some of the groups. Without them a look-up in the map, once per socket, would
	// make most of a scrape of many sockets.
	recent [4]*group
	next   int

	flagged    []bindrule.Socket // sockets whose flags are known
	flaggedAt  time.Time         // when their timers were read
	incomplete bool              // some are in neither
	bucket     bindrule.Bucket

	listeners []bindrule.Socket
}

// A groupKey is what bind() looks at in a socket, as far as sock_diag shows it.
type groupKey struct {
	addr    netip.Addr
	ifindex uint32
	uid     uint32
	state   sock.State
	kind    sock.Kind
	v6only  bool
}

// A group is a number of sockets that bind() cannot tell apart.
type group struct {
	groupKey
	count   uint64
	expires time.Duration
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
	return k.state == s.State && k.uid == s.UID && k.kind == kindOf(s) && k.ifindex == s.Ifindex &&
		k.v6only == s.V6Only && k.addr == s.Local.Addr()
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

// ResetSockets forgets what Add has added.
func (v *View) ResetSockets() {
	v.groups, v.overflow, v.recent = nil, false, [4]*group{}
}

// Add takes a socket of a dump, which is not a listener. A dump does not carry reuse flags.
func (v *View) Add(s *netlinkdiag.Socket) {
	g := v.find(s)
	if g == nil {
		v.overflow = true
		return
	}
	g.count++
	if g.kind == sock.KindTimeWait {
		g.expires = max(g.expires, s.Expires)
	}
}

// find is nil where there is no room.
func (v *View) find(s *netlinkdiag.Socket) *group {
	for _, g := range v.recent {
		if g != nil && g.is(s) {
			return g
		}
	}
	key := newGroupKey(s)
	g, ok := v.groups[key]
	if !ok {
		if len(v.groups) == maxGroupsPerPort {
			return nil
		}
		if v.groups == nil {
			v.groups = make(map[groupKey]*group)
		}
		g = &group{groupKey: key}
		v.groups[key] = g
	}
	v.recent[v.next] = g
	v.next = (v.next + 1) % len(v.recent)
	return g
}

// AddFlagged takes a number of sockets whose flags are known. Their timers were read at at.
func (v *View) AddFlagged(s bindrule.Socket, at time.Time) {
	v.flagged, v.flaggedAt = append(v.flagged, s), at
}

// SetBucket takes what the kernel remembers of the binds of the port.
func (v *View) SetBucket(b bindrule.Bucket) { v.bucket = b }

// SetIncomplete says that there may be sockets that were not added.
func (v *View) SetIncomplete(incomplete bool) { v.incomplete = incomplete }

// SetListeners takes the listeners of the port, in place of those before, and the flags that are
// known of them, by socket cookie.
func (v *View) SetListeners(listeners []ports.Listener, flags map[uint64]sock.ReuseFlags) {
	v.listeners = nil
	index := make(map[bindrule.Socket]int)
	for i := range listeners {
		s := NewListener(&listeners[i])
		if f, known := flags[listeners[i].Cookie]; known {
			s.ReuseAddr, s.ReusePort = bindrule.FlagOf(f.ReuseAddr), bindrule.FlagOf(f.ReusePort)
		}
		n, ok := index[s]
		if !ok {
			n = len(v.listeners)
			index[s] = n
			v.listeners = append(v.listeners, s)
		}
		v.listeners[n].Count++
	}
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
	port := bindrule.Port{Bucket: v.bucket, Incomplete: v.incomplete || v.overflow}
	for key, g := range v.groups {
		s := bindrule.Socket{
			Addr:    key.addr,
			Ifindex: key.ifindex,
			State:   key.state,
			Kind:    key.kind,
			Count:   g.count,
		}
		// The kernel says IPV6_V6ONLY only of these.
		if key.state == sock.StateClose || key.state == sock.StateListen {
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
	for _, s := range v.flagged {
		if s.Kind == sock.KindTimeWait {
			s.Expires = timers.Gone(s.Expires, v.flaggedAt)
		}
		port.Sockets = append(port.Sockets, s)
	}
	port.Sockets = append(port.Sockets, v.listeners...)
	return port
}
