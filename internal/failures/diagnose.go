package failures

import (
	"context"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
)

// A SocketOwnerFinder finds the processes that have sockets open: *owner.Finder.
type SocketOwnerFinder interface {
	Find(context.Context, []owner.Socket) (map[uint64]owner.Owner, error)
}

// observe finds out what is known of the ports of one network namespace where binds failed.
func (i *inspector) observe(ctx context.Context, inode uint32, ns probe.Namespace, waiting map[uint16]*waitingPort) map[uint16]*facts.Observation {
	owners := i.ownersOf(ctx, waiting)
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

// ownersOf finds the processes that have the captured sockets open.
func (i *inspector) ownersOf(ctx context.Context, waiting map[uint16]*waitingPort) map[uint64]owner.Owner {
	if i.cfg.Sockets == nil {
		return nil
	}
	var ask []owner.Socket
	for _, port := range waiting {
		for _, same := range port.binds {
			for n := range same.latest.Blockers {
				if b := &same.latest.Blockers[n]; b.Inode != 0 {
					ask = append(ask, owner.Socket{Cookie: facts.SocketID(b), Inode: uint32(b.Inode)})
				}
			}
		}
	}
	if len(ask) == 0 {
		return nil
	}
	owners, _ := i.cfg.Sockets.Find(ctx, ask) // what is not known is missing
	return owners
}
