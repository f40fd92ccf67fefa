package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/status"
	"sockstate_exporter/netlinkdiag"
)

// ownersWait is for a host with many processes, or a busy one: all descriptors are looked
// through once. It takes no longer than that.
const ownersWait = 10 * time.Second

const (
	// maxAsked bounds the sockets whose owners are looked for.
	maxAsked = 1 << 16

	// maxRanges is how many the kernel filters by; beyond it is cheaper here.
	maxRanges = 1024
)

// holders finds who has sockets open on the ports. The finder then knows the listeners, too.
// missed is how many sockets have an owner that was not found.
func holders(ctx context.Context, finder *owner.Finder, asked *ports.Fixed) (held map[uint16][]status.Holder, missed int, err error) {
	conn, err := netlinkdiag.Dial(nil)
	if err != nil {
		return nil, 0, fmt.Errorf("look for owners: %w", err)
	}
	defer conn.Close()
	request := netlinkdiag.Request{States: netlinkdiag.AllStates &^ netlinkdiag.States(netlinkdiag.StateTimeWait)}
	if ranges := asked.Ranges(); len(ranges) <= maxRanges {
		for _, r := range ranges {
			request.Ports.Local = append(request.Ports.Local, netlinkdiag.PortRange{First: r.First, Last: r.Last})
		}
	}
	var sockets []netlinkdiag.Socket
	var ask []owner.Socket
	for s, err := range conn.Dump(ctx, request) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			sockets, ask = nil, nil
			continue
		case err != nil:
			return nil, 0, fmt.Errorf("look for owners: %w", err)
		}
		if _, asked := asked.Find(s.Local.Port()); asked && s.Inode != 0 && len(ask) < maxAsked {
			sockets, ask = append(sockets, s), append(ask, owner.Socket{Cookie: s.Cookie, Inode: s.Inode})
		}
	}
	owners, err := finder.Find(ctx, ask)
	if err != nil {
		return nil, 0, fmt.Errorf("look for owners: %w", err)
	}
	return byPort(sockets, owners), len(ask) - len(owners), nil
}

// byPort are the processes with sockets that do not listen, those with most of them first.
func byPort(sockets []netlinkdiag.Socket, owners map[uint64]owner.Owner) map[uint16][]status.Holder {
	type process struct {
		port uint16
		pid  int
	}
	held := make(map[process]*status.Holder)
	for i := range sockets {
		s := &sockets[i]
		of, ok := owners[s.Cookie]
		if !ok || s.State == netlinkdiag.StateListen {
			continue
		}
		key := process{s.Local.Port(), of.PID}
		if held[key] == nil {
			held[key] = &status.Holder{
				Owner:   status.Owner{Process: of.Process, PID: uint32(of.PID), Unit: of.Unit, Container: of.ShortContainer()},
				Sockets: make(map[string]uint64),
			}
		}
		h := held[key]
		h.Sockets[s.State.String()]++
		h.Owner.Processes = max(h.Owner.Processes, of.Processes)
	}
	out := make(map[uint16][]status.Holder)
	for key, h := range held {
		out[key.port] = append(out[key.port], *h)
	}
	for _, of := range out {
		slices.SortFunc(of, func(a, b status.Holder) int {
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
