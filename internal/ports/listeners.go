package ports

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// A GroupKey identifies a listener group: with SO_REUSEPORT several sockets share one.
type GroupKey struct {
	Port    uint16
	Family  sock.Family
	Address netip.Addr
	Ifindex uint32 // device that the sockets are bound to, 0 for none
}

// A Listener is one listening TCP socket, or one UDP socket.
type Listener struct {
	GroupKey
	Cookie     uint64
	Inode, UID uint32
	V6Only     bool

	// Queue is the connections that wait for accept(), and QueueLimit how many may wait. Of a
	// UDP socket Queue is in bytes, and there is no limit.
	Queue, QueueLimit uint32

	Drops      uint32 // of this socket (sk_drops); wraps
	DropsKnown bool
}

// NewListener returns the Listener of a socket in a dump.
func NewListener(s *netlinkdiag.Socket) Listener {
	return Listener{
		GroupKey: GroupKey{Port: s.Local.Port(), Family: s.Family, Address: s.Local.Addr(), Ifindex: s.Ifindex},
		Cookie:   s.Cookie, Inode: s.Inode, UID: s.UID, V6Only: s.V6Only,
		Queue: s.RQueue, QueueLimit: s.WQueue,
		Drops: s.Mem.Drops, DropsKnown: s.HasMem,
	}
}

// Cookies are those of the listeners, sorted.
func Cookies(listeners []Listener) []uint64 {
	out := make([]uint64, len(listeners))
	for i := range listeners {
		out[i] = listeners[i].Cookie
	}
	slices.Sort(out)
	return out
}

// A Group is the listening sockets of one address, port and device.
type Group struct {
	GroupKey
	Interface string // name of the device; empty for none

	// Owner has the sockets open, as far as that is known; of several the oldest. Others are the
	// owners of further sockets of the group, at most MaxOthers, and OthersMore is how many there are
	// beyond that.
	Owner      owner.Owner
	Others     []owner.Owner
	OthersMore int

	// Mixed says that owners of the group are different servers: of different units or containers, or,
	// outside of these, programs with different names.
	Mixed bool

	// V6Only says that every socket of the group has IPV6_V6ONLY: the group does not serve IPv4.
	V6Only bool

	// ReuseAddr and ReusePort are Yes where every socket has the flag, and No where one lacks it.
	ReuseAddr, ReusePort bindrule.Flag

	UID     bindrule.UID // of the user who made the sockets; not known of several users
	Cookies uint64       // of all sockets, combined: other sockets make another number

	Sockets    uint64  // in the group
	Queue      uint64  // connections that wait for accept(), of all sockets together
	QueueLimit uint64  // how many may wait, of all sockets together
	QueueRatio float64 // Queue over QueueLimit of the fullest socket; a limit of 0 counts as 1

	// Drops counts the connections that were dropped here, by all the sockets that were ever
	// seen in the group: it never falls. DropsKnown is false where the kernel did not say.
	Drops      uint64
	DropsKnown bool
}

// Groups folds listeners that are sorted by [GroupKey.Compare] into groups, sorted in the same way.
func Groups(sorted []Listener) []Group {
	isFirst := func(i int) bool { return i == 0 || sorted[i-1].GroupKey != sorted[i].GroupKey }
	n := 0
	for i := range sorted {
		if isFirst(i) {
			n++
		}
	}
	out := slices.Grow([]Group(nil), n)
	for i := range sorted {
		if isFirst(i) {
			out = append(out, newGroup(&sorted[i]))
		}
		out[len(out)-1].add(&sorted[i])
	}
	return out
}

// sortListeners sorts them as their groups are.
func sortListeners(l []Listener) {
	slices.SortFunc(l, func(a, b Listener) int { return a.Compare(b.GroupKey) })
}

