package check

import (
	"context"
	"fmt"
	"time"

	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/holders"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// ownersWait is for a host with many processes, or a busy one: all descriptors are looked
// through once. It takes no longer than that.
const ownersWait = 10 * time.Second

// maxAsked bounds the sockets whose owners are looked for.
const maxAsked = 1 << 16

// findHolders finds the open sockets on the ports, and who has them. The finder then knows the listeners, too.
// missed is how many sockets have an owner that was not found.
func findHolders(ctx context.Context, ns probe.Namespace, finder *owner.Finder, asked *watch.Fixed) (open map[uint16][]facts.Open, missed int, err error) {
	visit := &openSockets{asked: asked}
	request := netlinkdiag.Request{
		States: netlinkdiag.AllStates.Without(sock.StateTimeWait),
		Ports:  netlinkdiag.PortFilter{Local: asked.Ranges()},
	}
	if err := ns.Sockets(ctx, request, visit); err != nil {
		return nil, 0, fmt.Errorf("look for owners: %w", err)
	}
	ask := make([]owner.Socket, len(visit.found))
	for i := range visit.found {
		ask[i] = owner.Socket{Cookie: visit.found[i].Cookie, Inode: visit.found[i].Inode}
	}
	owners, err := finder.Find(ctx, ask)
	if err != nil {
		return nil, 0, fmt.Errorf("look for owners: %w", err)
	}
	var sockets []holders.Socket
	for i := range visit.found {
		s, of := &visit.found[i], owners[ask[i].Cookie]
		if !of.Known() {
			missed++
		}
		if s.State != netlinkdiag.StateListen {
			sockets = append(sockets, holders.Socket{Port: s.Local.Port(), State: s.State, Addr: s.Local.Addr(), Peer: s.Remote, Owner: of})
		}
	}
	return holders.ByPort(sockets), missed, nil
}

// openSockets are the sockets on some ports that a process may have open. It is a probe.Visitor.
type openSockets struct {
	asked *watch.Fixed
	found []netlinkdiag.Socket
}

// Reset implements probe.Visitor.
func (o *openSockets) Reset() { o.found = nil }

// Add implements probe.Visitor.
func (o *openSockets) Add(s *netlinkdiag.Socket) {
	if _, asked := o.asked.Find(s.Local.Port()); asked && s.Inode != 0 && len(o.found) < maxAsked {
		o.found = append(o.found, *s)
	}
}
