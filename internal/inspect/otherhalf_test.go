package inspect

import (
	"testing"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
)

// A server that is started twice fails on one half, and the other half is of the first instance.
func TestTheOtherHalfIsOfTheProcessThatFailed(t *testing.T) {
	child := owner.Owner{Process: "nginx", PID: 9, Opener: &owner.Opener{Process: "nginx", PID: 7}}
	for name, tt := range map[string]struct {
		of   owner.Owner
		want int
	}{
		"the same process":    {owner.Owner{Process: "nginx", PID: 7}, 1},
		"a child of it":       {child, 1},
		"another process":     {owner.Owner{Process: "nginx", PID: 8}, 0},
		"nobody who is known": {owner.Owner{}, 1},
	} {
		known := func([]uint32) map[uint32]owner.Owner { return map[uint32]owner.Owner{5: tt.of} }
		if got := NotOfOthers(7, []ports.Listener{{Inode: 5}}, known); len(got) != tt.want {
			t.Errorf("%s: %d listeners, want %d", name, len(got), tt.want)
		}
	}
}
