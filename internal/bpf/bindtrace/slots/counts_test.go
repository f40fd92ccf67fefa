//go:build linux

package slots

import "testing"

func TestKeysOfASlotAreAllDifferent(t *testing.T) {
	seen := make(map[Key]int)
	for _, p := range []Place{{}, {Other: true}, {Netns: 1}, {Netns: 1, Port: 80}, {Netns: 1, Other: true}} {
		for i := range SlotCounts {
			k := keyOf(p, i)
			if k.Netns != p.Netns || k.OtherPort != p.Other || k.Port != p.Port {
				t.Errorf("count %d of %+v is of %+v", i, p, k)
			}
			if before, twice := seen[k]; twice {
				t.Errorf("counts %d and %d of %+v are both of %+v", before, i, p, k)
			}
			seen[k] = i
		}
	}
}
