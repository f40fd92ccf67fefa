// Package split says which ports are split: IPv4 and IPv6 are in different hands, or one of them is
// missing because a bind for it failed while the other one worked. Many servers open both apart and stay
// up with one.
//
// In different hands are 0.0.0.0 and :: with IPV6_V6ONLY that belong to different units or containers, or
// to different processes where no unit is known. Missing is a family for which a bind of the server that
// serves the other one has failed, until somebody listens on it, or that server is gone. A listener on ::
// without IPV6_V6ONLY serves both. What is not known makes no split port.
//
// The package is pure.
package split

import (
	"net/netip"
	"slices"

	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A Port was split at some time since it is watched.
type Port struct {
	Number  uint16
	Missing sock.Family // 0: both families are served, in different hands
	Now     bool        // it still is

	// IPv4 and IPv6 have the halves that are there.
	IPv4, IPv6 []owner.Owner
}

// A Memory keeps the ports of one network namespace that were split, until they are not watched any more.
// It is not safe for concurrent use.
type Memory struct {
	ports []Port // by number, then by Missing
}

// Update takes what is known now. groups are all listeners on the watched ports of the network namespace,
// sorted by port. states are the failed binds of all namespaces. The caller may keep the result.
func (m *Memory) Update(set watch.Set, groups []ports.Group, netns uint32, states []failing.State) []Port {
	var now []Port
	seen := func(number uint16, missing sock.Family) *Port {
		i := slices.IndexFunc(m.ports, func(p Port) bool { return p.Number == number && p.Missing == missing })
		if i < 0 {
			return nil
		}
		return &m.ports[i]
	}
	for _, watched := range set.Ports {
		on := onPort(groups, watched.Number)
		for _, missing := range []sock.Family{0, sock.FamilyIPv4, sock.FamilyIPv6} {
			before := seen(watched.Number, missing)
			p := Port{Number: watched.Number, Missing: missing}
			if missing == 0 {
				p.IPv4, p.IPv6, p.Now = Apart(on)
			} else if failed := failedOn(states, failing.Key{Netns: netns, Port: watched.Number, Family: missing}); failed != nil || before != nil {
				p.half(on, before, failed)
			}
			if p.Now || before != nil {
				now = append(now, p)
			}
		}
	}
	m.ports = now
	return slices.Clone(now)
}

// onPort returns the groups of a port.
func onPort(groups []ports.Group, number uint16) []ports.Group {
	first, _ := slices.BinarySearchFunc(groups, number, func(g ports.Group, n uint16) int { return int(g.Port) - int(n) })
	last := first
	for last < len(groups) && groups[last].Port == number {
		last++
	}
	return groups[first:last]
}

// Apart returns who has 0.0.0.0 and who has ::, and whether they are different.
func Apart(on []ports.Group) (ipv4, ipv6 []owner.Owner, apart bool) {
	for i := range on {
		switch g := &on[i]; {
		case g.Address == netip.IPv6Unspecified() && !g.V6Only:
			return nil, nil, false
		case g.Address == netip.IPv6Unspecified():
			ipv6 = append(ipv6, g.AllOwners()...)
		case g.Address.Unmap() == netip.IPv4Unspecified():
			ipv4 = append(ipv4, g.AllOwners()...)
		}
	}
	same := slices.ContainsFunc(ipv4, func(a owner.Owner) bool {
		return slices.ContainsFunc(ipv6, func(b owner.Owner) bool { return together(&a, &b) })
	})
	return ipv4, ipv6, len(ipv4) > 0 && len(ipv6) > 0 && !same
}

// together says that two owners are the same server, or parts of it.
func together(a, b *owner.Owner) bool {
	if a.Service() != "" || b.Service() != "" {
		return a.Service() == b.Service()
	}
	return a.PID == b.PID
}

// half says whether the family is missing: a bind for it failed, or had failed and the same server goes
// on without it.
func (p *Port) half(on []ports.Group, before *Port, failed *failing.State) {
	for i := range on {
		g := &on[i]
		if serves(g, p.Missing) {
			return
		}
		if p.Missing == sock.FamilyIPv4 {
			p.IPv6 = append(p.IPv6, g.AllOwners()...)
		} else {
			p.IPv4 = append(p.IPv4, g.AllOwners()...)
		}
	}
	server := slices.Concat(p.IPv4, p.IPv6)
	if before != nil && before.Now {
		p.Now = slices.ContainsFunc(slices.Concat(before.IPv4, before.IPv6), func(a owner.Owner) bool {
			return slices.ContainsFunc(server, func(b owner.Owner) bool { return a.PID == b.PID && a.Process == b.Process })
		})
	}
	p.Now = p.Now || failed != nil && slices.ContainsFunc(server, func(o owner.Owner) bool { return triedBy(failed, &o) })
}

// failedOn is the state of a port and family where binds fail; nil: they do not.
func failedOn(states []failing.State, k failing.Key) *failing.State {
	i, found := slices.BinarySearchFunc(states, k, func(s failing.State, k failing.Key) int { return s.Compare(k) })
	if !found || !states[i].Failing {
		return nil
	}
	return &states[i]
}

// triedBy says that the bind that failed is one of the server's. A daemon that puts itself into the
// background has another pid than the process that called bind(). But where a listener was in the way, a
// process of that name may as well be a second instance that somebody has started by mistake.
func triedBy(s *failing.State, o *owner.Owner) bool {
	return o.PID != 0 && o.PID == s.PID || !s.Beside && o.Process != "" && o.Process == s.Process
}

// serves says that clients of the family can connect to the group.
func serves(g *ports.Group, family sock.Family) bool {
	both := g.Address == netip.IPv6Unspecified() && !g.V6Only
	return both || (family == sock.FamilyIPv4) == g.Address.Unmap().Is4()
}
