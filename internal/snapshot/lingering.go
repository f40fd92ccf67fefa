package snapshot

import (
	"net/netip"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/netlinkdiag"
)

// maxGroupsPerPort bounds what is kept of the sockets of one port, whatever addresses its
// users bind to.
const maxGroupsPerPort = 1024

// A holderKey is what bind() looks at in a socket, as far as sock_diag shows it.
type holderKey struct {
	addr    netip.Addr
	ifindex uint32
	uid     uint32
	state   netlinkdiag.State
	kind    bindrule.Kind
	v6only  bool
}

func newHolderKey(s *netlinkdiag.Socket) holderKey {
	return holderKey{
		addr:    s.Local.Addr(),
		ifindex: s.Ifindex,
		uid:     s.UID,
		state:   s.State,
		kind:    kindOf(s),
		v6only:  s.V6Only,
	}
}

// is says whether the key is that of the socket, without making one.
func (k *holderKey) is(s *netlinkdiag.Socket) bool {
	return k.state == s.State && k.uid == s.UID && k.kind == kindOf(s) && k.ifindex == s.Ifindex &&
		k.v6only == s.V6Only && k.addr == s.Local.Addr()
}

func kindOf(s *netlinkdiag.Socket) bindrule.Kind {
	switch {
	case s.Timer == netlinkdiag.TimerTimeWait:
		return bindrule.KindTimeWait
	case s.State == netlinkdiag.StateSynRecv:
		return bindrule.KindRequest
	default:
		return bindrule.KindFull
	}
}

// holders group the sockets of one port that bind() could not tell apart.
type holders struct {
	groups   map[holderKey]*holder
	overflow bool // more than could be kept

	// recent are some of the groups. Without them a look-up in the map, once per socket,
	// makes most of a fold.
	recent [4]*holder
	next   int
}

type holder struct {
	holderKey
	count   uint64
	expires time.Duration
}

func (h *holders) add(s *netlinkdiag.Socket) {
	g := h.find(s)
	if g == nil {
		h.overflow = true
		return
	}
	g.count++
	if g.kind == bindrule.KindTimeWait {
		g.expires = max(g.expires, s.Expires)
	}
}

// find is nil where there is no room.
func (h *holders) find(s *netlinkdiag.Socket) *holder {
	for _, g := range h.recent {
		if g != nil && g.is(s) {
			return g
		}
	}
	key := newHolderKey(s)
	g, ok := h.groups[key]
	if !ok {
		if len(h.groups) == maxGroupsPerPort {
			return nil
		}
		if h.groups == nil {
			h.groups = make(map[holderKey]*holder)
		}
		g = &holder{holderKey: key}
		h.groups[key] = g
	}
	h.recent[h.next] = g
	h.next = (h.next + 1) % len(h.recent)
	return g
}

// sockets are the groups as bind() sees them. sock_diag does not carry reuse flags.
func (h *holders) sockets() []bindrule.Socket {
	out := make([]bindrule.Socket, 0, len(h.groups))
	for key, g := range h.groups {
		s := bindrule.Socket{
			Addr:    key.addr,
			Ifindex: key.ifindex,
			State:   bindrule.State(key.state),
			Kind:    key.kind,
			Count:   g.count,
			Expires: g.expires,
		}
		// The kernel says IPV6_V6ONLY of these only.
		if key.state == netlinkdiag.StateClose || key.state == netlinkdiag.StateListen {
			s.V6Only = bindrule.FlagOf(key.v6only)
		}
		if key.kind == bindrule.KindFull {
			s.UID = bindrule.UIDOf(key.uid)
		}
		out = append(out, s)
	}
	return out
}
