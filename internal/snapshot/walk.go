package snapshot

import (
	"context"
	"net/netip"
	"time"

	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// A walk through the table of connections shows the connections of all namespaces, with their flags. A
// dump shows those of one, without flags, and passes the connections of all. An empty table takes as long
// either way.
const (
	// slowDump is how long a dump takes where a walk is worthwhile for one namespace.
	slowDump = 3 * time.Millisecond

	// manySockets is the number of sockets that a dump passes in that time.
	manySockets = 16384

	// walkPause is how long no walk is tried after one has failed.
	walkPause = 10 * time.Minute
)

// mayWalk says whether a walk can be tried. Without bind buckets, it would take a dump to see the sockets
// that are only bound.
func (h *host) mayWalk() bool {
	return h.cfg.Host.Walker != nil && h.cfg.Host.Flags != nil && h.cfg.Host.Buckets != nil && h.cfg.Parts.anyTCP() && time.Since(h.walkFailed) > walkPause
}

// wantsWalk says whether a walk costs less than a dump of each namespace.
func (h *host) wantsWalk(set *netns.Set) bool {
	return len(set.Namespaces) > 0 || !h.own.few || h.own.slow
}

// search begins the count of a namespace, for the walk.
func (t *taking) search(room *ports.Room) {
	if t.listening.Err == nil && t.id.Cookie != 0 {
		t.searched = t.newCount(walked)
		t.searched.clients.Share(room)
	}
}

// walk counts the connections of the namespaces, and the sockets that are only bound in those that had many
// sockets last time. A namespace that it does not find is asked on its own, and all are if it fails.
func (h *host) walk(ctx context.Context, takings []*taking) {
	var searches []probe.Search
	var of []*taking
	room := ports.NewRoom(len(takings))
	for _, t := range takings {
		if t.search(room); t.searched == nil {
			continue
		}
		s := probe.Search{ID: t.id, Ports: t.set.Numbers(), Bound: !t.few, Visitor: t.searched}
		s.LocalPorts, s.Serving = t.searched.clients.LocalPorts()
		searches, of = append(searches, s), append(of, t)
	}
	start := time.Now()
	result, err := h.cfg.Host.Connections(ctx, h.cfg.Parts.Remote.Numbers(), searches)
	if err != nil && ctx.Err() == nil {
		h.walkFailed = time.Now()
		if h.cfg.OnWalkFailed != nil {
			h.cfg.OnWalkFailed(err)
		}
	}
	end := time.Now()
	for i, t := range of {
		if err != nil || !result.Found[i] {
			t.searched = nil
			continue
		}
		t.searched.took = end.Sub(start)
		t.searched.dumped = end
		t.searched.allBound = result.Bound[i]
		t.slow = result.Sockets > manySockets
	}
}

// completeWalk adds to the connections of a walk the sockets that are only bound, and publishes the parts
// that come out of both. It returns the flags of the other sockets.
func (t *taking) completeWalk(ctx context.Context, c *count) (flags Part[*probe.Flags]) {
	sockets := c.sockets()
	few := sockets <= fewSockets
	if few {
		// These include all that are only bound.
		flags = t.readFlags(ctx, sockets, true)
	}
	switch {
	case c.allBound:
	case few && flags.Data.Bound:
		c.addBound(flags.Data.Sockets)
	default:
		start := time.Now()
		c.addDumped(t.dumpBound(ctx))
		c.took += time.Since(start)
	}
	t.dump(ctx, c, walked)
	if !few {
		flags = t.readFlags(ctx, sockets, true)
	}
	return flags
}

// addBound counts the sockets that are only bound.
func (c *count) addBound(sockets []probe.PortSocket) {
	for i := range sockets {
		if s := &sockets[i]; s.State == sock.StateClose && c.countBound {
			of := netlinkdiag.Socket{Family: sock.FamilyIPv6, State: s.State, Local: netip.AddrPortFrom(s.Addr, s.Port)}
			if s.Addr.Is4() {
				of.Family = sock.FamilyIPv4
			}
			c.counter.AddMany(&of, s.Count)
		}
	}
}

// dumpBound counts them, too. The kernel walks the lists of all ports for it, with TIME_WAIT sockets in
// them, and holds the lock of each list meanwhile.
func (t *taking) dumpBound(ctx context.Context) *count {
	bound := t.newCount(walked)
	bound.err = t.ask(ctx, bound, netlinkdiag.PortFilter{}, netlinkdiag.States(netlinkdiag.StateBoundInactive))
	return bound
}

func (c *count) addDumped(bound *count) {
	c.err = bound.err
	c.counter.AddAll(bound.counter)
	c.bound = bound.views
}
