package udp

import (
	"context"
	"time"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/share"
)

// A SocketFinder finds the processes that have sockets open: *owner.Finder.
type SocketFinder interface {
	Find(ctx context.Context, sockets []owner.Socket) (map[uint64]owner.Owner, error)
}

// A Namer names who has the sockets of UDP ports, from one snapshot to the next. The zero value is ready for
// use.
type Namer struct{ names share.PortNames }

// askedOf is how many sockets of a port have their owner looked for.
const askedOf = 16

// Name sets the owners of the sockets. finder may be nil. An owner that cannot be found is not known then.
func (n *Namer) Name(ctx context.Context, found []Port, finder SocketFinder) {
	var asks []owner.Socket
	for i := range found {
		of := found[i].Asks()
		for _, ask := range of[:min(len(of), askedOf)] {
			if ask.Cookie != 0 {
				asks = append(asks, ask)
			}
		}
	}
	if finder == nil || len(asks) == 0 {
		return
	}
	owners, _ := finder.Find(ctx, asks)
	watched := make(map[uint16]bool, len(found))
	for i := range found {
		watched[found[i].Number] = true
		found[i].SetOwners(owners)
	}
	n.names.Keep(func(port uint16) bool { return watched[port] })
	now := time.Now()
	for i := range found {
		for j := range found[i].Sockets {
			s := &found[i].Sockets[j]
			if !s.Connected() && s.Owner.Known() {
				s.Owner.Many = n.names.Of(found[i].Number).Add(now, s.UID.ID, s.Owner.Process, s.Owner.Service())
			}
		}
	}
}
