package failures

import (
	"context"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
)

// A SocketOwnerFinder finds the processes that have sockets open, by inode: *owner.Finder.
type SocketOwnerFinder interface {
	Lookup(context.Context, []uint32) (map[uint32]owner.Owner, error)
}

const (
	// A look asks for the owners of so many sockets. One user may take a quarter.
	maxOwners = owner.MaxLookup

	// ownersWait is how long a look waits for owners that are not known yet.
	ownersWait = 250 * time.Millisecond
)

// observe finds out what is known of the ports of one network namespace where binds failed.
func (i *inspector) observe(inode uint32, ns probe.Namespace, waiting map[uint16]*waitingPort, owners map[uint32]owner.Owner) map[uint16]*facts.Observation {
	local := ns.LocalPorts()
	out := make(map[uint16]*facts.Observation, len(waiting))
	for number := range waiting {
		out[number] = &facts.Observation{
			Owners: owners,
			Host: diagnosis.Host{
				UnprivilegedPortStart: -1, LocalPorts: local, Listened: i.served(inode, number),
			},
		}
	}
	return out
}

// ownersOf finds the processes that have the captured sockets open. What is not known is missing.
func (i *inspector) ownersOf(ctx context.Context, waiting map[portID]*waitingPort) map[uint32]owner.Owner {
	if i.cfg.Sockets == nil {
		return nil
	}
	inodes := socketsToName(waiting)
	if len(inodes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ownersWait)
	defer cancel()
	owners, _ := i.cfg.Sockets.Lookup(ctx, inodes)
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
