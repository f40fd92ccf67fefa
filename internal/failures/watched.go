package failures

import (
	"cmp"
	"maps"
	"slices"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/watch"
)

// watched says which failures count under the number of their port: those of the ports that their
// namespace watches. In a namespace that is not watched, each port that any namespace watches is.
// Port 0 is watched everywhere.
type watched struct {
	own        uint32
	namespaces map[uint32]struct{}         // by inode number
	ports      map[bindtrace.Port]struct{} // namespace 0: all others
}

// newWatched takes the watched ports by the inode number of the namespace.
func newWatched(own uint32, sets map[uint32][]watch.Set) *watched {
	w := &watched{own: own, namespaces: map[uint32]struct{}{own: {}}, ports: make(map[bindtrace.Port]struct{})}
	for inode, of := range sets {
		w.namespaces[inode] = struct{}{}
		for _, set := range of {
			for _, p := range set.Ports {
				w.ports[bindtrace.Port{Netns: inode, Number: p.Number}] = struct{}{}
				w.ports[bindtrace.Port{Number: p.Number}] = struct{}{}
			}
		}
	}
	return w
}

// watches says whether a watched namespace watches a port.
func (w *watched) watches(netns uint32, port uint16) bool {
	_, ok := w.ports[bindtrace.Port{Netns: netns, Number: port}]
	return ok && netns != 0
}

// place returns the key that failures count for. It follows the tracer: see the package bindtrace.
func (w *watched) place(key Key) Key {
	if _, ok := w.namespaces[key.Netns]; !ok {
		key.Netns = 0
	}
	_, ok := w.ports[bindtrace.Port{Netns: key.Netns, Number: key.Port}]
	if !ok && key.Port != 0 {
		key.Port, key.OtherPort = 0, true
	}
	return key
}

// list returns the namespaces and the ports. Where the tracer has no room for all, those of the own
// namespace come first, and those of namespaces that are not watched come last.
func (w *watched) list() ([]uint32, []bindtrace.Port) {
	rank := func(inode uint32) int {
		switch inode {
		case w.own:
			return 0
		case 0:
			return 2
		}
		return 1
	}
	byRank := func(a, b uint32) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) }
	namespaces := slices.SortedFunc(maps.Keys(w.namespaces), byRank)
	return namespaces, slices.SortedFunc(maps.Keys(w.ports), func(a, b bindtrace.Port) int {
		return cmp.Or(byRank(a.Netns, b.Netns), cmp.Compare(a.Number, b.Number))
	})
}

// without leaves out namespaces. Their ports stay for the namespaces that are not watched: there a port
// keeps its count as long as any namespace watches it.
func (w *watched) without(gone map[uint32]bool) *watched {
	out := &watched{own: w.own, namespaces: maps.Clone(w.namespaces), ports: maps.Clone(w.ports)}
	maps.DeleteFunc(out.namespaces, func(inode uint32, _ struct{}) bool { return gone[inode] })
	maps.DeleteFunc(out.ports, func(p bindtrace.Port, _ struct{}) bool { return gone[p.Netns] })
	return out
}
