package retired

import (
	"maps"
	"slices"
	"testing"

	"sockstate_exporter/internal/netns"
)

func TestNamespacesThatAreGone(t *testing.T) {
	const x, y = 4026533000, 4026533001
	first, second := netns.ID{Inode: x, Cookie: 1}, netns.ID{Inode: x, Cookie: 2}
	neighbour := netns.ID{Inode: y, Cookie: 3}
	r := New()
	for _, step := range []struct {
		what    string
		watched []netns.ID
		want    []uint32
	}{
		{"none", nil, nil},
		{"comes", []netns.ID{first, neighbour}, nil},
		{"stays", []netns.ID{first, neighbour}, nil},
		{"goes", []netns.ID{neighbour}, []uint32{x}},
		{"is gone", []netns.ID{neighbour}, nil},
		{"another of its number comes", []netns.ID{second, neighbour}, nil},
		{"is replaced between two snapshots", []netns.ID{first, neighbour}, []uint32{x}},
	} {
		if got := slices.Collect(maps.Keys(r.Replace(step.watched))); !slices.Equal(got, step.want) {
			t.Errorf("%s: got %v, want %v", step.what, got, step.want)
		}
	}
}
