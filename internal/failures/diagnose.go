package failures

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/inspect"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

const (
	// A look asks for the owners of so many sockets. One user may take a quarter.
	maxOwners = owner.MaxLookup

	// ownersWait is how long a look waits for owners that are not known yet. The Finder scans at once,
	// or has to rest for some time on a host with many processes.
	ownersWait = 30 * time.Second
)

// observe finds out what is known of the ports of one network namespace where calls failed.
func (i *inspector) observe(ctx context.Context, ns probe.Namespace, waiting map[portID]*waitingPort, locals []facts.Local) map[portID]*facts.Observation {
	local := ns.LocalPorts()
	addresses := make(map[facts.Local]sock.Address, len(locals))
	for _, l := range locals {
		addresses[l] = ns.Address(l.Addr, l.Ifindex)
	}
	taken := sync.OnceValue(func() (t diagnosis.Taken) {
		t.Bound, t.Chosen = ns.TakenPorts(local)
		return t
	})
	out, sampled := make(map[portID]*facts.Observation, len(waiting)), make(map[user]bool)
	for at, port := range waiting {
		o := &facts.Observation{
			Addresses: addresses, Host: diagnosis.Host{LocalPorts: local, Listened: i.served(at.netns, at.port)},
		}
		if at.connect {
			o.Host.Taken = taken()
		}
		if to, lacks := port.lacks(at, &o.Host.Taken); lacks && len(sampled) < maxSamples && !sampled[port.who.user] {
			sampled[port.who.user] = true
			// An error leaves the sentence shorter.
			found, _ := inspect.LocalPorts(ctx, ns, local, to)
			o.LocalSockets, o.Host.Taken.TimeWait, o.Host.Taken.Looked = found.Inodes, found.TimeWait, found.Looked
		}
		out[at] = o
	}
	return out
}

// maxSamples is how often a look at a network namespace asks who has the local ports, once for each user.
const maxSamples = 4

// lacks says that calls found no local port although their sockets may have any. to is what all of them wanted
// to reach, if the ports are free for other destinations.
func (p *waitingPort) lacks(at portID, taken *diagnosis.Taken) (to netip.AddrPort, ports bool) {
	for bind, same := range p.binds {
		ports = ports || !same.latest.OwnRange && (at.connect || at.port == 0)
		if at.connect && taken.Chosen > 0 && len(p.binds) == 1 {
			to = netip.AddrPortFrom(bind.request.Addr.Unmap(), at.port)
		}
	}
	return to, ports
}

// maxAddresses is how many local addresses a look asks for. One user may take a quarter.
const maxAddresses = 64

// addressesOf returns the addresses that bind() refused, by network namespace.
func addressesOf(waiting map[portID]*waitingPort) map[uint32][]facts.Local {
	out := make(map[uint32][]facts.Local)
	total, shares := 0, make(map[user]int)
	for at, port := range waiting {
		for _, same := range port.binds {
			by, local := user{at.netns, same.latest.User}, facts.LocalOf(&same.latest)
			if !facts.AsksForAddress(&same.latest) || slices.Contains(out[at.netns], local) ||
				total == maxAddresses || shares[by] == maxAddresses/userShare {
				continue
			}
			total++
			shares[by]++
			out[at.netns] = append(out[at.netns], local)
		}
	}
	return out
}

// ownersOf begins to look for the processes that have the captured sockets open. The result waits for
// them. What is not known is missing.
func (i *inspector) ownersOf(ctx context.Context, waiting map[portID]*waitingPort) func() map[uint32]owner.Owner {
	inodes := socketsToName(waiting)
	owners := sync.OnceValue(func() map[uint32]owner.Owner { return i.lookup(ctx, inodes) })
	i.looking.Go(func() { owners() })
	return owners
}

func (i *inspector) lookup(ctx context.Context, inodes []uint32) map[uint32]owner.Owner {
	if i.cfg.Sockets == nil || len(inodes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ownersWait)
	defer cancel()
	owners, _ := i.cfg.Sockets.Lookup(ctx, inodes)
	return owners
}

// withSeen adds the owners of what was seen after the calls: of listeners where the kernel has not captured what
// blocked a call, as in a storm of failures, and of the sockets that have the local ports.
func (i *inspector) withSeen(ctx context.Context, owners map[uint32]owner.Owner, waiting map[portID]*waitingPort, observed map[portID]*facts.Observation) map[uint32]owner.Owner {
	var more []uint32
	shares := make(map[user]int)
	for at, port := range waiting {
		o := observed[at]
		for bind, same := range port.binds {
			by := user{at.netns, same.latest.User}
			for _, s := range verdict.Explain(&o.Seen, bind.request) {
				inode := o.Listener(&s)
				if inode == 0 || slices.Contains(more, inode) || shares[by] == maxOwners/userShare || len(more) == maxOwners {
					continue
				}
				shares[by]++
				more = append(more, inode)
			}
		}
	}
	out := make(map[uint32]owner.Owner)
	maps.Copy(out, owners)
	maps.Copy(out, i.lookup(ctx, more))
	for _, o := range observed {
		maps.Copy(out, i.lookup(ctx, o.LocalSockets))
	}
	return out
}

// socketsToName returns the inodes of the captured sockets: at first one of each failure, which is a
// listener if there is one, then the others.
func socketsToName(waiting map[portID]*waitingPort) []uint32 {
	var inodes []uint32
	asked, shares := make(map[uint32]bool), make(map[user]int)
	for n := range bindtrace.MaxBlockers {
		for at, port := range waiting {
			for _, same := range port.binds {
				by := user{at.netns, same.latest.User}
				if n >= len(same.latest.Blockers) || shares[by] == maxOwners/userShare || len(inodes) == maxOwners {
					continue
				}
				inode := uint32(same.latest.Blockers[n].Inode)
				if inode != 0 && !asked[inode] {
					asked[inode] = true
					shares[by]++
					inodes = append(inodes, inode)
				}
			}
		}
	}
	return inodes
}
