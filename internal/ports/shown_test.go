package ports

import (
	"net/netip"
	"slices"
	"sockstate_exporter/internal/sock"
	"testing"
)

func TestEveryPortHasAGroup(t *testing.T) {
	counts := slices.Repeat([]int{3}, 2*MaxShown)
	if n := shareOf(counts); n != 1 {
		t.Errorf("of %d ports %d groups each, want 1", len(counts), n)
	}
}

func TestImportantGroupsComeFirst(t *testing.T) {
	addresses := []string{"0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "::1", "::ffff:192.0.2.1", "127.0.0.2", "::ffff:127.0.0.2"}
	var keys []GroupKey
	for _, a := range addresses {
		addr := netip.MustParseAddr(a)
		keys = append(keys, GroupKey{Port: 80, Family: sock.FamilyOf(addr), Address: addr})
	}
	shuffled := slices.Clone(keys)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, ByRank)
	if !slices.Equal(shuffled, keys) {
		t.Errorf("in the order\n%v, want\n%v", shuffled, keys)
	}
}
