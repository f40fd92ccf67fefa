package verdict

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/ports/shown"
	"sockstate_exporter/internal/watch"
)

// A History remembers listener groups of one network namespace for some time after they closed,
// because then it matters whether they could bind again.
type History struct {
	keep   time.Duration
	groups map[ports.GroupKey]remembered
	keys   []ports.GroupKey // of groups, sorted
}

// remembered is what a History knows about a group.
type remembered struct {
	v6only               bindrule.Flag
	reuseAddr, reusePort bindrule.Flag
	uid                  bindrule.UID
	cookies              uint64
	owner                owner.Owner
	first, seen          time.Time
}

// NewHistory returns a History that remembers a group for keep after its last socket closed.
func NewHistory(keep time.Duration) *History {
	return &History{keep: keep, groups: make(map[ports.GroupKey]remembered)}
}

// Update takes the groups that listen now. If a flag or the owner of a group is not known now, and
// the group still has the same sockets, the last known value stays. local is as in shown.TooMany.
func (h *History) Update(now time.Time, set watch.Set, groups []ports.Group, local func(netip.Addr) bool) {
	maps.DeleteFunc(h.groups, func(k ports.GroupKey, r remembered) bool {
		_, watched := set.Find(k.Port)
		return !watched || now.Sub(r.seen) > h.keep
	})
	same := len(h.groups) == len(h.keys)
	for i := range groups {
		g := &groups[i]
		r := remembered{
			v6only: bindrule.FlagOf(g.V6Only), reuseAddr: g.ReuseAddr, reusePort: g.ReusePort,
			uid: g.UID, cookies: g.Cookies, owner: g.Owner, first: now, seen: now,
		}
		before, known := h.groups[g.GroupKey]
		if known {
			r.first = before.first
		}
		same = same && known
		if before.cookies == r.cookies {
			r.reuseAddr = cmp.Or(r.reuseAddr, before.reuseAddr) // FlagUnknown is 0
			r.reusePort = cmp.Or(r.reusePort, before.reusePort)
			r.owner = cmp.Or(r.owner, before.owner)
		}
		h.groups[g.GroupKey] = r
	}
	if !same {
		h.sort()
		h.trim(now, local)
	}
}

func (h *History) sort() {
	h.keys = slices.SortedFunc(maps.Keys(h.groups), ports.GroupKey.Compare)
}

// trim forgets groups of ports with too many.
func (h *History) trim(now time.Time, local func(netip.Addr) bool) {
	candidates := make([]shown.Candidate, 0, len(h.groups))
	for k, r := range h.groups {
		candidates = append(candidates, shown.Candidate{GroupKey: k, UID: r.uid, First: r.first, Gone: r.seen.Before(now)})
	}
	beyond := shown.TooMany(candidates, local)
	for _, keys := range beyond {
		for _, k := range keys {
			delete(h.groups, k)
		}
	}
	if len(beyond) > 0 {
		h.sort()
	}
}

// byPort yields the groups of each port, sorted.
func (h *History) byPort() iter.Seq2[uint16, []ports.GroupKey] {
	return ports.ByPort(h.keys, func(k *ports.GroupKey) uint16 { return k.Port })
}

// First returns when a group was first seen. A group that is not remembered is new.
func (h *History) First(k ports.GroupKey, now time.Time) time.Time {
	if r, ok := h.groups[k]; ok {
		return r.first
	}
	return now
}

// Requests returns, by port, the binds that Judge asks about, as a Folding expects them.
func (h *History) Requests() map[uint16][]bindrule.Request {
	all := make([]bindrule.Request, 0, len(h.keys))
	out := make(map[uint16][]bindrule.Request, len(h.keys))
	for port, keys := range h.byPort() {
		first := len(all)
		for _, k := range keys {
			all = append(all, bindrule.Request{Addr: k.Address, Ifindex: k.Ifindex, UID: h.groups[k].uid})
		}
		out[port] = all[first:len(all):len(all)]
	}
	return out
}
