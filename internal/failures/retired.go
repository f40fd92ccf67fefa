package failures

import (
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/netns"
)

// retired keeps the counts of a namespace apart from those of an earlier namespace with the same
// inode number: the tracer counts by that number, and never forgets. The counts of a namespace that
// is gone move to number 0, the label "other".
type retired struct {
	ids    map[uint32]netns.ID // of the namespaces that are watched, by number
	counts map[bindtrace.Key]uint64
}

func newRetired() *retired {
	return &retired{ids: make(map[uint32]netns.ID), counts: make(map[bindtrace.Key]uint64)}
}

// replace takes the namespaces that are watched from now on, and returns the inode numbers of those
// that no longer are.
func (r *retired) replace(set *netns.Set) map[uint32]bool {
	before := r.ids
	r.ids = make(map[uint32]netns.ID, len(set.Namespaces))
	for _, ns := range set.Namespaces {
		r.ids[uint32(ns.ID.Inode)] = ns.ID
	}
	gone := make(map[uint32]bool)
	for inode, id := range before {
		if now, ok := r.ids[inode]; !ok || now != id {
			gone[inode] = true
		}
	}
	return gone
}

// settle retires the counts of namespaces that are gone, and moves what is retired to number 0.
func (r *retired) settle(counts []bindtrace.Count, gone map[uint32]bool) []bindtrace.Count {
	var out []bindtrace.Count
	for _, c := range counts {
		if gone[c.Netns] {
			r.counts[c.Key] = c.N
		}
		old := r.counts[c.Key]
		if old == 0 {
			out = append(out, c)
			continue
		}
		if c.N > old {
			out = append(out, bindtrace.Count{Key: c.Key, N: c.N - old})
		}
		c.Netns, c.N = 0, old
		out = append(out, c)
	}
	return out
}
