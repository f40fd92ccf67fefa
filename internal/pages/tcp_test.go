package pages

import (
	"net/netip"
	"slices"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
)

func TestAnotherUsersListenersLeaveRoomForAServer(t *testing.T) {
	group := func(addr netip.Addr, uid uint32) ports.Group {
		return ports.Group{
			GroupKey: ports.GroupKey{Port: 80, Family: sock.FamilyOf(addr), Address: addr}, UID: bindrule.UIDOf(uid),
		}
	}
	var groups []ports.Group
	for i := range 60 {
		groups = append(groups, group(netip.AddrFrom4([4]byte{1, 0, 0, byte(i)}), 65534))
	}
	servers := []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::9")}
	for _, a := range servers {
		groups = append(groups, group(a, 0))
	}
	kept, leftOut := boundedGroups(groups)
	if len(kept) != maxListeners || leftOut != len(groups)-maxListeners {
		t.Errorf("%d groups are kept, %d left out; want %d, and the rest", len(kept), leftOut, maxListeners)
	}
	for _, a := range servers {
		if !slices.ContainsFunc(kept, func(g ports.Group) bool { return g.Address == a }) {
			t.Errorf("%v is left out", a)
		}
	}
	if !slices.IsSortedFunc(kept, func(a, b ports.Group) int { return a.Compare(b.GroupKey) }) {
		t.Error("the groups that are kept are not sorted")
	}
}
