package snapshot

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"sockstate_exporter/netlinkdiag"
)

// A listener is what is kept of one listening socket.
type listener struct {
	key    GroupKey
	cookie uint64
	inode  uint32
	uid    uint32
	queue  uint32
	limit  uint32
	v6only bool
	drops  uint32
	hasMem bool
}

func newListener(s *netlinkdiag.Socket) listener {
	return listener{
		key: GroupKey{
			Port:    s.Local.Port(),
			Family:  s.Family,
			Address: s.Local.Addr(),
			Ifindex: s.Ifindex,
		},
		cookie: s.Cookie,
		inode:  s.Inode,
		uid:    s.UID,
		queue:  s.RQueue,
		limit:  s.WQueue,
		v6only: s.V6Only,
		drops:  s.Mem.Drops,
		hasMem: s.HasMem,
	}
}

func (k GroupKey) compare(o GroupKey) int {
	return cmp.Or(
		cmp.Compare(k.Port, o.Port),
		cmp.Compare(k.Family, o.Family),
		k.Address.Compare(o.Address),
		cmp.Compare(k.Ifindex, o.Ifindex),
	)
}

// groups folds listeners into groups. It sorts its argument.
func groups(listeners []listener) []Group {
	slices.SortFunc(listeners, func(a, b listener) int { return a.key.compare(b.key) })
	var out []Group
	for _, l := range listeners {
		if len(out) == 0 || out[len(out)-1].GroupKey != l.key {
			out = append(out, Group{GroupKey: l.key, V6Only: true, DropsKnown: true})
		}
		g := &out[len(out)-1]
		g.Sockets++
		g.Queue += uint64(l.queue)
		g.QueueLimit += uint64(l.limit)
		g.QueueRatio = max(g.QueueRatio, float64(l.queue)/float64(max(l.limit, 1)))
		g.V6Only = g.V6Only && l.v6only
		g.DropsKnown = g.DropsKnown && l.hasMem
	}
	return out
}

// A dropCounter makes counters of groups out of the counters of sockets, which die with
// their socket (sk_drops): a socket that goes takes nothing away, one that comes adds what
// it has dropped itself.
type dropCounter struct {
	keep   time.Duration // how long a group is remembered after its last socket
	last   map[uint64]uint32
	groups map[GroupKey]dropTotal
}

type dropTotal struct {
	total uint64
	seen  time.Time
}

func newDropCounter(keep time.Duration) *dropCounter {
	return &dropCounter{keep: keep, groups: make(map[GroupKey]dropTotal)}
}

// update takes all sockets that listen now.
func (c *dropCounter) update(now time.Time, listeners []listener) {
	last := make(map[uint64]uint32, len(listeners))
	for _, l := range listeners {
		// In 32 bits, as the kernel's counter wraps.
		added := l.drops - c.last[l.cookie]
		c.groups[l.key] = dropTotal{total: c.groups[l.key].total + uint64(added), seen: now}
		last[l.cookie] = l.drops
	}
	c.last = last
	maps.DeleteFunc(c.groups, func(_ GroupKey, d dropTotal) bool { return now.Sub(d.seen) > c.keep })
	c.trim(now)
}

// maxGone bounds the groups that are remembered without a socket: addresses and ports that
// somebody listens on for a moment can be others each time.
const maxGone = 8192

// trim forgets those that went first, with half of what there is room for.
func (c *dropCounter) trim(now time.Time) {
	var gone []GroupKey
	for k, d := range c.groups {
		if d.seen.Before(now) {
			gone = append(gone, k)
		}
	}
	if len(gone) <= maxGone {
		return
	}
	slices.SortFunc(gone, func(a, b GroupKey) int {
		return cmp.Or(c.groups[b].seen.Compare(c.groups[a].seen), a.before(b))
	})
	for _, k := range gone[maxGone/2:] {
		delete(c.groups, k)
	}
}

func (c *dropCounter) knows(k GroupKey) bool {
	_, ok := c.groups[k]
	return ok
}

// hold keeps a group that has no socket.
func (c *dropCounter) hold(now time.Time, k GroupKey) {
	if d, ok := c.groups[k]; ok {
		d.seen = now
		c.groups[k] = d
	}
}

func (c *dropCounter) total(k GroupKey) uint64 { return c.groups[k].total }
