package failures

import (
	"slices"
	"testing"

	"sockstate_exporter/internal/bpf/bindtrace"
)

// withSockets is a failed bind with captured sockets.
func withSockets(uid uint32, inodes ...uint64) *waitingBinds {
	same := &waitingBinds{latest: bindtrace.Event{User: uid}}
	for _, inode := range inodes {
		same.latest.Blockers = append(same.latest.Blockers, bindtrace.Blocker{Inode: inode})
	}
	return same
}

// A user who makes many binds fail leaves room for the owners of another one's blockers.
func TestOwnersToNameAreSharedByUser(t *testing.T) {
	waiting := map[portID]*waitingPort{
		{ownNetns, 80}: {binds: map[waitingBind]*waitingBinds{{}: withSockets(1, 1, 2, 0, 2)}},
	}
	for port := range uint16(1000) {
		at := portID{ownNetns, 1000 + port}
		inode := uint64(at.port) * 10
		waiting[at] = &waitingPort{binds: map[waitingBind]*waitingBinds{{}: withSockets(2, inode, inode+1, inode+2)}}
	}
	got := socketsToName(waiting)
	if len(got) != maxOwners/userShare+2 || !slices.Contains(got, 1) || !slices.Contains(got, 2) {
		t.Errorf("got %v, want 1, 2 and %d others", got, maxOwners/userShare)
	}

	for uid := range uint32(100) {
		at := portID{ownNetns, uint16(3000 + uid)}
		waiting[at] = &waitingPort{binds: map[waitingBind]*waitingBinds{{}: withSockets(100+uid, uint64(100_000+uid), uint64(200_000+uid))}}
	}
	got = socketsToName(waiting)
	if len(got) != maxOwners {
		t.Errorf("%d sockets, want %d", len(got), maxOwners)
	}
	if again := slices.Compact(slices.Sorted(slices.Values(got))); len(again) != len(got) {
		t.Errorf("a socket is there twice: %v", got)
	}
}
