package ports

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"sockstate_exporter/internal/share"
)

// A DropCounter makes counters of groups out of the counters of sockets (sk_drops), which die
// with their socket: a socket that goes takes nothing away, one that comes adds its own drops.
//
// A dump can list a socket twice, or not at all, while others come and go: it continues by the
// position in a hash chain. So the DropCounter knows a socket by its cookie, which the kernel does
// not use again, and remembers it over several dumps in which it is missing. It remembers sockets
// that have dropped something, up to maxDropping. A user with more of them than that loses their
// counts, and no other user: what cannot be remembered is not counted, rather than twice.
type DropCounter struct {
	keep    time.Duration // how long a group is remembered after its last socket
	now     time.Time     // of the dump
	dump    uint64        // number of the dump
	groups  map[GroupKey]dropTotal
	sockets map[uint64]dropping // by cookie
	users   map[uint32]*dropper // by share.Account
}

type dropTotal struct {
	total uint64
	seen  time.Time
	user  uint32
}

// A dropping is a socket that has dropped something.
type dropping struct {
	drops uint32 // as the kernel said last
	user  uint32
	dump  uint64 // in which it was seen last
}

// A dropper is a user who has such sockets.
type dropper struct {
	sockets int
	forgot  uint64 // latest dump in which one of the sockets was not remembered; 0: none
}

const (
	// maxDropping bounds the sockets that are remembered, each with some fifty bytes.
	maxDropping = 1 << 16
	// maxMissing is in how many dumps in a row a socket may be missing. The more sockets come and
	// go, the more often one is.
	maxMissing = 32
	// maxGone bounds the groups that are remembered without a socket: a program can listen on ever
	// new addresses and ports, each for a moment.
	maxGone = 8192
)

// NewDropCounter remembers a group for keep after its last socket.
func NewDropCounter(keep time.Duration) *DropCounter {
	return &DropCounter{
		keep:    keep,
		groups:  make(map[GroupKey]dropTotal),
		sockets: make(map[uint64]dropping),
		users:   make(map[uint32]*dropper),
	}
}

// Begin begins a dump.
func (c *DropCounter) Begin(now time.Time) {
	c.now = now
	c.dump++
}

// Add takes a socket of the dump. To take it twice changes nothing.
func (c *DropCounter) Add(l *Listener) {
	var added uint32
	s, known := c.sockets[l.Cookie]
	switch {
	case known:
		added = l.Drops - s.drops // in 32 bits, as the kernel's counter wraps
		if added > math.MaxInt32 {
			return // it went back: nothing is counted until it is as high again
		}
		c.sockets[l.Cookie] = dropping{drops: l.Drops, user: s.user, dump: c.dump}
	case l.Drops > 0:
		added = c.remember(l)
	}
	total, ok := c.groups[l.GroupKey]
	if ok || added > 0 {
		c.groups[l.GroupKey] = dropTotal{total: total.total + uint64(added), seen: c.now, user: share.Account(l.UID)}
	}
}

// remember remembers one more socket, if there is room, and returns how many of its drops are new.
func (c *DropCounter) remember(l *Listener) uint32 {
	id := share.Account(l.UID)
	u := c.users[id]
	if u == nil {
		u = new(dropper)
		c.users[id] = u
	}
	if len(c.sockets) >= maxDropping && !c.makeRoom(u) {
		u.forgot = c.dump
		return 0
	}
	u.sockets++
	c.sockets[l.Cookie] = dropping{drops: l.Drops, user: id, dump: c.dump}
	if u.forgot > 0 {
		return 0 // it may be one that was forgotten
	}
	return l.Drops
}

// makeRoom forgets an eighth of the sockets of the user with most, if that is another one: those
// first that are missing.
func (c *DropCounter) makeRoom(by *dropper) bool {
	var most *dropper
	var id uint32
	for other, u := range c.users {
		if most == nil || u.sockets > most.sockets {
			most, id = u, other
		}
	}
	if most.sockets < by.sockets+2 {
		return false
	}
	most.forgot = c.dump
	surplus := (most.sockets - by.sockets + 7) / 8
	for _, missing := range []bool{true, false} {
		for cookie, s := range c.sockets {
			if surplus > 0 && s.user == id && (s.dump < c.dump) == missing {
				delete(c.sockets, cookie)
				most.sockets--
				surplus--
			}
		}
	}
	return true
}

// End ends a dump that was complete.
func (c *DropCounter) End() {
	for cookie, s := range c.sockets {
		if c.dump-s.dump > maxMissing {
			delete(c.sockets, cookie)
			c.users[s.user].sockets--
		}
	}
	maps.DeleteFunc(c.users, func(_ uint32, u *dropper) bool {
		if u.forgot > 0 && c.dump-u.forgot > maxMissing {
			u.forgot = 0
		}
		return u.sockets == 0 && u.forgot == 0
	})
	maps.DeleteFunc(c.groups, func(_ GroupKey, d dropTotal) bool { return c.now.Sub(d.seen) > c.keep })
	c.trim()
}

// trim forgets groups without a socket until half of maxGone is left: those first that went first,
// of the users with most.
func (c *DropCounter) trim() {
	type gone struct {
		GroupKey
		dropTotal
		later int // groups of the same user that went later
	}
	var all []gone
	for k, d := range c.groups {
		if d.seen.Before(c.now) {
			all = append(all, gone{GroupKey: k, dropTotal: d})
		}
	}
	if len(all) <= maxGone {
		return
	}
	slices.SortFunc(all, func(a, b gone) int {
		return cmp.Or(b.seen.Compare(a.seen), ByRank(a.GroupKey, b.GroupKey))
	})
	ofUser := make(map[uint32]int)
	for i := range all {
		all[i].later = ofUser[all[i].user]
		ofUser[all[i].user]++
	}
	slices.SortStableFunc(all, func(a, b gone) int { return cmp.Compare(a.later, b.later) })
	for _, g := range all[maxGone/2:] {
		delete(c.groups, g.GroupKey)
	}
}

// Hold keeps a group that has no socket.
func (c *DropCounter) Hold(k GroupKey) {
	if d, ok := c.groups[k]; ok {
		d.seen = c.now
		c.groups[k] = d
	}
}

// Total returns the drops of a group.
func (c *DropCounter) Total(k GroupKey) uint64 { return c.groups[k].total }
