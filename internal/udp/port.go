package udp

import (
	"cmp"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
)

// A Port is what is on one UDP port of one network namespace.
type Port struct {
	Number  uint16
	Sockets []Socket // in the order in which bind() looks at them, if InOrder is set

	// These are as in bindrule.UDPPort.
	InOrder    bool
	Crowded    bindrule.Flag
	Incomplete bool
}

// A Socket is one socket, or several that are connected and that bind() cannot tell apart. State is
// sock.StateEstablished where it is connected, else sock.StateClose.
type Socket struct {
	bindrule.Socket
	Cookie uint64 // of the first of them; 0: not known
	Inode  uint32

	// Kernel says that the kernel made it for itself: no process can have it open. Handler is the
	// function that gets its packets.
	Kernel  bool
	Handler string

	Chosen bool // the kernel has chosen the port: it is a client's

	Multicast bool // it has joined a multicast group
	Broadcast bool // it may broadcast (SO_BROADCAST)

	Interface string // name of the device; empty for none
	Owner     owner.Owner
}

// Connected says that the socket has one peer.
func (s *Socket) Connected() bool { return s.State == sock.StateEstablished }

// Serves says that the socket is a server's: anybody can send to it, and the program has named the port.
func (s *Socket) Serves() bool { return !s.Connected() && !s.Chosen }

// Rule returns what bindrule asks about, and the index in Sockets of each socket in it. aside are
// sockets that are left out; nil: none.
func (p *Port) Rule(aside func(*Socket) bool) (rule bindrule.UDPPort, index []int) {
	rule = bindrule.UDPPort{InOrder: p.InOrder, Crowded: p.Crowded, Incomplete: p.Incomplete}
	for i := range p.Sockets {
		if aside == nil || !aside(&p.Sockets[i]) {
			rule.Sockets = append(rule.Sockets, p.Sockets[i].Socket)
			index = append(index, i)
		}
	}
	return rule, index
}

// Asks are the sockets whose owners are looked for: those that anybody can send to first. Whoever cuts the slice
// leaves each user a share of these, and of it the oldest. A user can open many on a port of their own.
func (p *Port) Asks() []owner.Socket {
	var serving []*Socket
	var out, connected []owner.Socket
	for i := range p.Sockets {
		s := &p.Sockets[i]
		switch {
		case s.Kernel || s.Inode == 0:
		case s.Connected():
			connected = append(connected, s.ask())
		default:
			serving = append(serving, s)
		}
	}
	byAge := func(a, b **Socket) int { return cmp.Compare((*a).Cookie-1, (*b).Cookie-1) } // 0 is not known: a new one
	share.Fairly(serving, byAge, share.ByUser(func(s **Socket) bindrule.UID { return (*s).UID })...)
	for _, s := range serving {
		out = append(out, s.ask())
	}
	return append(out, connected...)
}

func (s *Socket) ask() owner.Socket { return owner.Socket{Cookie: s.Cookie, Inode: s.Inode} }

// SetOwners sets the owners of the sockets, by cookie.
func (p *Port) SetOwners(owners map[uint64]owner.Owner) {
	for i := range p.Sockets {
		if s := &p.Sockets[i]; s.Cookie != 0 {
			s.Owner = owners[s.Cookie]
		}
	}
}

// Listeners are those of all ports.
func Listeners(found []Port) []ports.Listener {
	var out []ports.Listener
	for i := range found {
		out = append(out, found[i].Listeners()...)
	}
	return out
}

// Listeners are the sockets that anybody can send to, in the form of TCP listeners.
func (p *Port) Listeners() []ports.Listener {
	var out []ports.Listener
	for i := range p.Sockets {
		if s := &p.Sockets[i]; !s.Connected() {
			out = append(out, ports.Listener{
				GroupKey: ports.GroupKey{Port: p.Number, Family: familyOf(s), Address: s.Addr, Ifindex: s.Ifindex},
				Cookie:   s.Cookie, Inode: s.Inode, UID: s.UID.ID, V6Only: s.V6Only == bindrule.Yes,
			})
		}
	}
	return out
}

