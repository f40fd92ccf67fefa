package failures

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/facts"
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
		{netns: ownNetns, port: 80}: {binds: map[waitingBind]*waitingBinds{{}: withSockets(1, 1, 2, 0, 2)}},
	}
	for port := range uint16(1000) {
		at := portID{netns: ownNetns, port: 1000 + port}
		inode := uint64(at.port) * 10
		waiting[at] = &waitingPort{binds: map[waitingBind]*waitingBinds{{}: withSockets(2, inode, inode+1, inode+2)}}
	}
	got := socketsToName(waiting)
	if len(got) != maxOwners/userShare+2 || !slices.Contains(got, 1) || !slices.Contains(got, 2) {
		t.Errorf("got %v, want 1, 2 and %d others", got, maxOwners/userShare)
	}

	for uid := range uint32(100) {
		at := portID{netns: ownNetns, port: uint16(3000 + uid)}
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

// A user who fails to bind to many addresses leaves room for the address of another one.
func TestAddressesToAskForAreSharedByUser(t *testing.T) {
	refused := func(uid uint32, addr netip.Addr) *waitingBinds {
		same := new(waitingBinds)
		same.latest = bindtrace.Event{User: uid, Errno: unix.EADDRNOTAVAIL, PortKnown: true, Port: 80, Addr: addr}
		return same
	}
	server := netip.MustParseAddr("2001:db8::7")
	waiting := map[portID]*waitingPort{
		{netns: ownNetns, port: 80}: {binds: map[waitingBind]*waitingBinds{{}: refused(33, server)}},
	}
	for port := range uint16(1000) {
		at := portID{netns: ownNetns, port: 1000 + port}
		waiting[at] = &waitingPort{binds: map[waitingBind]*waitingBinds{{}: refused(1000, netip.AddrFrom4([4]byte{192, 0, byte(port >> 8), byte(port)}))}}
	}
	got := addressesOf(waiting)[ownNetns]
	if len(got) != maxAddresses/userShare+1 || !slices.Contains(got, facts.Local{Addr: server}) {
		t.Errorf("asks for %d addresses, want %d and that of the other user", len(got), maxAddresses/userShare)
	}
}
