package failures

import (
	"maps"
	"testing"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/watch"
)

// tracerCounts is a failed bind() to port 80, by the number of its namespace.
func tracerCounts(n map[uint32]uint64) []bindtrace.Count {
	var out []bindtrace.Count
	for inode, n := range n {
		out = append(out, bindtrace.Count{Key: bindtrace.Key{Netns: inode, Port: 80}, N: n})
	}
	return out
}

func TestConflictsOfNamespacesThatAreGoneAreOfOthers(t *testing.T) {
	const blue = 4026533000
	r := newRecorder()
	sets := map[uint32][]watch.Set{ownNetns: nil, blue: {watching(t, one(80))}}
	r.watch(sets, nil)
	key := ConflictKey{Key: Key{Netns: blue, Port: 80}, Diagnosis: codes.OtherListener}
	check := func(what string, want map[uint32]uint64) {
		t.Helper()
		got := make(map[uint32]uint64)
		for _, c := range r.conflicts.all() {
			got[c.Netns] += c.N
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	r.conflicts.settled(key, 3)
	check("there", map[uint32]uint64{blue: 3})
	delete(sets, blue)
	r.watch(sets, map[uint32]bool{blue: true})
	check("gone", map[uint32]uint64{0: 3})
	r.conflicts.settled(key, 2) // of a look that was under way
	check("settled late", map[uint32]uint64{0: 5})
	r.watch(map[uint32][]watch.Set{ownNetns: nil, blue: {watching(t, one(80))}}, nil)
	check("another one of that number", map[uint32]uint64{0: 5})
}
