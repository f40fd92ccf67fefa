package snapshot

import (
	"cmp"
	"net/netip"
	"slices"
)

// Any user may listen on as many addresses of 127.0.0.0/8 as they have descriptors, and each
// group of listeners is some twenty series. Of each port maxShownPerPort are shown, or as many
// as leave maxShown in all, but one at least.
const (
	maxShownPerPort = 64
	maxShown        = 4096
)

// standing puts what matters more first, whoever comes and goes: wildcards, of which there are
// few, and then the host's own addresses, before those of loopback, of which there are millions.
func (k GroupKey) standing() int {
	switch addr := k.Address.Unmap(); {
	case addr.IsUnspecified():
		return 0
	case addr.IsLoopback() && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && addr != netip.IPv6Loopback():
		return 2
	default:
		return 1
	}
}

// before is the order in which groups of a port are shown.
func (k GroupKey) before(o GroupKey) int {
	return cmp.Or(cmp.Compare(k.standing(), o.standing()), k.compare(o))
}

// level is how many groups of each port there may be, for ports that have so many.
func level(counts []int) int {
	for n := maxShownPerPort; n > 1; n-- {
		sum := 0
		for _, count := range counts {
			sum += min(count, n)
		}
		if sum <= maxShown {
			return n
		}
	}
	return 1
}

// A cut says which of some groups are shown.
type cut struct {
	shown   []bool
	dropped map[uint16]int // by port
}

// cutOf takes groups that are sorted by port.
func cutOf(groups []Group) cut {
	c := cut{shown: make([]bool, len(groups)), dropped: make(map[uint16]int)}
	var ports [][]int // indices of groups
	for i := range groups {
		if i == 0 || groups[i].Port != groups[i-1].Port {
			ports = append(ports, nil)
		}
		ports[len(ports)-1] = append(ports[len(ports)-1], i)
	}
	counts := make([]int, len(ports))
	for i, of := range ports {
		counts[i] = len(of)
	}
	n := level(counts)
	for _, of := range ports {
		if len(of) > n {
			slices.SortFunc(of, func(a, b int) int { return groups[a].before(groups[b].GroupKey) })
			c.dropped[groups[of[0]].Port] = len(of) - n
			of = of[:n]
		}
		for _, i := range of {
			c.shown[i] = true
		}
	}
	return c
}

// cutDown leaves what is shown, in a slice of its own.
func cutDown[T any](c cut, all []T) []T {
	if len(c.dropped) == 0 || len(all) != len(c.shown) {
		return all
	}
	var out []T
	for i := range all {
		if c.shown[i] {
			out = append(out, all[i])
		}
	}
	return out
}