// ByPort yields each port, and what is on it, of things that are sorted by port.
func ByPort[T any](sorted []T, port func(*T) uint16) iter.Seq2[uint16, []T] {
	return func(yield func(uint16, []T) bool) {
		for len(sorted) > 0 {
			p, n := port(&sorted[0]), 1
			for n < len(sorted) && port(&sorted[n]) == p {
				n++
			}
			if !yield(p, sorted[:n:n]) {
				return
			}
			sorted = sorted[n:]
		}
	}
}

// byGroup yields each group with its listeners, where both are sorted. A group may have none.
func byGroup(groups []Group, listeners []Listener) iter.Seq2[*Group, []Listener] {
	return func(yield func(*Group, []Listener) bool) {
		for i := range groups {
			g := &groups[i]
			for len(listeners) > 0 && listeners[0].Compare(g.GroupKey) < 0 {
				listeners = listeners[1:]
			}
			n := 0
			for n < len(listeners) && listeners[n].GroupKey == g.GroupKey {
				n++
			}
			if !yield(g, listeners[:n]) {
				return
			}
			listeners = listeners[n:]
		}
	}
}

func newGroup(l *Listener) Group {
	return Group{GroupKey: l.GroupKey, V6Only: true, DropsKnown: true, UID: bindrule.UIDOf(l.UID)}
}

func (g *Group) add(l *Listener) {
	if g.UID != bindrule.UIDOf(l.UID) {
		g.UID = bindrule.UID{}
	}
	g.Cookies ^= l.Cookie
	g.Sockets++
	g.Queue += uint64(l.Queue)
	g.QueueLimit += uint64(l.QueueLimit)
	g.QueueRatio = max(g.QueueRatio, float64(l.Queue)/float64(max(l.QueueLimit, 1)))
	g.V6Only = g.V6Only && l.V6Only
	g.DropsKnown = g.DropsKnown && l.DropsKnown
}

// SetFlags sets the flags of groups of the listeners, by what is known of each socket. Both are sorted. Of a
// group with more sockets than are in listeners, the others are not known.
func SetFlags(groups []Group, listeners []Listener, flags map[uint64]sock.ReuseFlags) {
	for g, of := range byGroup(groups, listeners) {
		g.ReuseAddr, g.ReusePort = bindrule.Yes, bindrule.Yes
		for i := range of {
			f, known := flags[of[i].Cookie]
			g.ReuseAddr, g.ReusePort = everyOne(g.ReuseAddr, known, f.ReuseAddr), everyOne(g.ReusePort, known, f.ReusePort)
		}
		if uint64(len(of)) < g.Sockets {
			g.ReuseAddr, g.ReusePort = everyOne(g.ReuseAddr, false, false), everyOne(g.ReusePort, false, false)
		}
	}
}

// everyOne takes one more socket into account: one without the flag decides, whatever is
// not known of others.
func everyOne(sofar bindrule.Flag, known, on bool) bindrule.Flag {
	switch {
	case sofar == bindrule.No, known && !on:
		return bindrule.No
	case !known:
		return bindrule.FlagUnknown
	}
	return sofar
}

// Compare sorts by port, family, address and device.
func (k GroupKey) Compare(o GroupKey) int {
	return cmp.Or(
		cmp.Compare(k.Port, o.Port),
		cmp.Compare(k.Family, o.Family),
		k.Address.Compare(o.Address),
		cmp.Compare(k.Ifindex, o.Ifindex),
	)
}

// Rank puts wildcard addresses first, of which there are few, then the host's own addresses, then
// those of loopback, of which there are millions.
func (k GroupKey) Rank() int {
	switch addr := k.Address.Unmap(); {
	case addr.IsUnspecified():
		return 0
	case addr.IsLoopback() && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && addr != netip.IPv6Loopback():
		return 2
	default:
		return 1
	}
}

// ByRank sorts the most important groups first.
func ByRank(a, b GroupKey) int {
	return cmp.Or(cmp.Compare(a.Rank(), b.Rank()), a.Compare(b))
}
