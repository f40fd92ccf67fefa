package ports

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
)

// Any user may listen on as many addresses of 127.0.0.0/8 as they have descriptors, and each
// listener group is some twenty series. MaxShownPerPort groups of each port are shown, or fewer
// where that makes more than MaxShown in all, but at least one.
const (
	MaxShownPerPort = 64
	MaxShown        = 4096
)

// Rank puts the few wildcard addresses first, then the host's own addresses, then the millions of
// loopback addresses.
func (k GroupKey) Rank() int {
	switch addr := k.Address.Unmap(); {
	case addr.IsUnspecified():
		return 0
	case addr.IsLoopback() && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && addr != netip.IPv6Loopback():
		return 2
	default:
		return 1
	}
}

// ByRank sorts the most important groups first.
func ByRank(a, b GroupKey) int {
	return cmp.Or(cmp.Compare(a.Rank(), b.Rank()), a.Compare(b))
}

// shareOf is how many groups of each port are shown, where the ports have counts groups.
func shareOf(counts []int) int {
	for n := MaxShownPerPort; n > 1; n-- {
		sum := 0
		for _, count := range counts {
			sum += min(count, n)
		}
		if sum <= MaxShown {
			return n
		}
	}
	return 1
}

// TooMany returns, by port, the groups that are not kept because their port has too many. Each
// port keeps those that come first in the given order.
func TooMany(groups iter.Seq[GroupKey], order func(a, b GroupKey) int) map[uint16][]GroupKey {
	byPort := make(map[uint16][]GroupKey)
	for key := range groups {
		byPort[key.Port] = append(byPort[key.Port], key)
	}
	var counts []int
	for _, keys := range byPort {
		counts = append(counts, len(keys))
	}
	share := shareOf(counts)
	for port, keys := range byPort {
		if len(keys) <= share {
			delete(byPort, port)
			continue
		}
		slices.SortFunc(keys, order)
		byPort[port] = keys[share:]
	}
	return byPort
}
