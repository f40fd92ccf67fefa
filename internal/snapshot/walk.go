package snapshot

import (
	"context"
	"time"

	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
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
		t.searched.Clients.Share(room)
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
		s.LocalPorts, s.Serving = t.searched.Clients.LocalPorts()
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

// complete adds to the connections of a walk the sockets that are only bound, and publishes the parts that
// come out of both. It returns the flags.
func (t *taking) complete(ctx context.Context, c *count) (flags Part[*probe.Flags]) {
	sockets := c.Sockets()
	few := sockets <= fewSockets
	if few {
		flags = t.readFlags(ctx, sockets, true)
	}
	t.addBound(ctx, c, flags.Data)
	t.publishCount(c)
	if !few {
		flags = t.readFlags(ctx, sockets, true)
	}
	return flags
}

// addBound adds the sockets that are only bound. flags has them where bind buckets were read.
func (t *taking) addBound(ctx context.Context, c *count, flags *probe.Flags) {
	switch {
	case c.allBound, c.err != nil:
	case flags != nil && flags.Bound && len(flags.Missed) == 0:
		c.AddFlagged(flags.Sockets, false)
	default:
		start := time.Now()
		c.addDumped(t.dumpBound(ctx), flags)
		c.took += time.Since(start)
	}
}

// dumpRest dumps the sockets that flags do not show.
func (t *taking) dumpRest(ctx context.Context, c *count, flags Part[*probe.Flags]) {
	if c.onlyClients = !t.unseen && (flags.Data.Whole || len(t.set.Ports) == 0); c.onlyClients {
		c.AddFlagged(flags.Data.Sockets, true)
	}
	t.dump(ctx, c, notBound)
	if c.took += flags.Duration; !c.onlyClients {
		t.addBound(ctx, c, flags.Data)
	}
}

// dumpBound counts the sockets that are only bound. The kernel walks the lists of all ports for it, with TIME_WAIT sockets in
// them, and holds the lock of each list meanwhile.
func (t *taking) dumpBound(ctx context.Context) *count {
	bound := t.newCount(walked)
	bound.err = t.ask(ctx, bound, netlinkdiag.PortFilter{}, netlinkdiag.States(netlinkdiag.StateBoundInactive))
	return bound
}

// addDumped adds what dumpBound has shown. For verdicts these sockets may be among the flags.
func (c *count) addDumped(bound *count, flags *probe.Flags) {
	c.err = bound.err
	c.Counter.AddAll(bound.Counter)
	if flags == nil || !flags.Bound {
		c.bound = bound.Views
	}
}
