package failures

import (
	"context"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
)

// A SocketOwnerFinder finds the processes that have sockets open, by inode: *owner.Finder.
type SocketOwnerFinder interface {
	Lookup(context.Context, []uint32) (map[uint32]owner.Owner, error)
}

const (
	// A look asks for the owners of so many sockets. One user may take a quarter.
	maxOwners = owner.MaxLookup

	// ownersWait is how long a look waits for owners that are not known yet. The Finder scans at once,
	// or has to rest for some time on a host with many processes.
	ownersWait = 30 * time.Second
)

// observe finds out what is known of the ports of one network namespace where calls failed.
func (i *inspector) observe(ns probe.Namespace, waiting map[portID]*waitingPort, locals []facts.Local) map[portID]*facts.Observation {
	local := ns.LocalPorts()
	addresses := make(map[facts.Local]sock.Address, len(locals))
	for _, l := range locals {
		addresses[l] = ns.Address(l.Addr, l.Ifindex)
	}
	taken := sync.OnceValue(func() (t diagnosis.Taken) {
		t.Bound, t.Chosen = ns.TakenPorts(local)
		return t
	})
	out := make(map[portID]*facts.Observation, len(waiting))
	for at := range waiting {
		o := &facts.Observation{
			Addresses: addresses, Host: diagnosis.Host{LocalPorts: local, Listened: i.served(at.netns, at.port)},
		}
		if at.connect {
			o.Host.Taken = taken()
		}
		out[at] = o
	}
	return out
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
	owners := sync.OnceValue(func() map[uint32]owner.Owner {
		if i.cfg.Sockets == nil || len(inodes) == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, ownersWait)
		defer cancel()
		owners, _ := i.cfg.Sockets.Lookup(ctx, inodes)
		return owners
	})
	i.looking.Go(func() { owners() })
	return owners
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
