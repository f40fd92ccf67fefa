package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// ownersWait is for a host with many processes, or a busy one: all descriptors are looked
// through once. It takes no longer than that.
const ownersWait = 10 * time.Second

// maxAsked bounds the sockets whose owners are looked for.
const maxAsked = 1 << 16

// holders finds who has sockets open on the ports. The finder then knows the listeners, too.
// missed is how many sockets have an owner that was not found.
func holders(ctx context.Context, ns probe.Namespace, finder *owner.Finder, asked *watch.Fixed) (held map[uint16][]report.Holder, missed int, err error) {
	open := &openSockets{asked: asked}
	request := netlinkdiag.Request{
		States: netlinkdiag.AllStates.Without(sock.StateTimeWait),
		Ports:  netlinkdiag.PortFilter{Local: asked.Ranges()},
	}
	if err := ns.Sockets(ctx, request, open); err != nil {
		return nil, 0, fmt.Errorf("look for owners: %w", err)
	}
	ask := make([]owner.Socket, len(open.found))
	for i := range open.found {
		ask[i] = owner.Socket{Cookie: open.found[i].Cookie, Inode: open.found[i].Inode}
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
	return byPort(open.found, owners), missed, nil
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

// byPort are the processes with sockets that do not listen, those with most of them first.
func byPort(sockets []netlinkdiag.Socket, owners map[uint64]owner.Owner) map[uint16][]report.Holder {
	type process struct {
		port uint16
		pid  int
	}
	held := make(map[process]*report.Holder)
	for i := range sockets {
		s := &sockets[i]
		of := owners[s.Cookie]
		if !of.Known() || s.State == netlinkdiag.StateListen {
			continue
		}
		key := process{s.Local.Port(), of.PID}
		if held[key] == nil {
			held[key] = &report.Holder{
				Owner:   report.Owner{Process: of.Process, PID: uint32(of.PID), Unit: of.Unit, Container: of.ShortContainer()},
				Sockets: make(map[string]uint64),
			}
		}
		h := held[key]
		h.Sockets[s.State.String()]++
		h.Owner.Processes = max(h.Owner.Processes, of.Processes)
	}
	out := make(map[uint16][]report.Holder)
	for key, h := range held {
		out[key.port] = append(out[key.port], *h)
	}
	for _, of := range out {
		slices.SortFunc(of, func(a, b report.Holder) int {
			return cmp.Or(cmp.Compare(total(b.Sockets), total(a.Sockets)), cmp.Compare(a.Owner.PID, b.Owner.PID))
		})
	}
	return out
}

func total(sockets map[string]uint64) (n uint64) {
	for _, of := range sockets {
		n += of
	}
	return n
}
