package udp

import (
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
)

// Restart returns the bind that a server would make again, and which sockets it would have closed before.
func (g *Group) Restart() (request bindrule.Request, aside func(*Socket) bool) {
	return g.Rebind(), func(s *Socket) bool { return sameServer(&g.Socket, s) }
}

// Rebind is the bind that the group's socket has made.
func (g *Group) Rebind() bindrule.Request {
	return bindrule.Request{
		Addr: g.Addr, Ifindex: g.Ifindex, V6Only: g.V6Only, ReuseAddr: g.ReuseAddr, ReusePort: g.ReusePort, UID: g.UID,
	}
}

// RestartBlocked says that a server on the port could not bind again if it restarted now: somebody else has a
// socket in its way, such as a child that inherited one.
func (p *Port) RestartBlocked() bool {
	groups := p.Groups()
	return slices.ContainsFunc(groups, func(g Group) bool {
		if !g.Serves() || g.Kernel {
			return false
		}
		request, aside := g.Restart()
		rule, _ := p.Rule(aside)
		return rule.Bind(request).Outcome == bindrule.Blocked
	})
}

// Sharing are different servers that share the port by a flag, so that a unicast datagram reaches only one of
// them.
type Sharing struct {
	Servers []Socket // one of each, at least two
	Flag    string
}

// Owners are those of the servers.
func (s *Sharing) Owners() []owner.Owner {
	var out []owner.Owner
	for i := range s.Servers {
		out = append(out, s.Servers[i].Owner)
	}
	return out
}

// Shared says who shares the port. Sockets for what is sent to many do not count: to share is right for them.
// Two that may broadcast are such sockets. One alone is not: chronyd sets SO_BROADCAST to answer clients.
// ok is false where nobody shares the port, or the flags or owners are not known.
func (p *Port) Shared() (of Sharing, ok bool) {
	for i := range p.Sockets {
		a := &p.Sockets[i]
		if !a.mayShare() {
			continue
		}
		for j := range i {
			b := &p.Sockets[j]
			if !b.mayShare() || a.Broadcast && b.Broadcast || sameServer(a, b) || !overlaps(a, b) {
				continue
			}
			for _, s := range []*Socket{b, a} {
				if !slices.ContainsFunc(of.Servers, func(o Socket) bool { return sameServer(&o, s) }) {
					of.Servers = append(of.Servers, *s)
				}
			}
			of.Flag = "SO_REUSEADDR"
			if a.ReuseAddr != bindrule.Yes || b.ReuseAddr != bindrule.Yes {
				of.Flag = "SO_REUSEPORT"
			}
		}
	}
	return of, len(of.Servers) > 1
}

func (s *Socket) mayShare() bool {
	return s.Serves() && !s.Multicast && s.Owner.Known() && !s.Addr.IsMulticast() &&
		(s.ReuseAddr == bindrule.Yes || s.ReusePort == bindrule.Yes)
}

// overlaps says that both would have conflicted without their flags, and that they get the same datagrams: of
// a wildcard and a particular address, the latter gets those that are sent to it.
func overlaps(a, b *Socket) bool {
	if a.Addr.Unmap() != b.Addr.Unmap() {
		wild := a.Addr.IsUnspecified() && b.Addr.IsUnspecified() && a.V6Only != bindrule.Yes && b.V6Only != bindrule.Yes
		if !wild {
			return false
		}
	}
	return a.Ifindex == b.Ifindex
}