// Servers are those of all ports.
func Servers(found []Port) []ports.Group {
	var out []ports.Group
	for i := range found {
		out = append(out, found[i].Servers()...)
	}
	return out
}

// Servers are the sockets of servers, in the form of groups of TCP listeners.
func (p *Port) Servers() []ports.Group {
	var out []ports.Group
	for i := range p.Sockets {
		if s := &p.Sockets[i]; s.Serves() {
			out = append(out, ports.Group{
				GroupKey: ports.GroupKey{Port: p.Number, Family: familyOf(s), Address: s.Addr, Ifindex: s.Ifindex},
				V6Only:   s.V6Only == bindrule.Yes, Owner: s.Owner,
			})
		}
	}
	return out
}

func familyOf(s *Socket) sock.Family {
	if s.Addr.Is4() {
		return sock.FamilyIPv4
	}
	return sock.FamilyIPv6
}

// A Group is the sockets of one address and device that anybody can send to. Its fields are those of the
// oldest socket, except that a flag that the sockets do not agree on is No.
type Group struct {
	Socket
	Sockets   uint64
	Connected uint64 // sockets of its owner that are connected, from any address
}

// Groups folds the sockets that anybody can send to, sorted by address and device.
func (p *Port) Groups() []Group {
	var out []Group
	for i := range p.Sockets {
		s := &p.Sockets[i]
		if s.Connected() {
			continue
		}
		n := slices.IndexFunc(out, func(g Group) bool { return g.Addr == s.Addr && g.Ifindex == s.Ifindex })
		if n < 0 {
			out = append(out, Group{Socket: *s, Sockets: s.Count})
			continue
		}
		g := &out[n]
		addr, port := both(g.ReuseAddr, s.ReuseAddr), both(g.ReusePort, s.ReusePort)
		sockets := g.Sockets + s.Count
		if s.Cookie < g.Cookie {
			*g = Group{Socket: *s}
		}
		g.ReuseAddr, g.ReusePort, g.Sockets = addr, port, sockets
	}
	for i := range p.Sockets {
		s := &p.Sockets[i]
		if n := slices.IndexFunc(out, func(g Group) bool { return s.Connected() && sameServer(&g.Socket, s) }); n >= 0 {
			out[n].Connected += s.Count
		}
	}
	slices.SortFunc(out, compareGroups)
	return out
}

// Bounded returns at most so many of the groups, in their order. Each user keeps a share, and of it the oldest.
func Bounded(groups []Group, most int) (kept []Group, leftOut int) {
	if len(groups) <= most {
		return groups, 0
	}
	kept = slices.Clone(groups)
	share.Fairly(kept,
		func(a, b *Group) int { return cmp.Compare(a.Cookie-1, b.Cookie-1) },
		share.ByUser(func(g *Group) bindrule.UID { return g.UID })...)
	kept = kept[:most]
	slices.SortFunc(kept, compareGroups)
	return kept, len(groups) - most
}

func compareGroups(a, b Group) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Ifindex, b.Ifindex))
}

// both is Yes where both flags are, and No where one lacks it.
func both(a, b bindrule.Flag) bindrule.Flag {
	switch {
	case a == b:
		return a
	case a == bindrule.No || b == bindrule.No:
		return bindrule.No
	default:
		return bindrule.FlagUnknown
	}
}

// sameServer: both belong to one server, as far as is known. Workers of one may have several names.
func sameServer(a, b *Socket) bool {
	switch {
	case a.Kernel || b.Kernel:
		return a.Kernel == b.Kernel && a.Handler == b.Handler
	case !a.Owner.Known() || !b.Owner.Known():
		return a.UID == b.UID
	case a.Owner.Service() != "" || b.Owner.Service() != "":
		return a.Owner.Service() == b.Owner.Service()
	default:
		return a.Owner.Process == b.Owner.Process
	}
}
