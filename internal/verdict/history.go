package verdict

import (
	"cmp"
	"maps"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
)

// A History remembers listener groups of one network namespace for some time after they closed,
// because then it matters whether they could bind again.
type History struct {
	keep   time.Duration
	groups map[ports.GroupKey]remembered
}

// remembered is what a History knows about a group.
type remembered struct {
	v6only               bindrule.Flag
	reuseAddr, reusePort bindrule.Flag
	uid                  bindrule.UID
	cookies              uint64
	owner                owner.Owner
	seen                 time.Time
}

// NewHistory returns a History that remembers a group for keep after its last socket closed.
func NewHistory(keep time.Duration) *History {
	return &History{keep: keep, groups: make(map[ports.GroupKey]remembered)}
}

// Update takes the groups that listen now. If a flag or the owner of a group is not known now, and
// the group still has the same sockets, the last known value stays.
func (h *History) Update(now time.Time, set ports.Set, groups []ports.Group) {
	maps.DeleteFunc(h.groups, func(k ports.GroupKey, r remembered) bool {
		_, watched := set.Find(k.Port)
		return !watched || now.Sub(r.seen) > h.keep
	})
	for i := range groups {
		g := &groups[i]
		r := remembered{
			v6only: bindrule.FlagOf(g.V6Only), reuseAddr: g.ReuseAddr, reusePort: g.ReusePort,
			uid: g.UID, cookies: g.Cookies, owner: g.Owner, seen: now,
		}
		if before := h.groups[g.GroupKey]; before.cookies == r.cookies {
			r.reuseAddr = cmp.Or(r.reuseAddr, before.reuseAddr) // FlagUnknown is 0
			r.reusePort = cmp.Or(r.reusePort, before.reusePort)
			r.owner = cmp.Or(r.owner, before.owner)
		}
		h.groups[g.GroupKey] = r
	}
	h.trim()
}

// trim forgets groups of ports that have too many: first those of less important addresses, then
// those that closed first.
func (h *History) trim() {
	beyond := ports.TooMany(maps.Keys(h.groups), func(a, b ports.GroupKey) int {
		return cmp.Or(
			cmp.Compare(a.Rank(), b.Rank()),
			h.groups[b].seen.Compare(h.groups[a].seen),
			a.Compare(b),
		)
	})
	for _, keys := range beyond {
		for _, k := range keys {
			delete(h.groups, k)
		}
	}
}
