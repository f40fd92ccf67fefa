package shown

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
)

func candidate(port uint16, address string, uid uint32, first time.Duration) Candidate {
	addr := netip.MustParseAddr(address)
	return Candidate{
		GroupKey: ports.GroupKey{Port: port, Family: sock.FamilyOf(addr), Address: addr},
		UID:      bindrule.UIDOf(uid), First: time.Unix(1_700_000_000, 0).Add(first),
	}
}

// flood are candidates of a user on n addresses of a net, as "1.0.%d.%d".
func flood(n int, port uint16, net string, uid func(i int) uint32, first time.Duration) (out []Candidate) {
	for i := range n {
		out = append(out, candidate(port, fmt.Sprintf(net, i/256, i%256), uid(i), first))
	}
	return out
}

func uidOf(id uint32) func(int) uint32 { return func(int) uint32 { return id } }

// kept says which of these addresses are kept.
func kept(candidates []Candidate, port uint16, addresses ...string) (out []string) {
	local := func(a netip.Addr) bool { return !netip.MustParsePrefix("1.0.0.0/8").Contains(a) }
	beyond := TooMany(candidates, local)[port]
	for _, a := range addresses {
		if !slices.ContainsFunc(beyond, func(k ports.GroupKey) bool { return k.Address.String() == a }) {
			out = append(out, a)
		}
	}
	return out
}

func TestNobodyPushesOutTheGroupsOfAServer(t *testing.T) {
	servers := []string{"10.9.9.9", "127.0.0.1", "127.5.5.5", "::", "fd00::9"}
	for _, tt := range []struct {
		name    string
		crowd   []Candidate
		server  uint32        // its user
		started time.Duration // when the server was first seen; the crowd at 0
	}{
		{"another user's foreign addresses", flood(70, 80, "1.0.%d.%d", uidOf(65534), 0), 0, time.Hour},
		{"another user's loopback addresses", flood(1000, 80, "127.1.%d.%d", uidOf(65534), 0), 1000, time.Hour},
		{"many ids of a user's range", flood(20_000, 80, "127.1.%d.%d", func(i int) uint32 { return 100_000 + uint32(i) }, 0), 1000, time.Hour},
		{"many ids of a container's range", flood(20_000, 80, "127.1.%d.%d", func(i int) uint32 { return 524_288 + uint32(i) }, 0), 165_536, time.Hour},
		{"the same user's foreign addresses", flood(1000, 80, "1.0.%d.%d", uidOf(1000), 0), 1000, time.Hour},
		{"the same user, later", flood(1000, 80, "127.1.%d.%d", uidOf(1000), time.Hour), 1000, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := slices.Clone(tt.crowd)
			for _, a := range servers {
				all = append(all, candidate(80, a, tt.server, tt.started))
			}
			if got := kept(all, 80, servers...); !slices.Equal(got, servers) {
				t.Errorf("of the server %v are kept, want %v", got, servers)
			}
			if n := len(all) - len(TooMany(all, func(netip.Addr) bool { return true })[80]); n != MaxPerPort {
				t.Errorf("%d groups are kept, want %d", n, MaxPerPort)
			}
		})
	}
}

// A user on very many ports takes nothing away from the few groups of others.
func TestFloodOnManyPortsCostsItsOwnUser(t *testing.T) {
	var all []Candidate
	for p := range uint16(500) {
		all = append(all, flood(64, 1000+p, "127.1.%d.%d", uidOf(65534), 0)...)
	}
	server := flood(40, 80, "10.1.%d.%d", uidOf(1000), time.Hour)
	all = append(all, server...)
	beyond := TooMany(all, func(netip.Addr) bool { return true })
	if len(beyond[80]) > 0 {
		t.Errorf("%d groups of the server are left out", len(beyond[80]))
	}
	left := len(all)
	for port, keys := range beyond {
		left -= len(keys)
		if n := 64 - len(keys); n < 7 || n > 9 {
			t.Errorf("port %d keeps %d groups, want 8 as all of that user's ports", port, n)
		}
	}
	if left != Max {
		t.Errorf("%d groups are kept, want %d", left, Max)
	}
}

func TestEveryPortHasAGroup(t *testing.T) {
	var all []Candidate
	for p := range uint16(2 * Max) {
		all = append(all, flood(3, 1000+p, "127.1.%d.%d", uidOf(0), 0)...)
	}
	for port, keys := range TooMany(all, func(netip.Addr) bool { return true }) {
		if len(keys) != 2 {
			t.Fatalf("port %d loses %d groups of 3, want 2", port, len(keys))
		}
	}
}

func TestAddressesAreNotAskedForWithoutNeed(t *testing.T) {
	few := flood(MaxPerPort, 80, "127.1.%d.%d", uidOf(0), 0)
	if got := TooMany(few, nil); len(got) > 0 {
		t.Errorf("left out %v, want nothing", got)
	}
}

// Fit spares the work where TooMany would return nothing.
func TestFitAgreesWithTooMany(t *testing.T) {
	for name, perPort := range map[string][]int{
		"none": nil, "few": {1, 2, 3}, "as many as a port may have": {MaxPerPort, 1, MaxPerPort}, "one more": {1, MaxPerPort + 1, 1},
		"as many as there may be": slices.Repeat([]int{MaxPerPort}, Max/MaxPerPort), "one port more": append(slices.Repeat([]int{MaxPerPort}, Max/MaxPerPort), 2),
	} {
		var groups []ports.Group
		var candidates []Candidate
		for i, n := range perPort {
			for _, c := range flood(n, uint16(80+i), "10.0.%d.%d", uidOf(0), 0) {
				candidates, groups = append(candidates, c), append(groups, ports.Group{GroupKey: c.GroupKey})
			}
		}
		everywhere := func(netip.Addr) bool { return true }
		if got, want := Fit(groups), len(TooMany(candidates, everywhere)) == 0; got != want {
			t.Errorf("%s: Fit says %v, want %v", name, got, want)
		}
	}
}
