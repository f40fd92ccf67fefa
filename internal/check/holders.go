package check

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"sockstate_exporter/internal/facts"
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

// holders finds the open sockets on the ports, and who has them. The finder then knows the listeners, too.
// missed is how many sockets have an owner that was not found.
func holders(ctx context.Context, ns probe.Namespace, finder *owner.Finder, asked *watch.Fixed) (open map[uint16][]facts.Open, missed int, err error) {
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
	for i := range ask {
		if o := owners[ask[i].Cookie]; !o.Known() {
			missed++
		}
	}
	return byPort(visit.found, owners), missed, nil
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

// byPort counts the sockets that do not listen, by process, state and address.
func byPort(sockets []netlinkdiag.Socket, owners map[uint64]owner.Owner) map[uint16][]facts.Open {
	type kind struct {
		port  uint16
		pid   int
		state sock.State
		addr  netip.Addr
	}
	out, index := make(map[uint16][]facts.Open), make(map[kind]int)
	for i := range sockets {
		s := &sockets[i]
		if s.State == netlinkdiag.StateListen {
			continue
		}
		of, number := owners[s.Cookie], s.Local.Port()
		key := kind{number, of.PID, s.State, s.Local.Addr()}
		n, ok := index[key]
		if !ok {
			n = len(out[number])
			index[key] = n
			out[number] = append(out[number], facts.Open{State: s.State, Addr: s.Local.Addr(), Owner: of})
		}
		o := &out[number][n]
		o.Count++
		o.Owner.Processes = max(o.Owner.Processes, of.Processes)
		if o.Peer = (netip.AddrPort{}); o.Count == 1 {
			o.Peer = s.Remote
		}
	}
	return out
}
