// Package shown chooses the listener groups that are shown where there are too many.
package shown

import (
	"cmp"
	"net/netip"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/share"
)

// Any user may listen on as many addresses of 127.0.0.0/8 as they have descriptors, and with
// IP_FREEBIND on any other address, and each listener group is some twenty series.
// MaxPerPort groups of each port are shown, or fewer where that makes more than Max in all, but at least
// one.
const (
	MaxPerPort = 64
	Max        = 4096
)

// A Candidate is a listener group that may be shown.
type Candidate struct {
	ports.GroupKey
	UID   bindrule.UID // of the user who made the sockets
	First time.Time    // when the group was first seen
	Gone  bool         // it does not listen any more
}

// Fit says of sorted groups that TooMany would return none of them.
func Fit(groups []ports.Group) bool {
	n := 0 // of one port
	for i := range groups {
		if i > 0 && groups[i].Port != groups[i-1].Port {
			n = 0
		}
		if n++; n > MaxPerPort {
			return false
		}
	}
	return len(groups) <= Max
}

// TooMany returns, by port, the groups that are not kept because their port has too many, or all
// ports have. Each user keeps a share. Within it come first the addresses that are local, then as in
// Rank, then groups that listen, then those that were seen first.
//
// local says whether an address is one of the host's own. It is asked only where there are too many.
func TooMany(groups []Candidate, local func(netip.Addr) bool) map[uint16][]ports.GroupKey {
	counts := make(map[uint16]int)
	total, most := 0, 0
	for i := range groups {
		n := counts[groups[i].Port] + 1
		counts[groups[i].Port] = n
		most = max(most, n)
		if n <= MaxPerPort {
			total++
		}
	}
	if most <= MaxPerPort && total <= Max {
		return nil
	}
	byPort := make(map[uint16][]Candidate)
	for _, c := range groups {
		byPort[c.Port] = append(byPort[c.Port], c)
	}
	beyond := make(map[uint16][]ports.GroupKey)
	var rest []choice // of all ports, beside the first of each
	for port, of := range byPort {
		if len(of) <= MaxPerPort && (total <= Max || len(of) == 1) {
			continue
		}
		choices := choose(of, local)
		for _, c := range choices[min(len(of), MaxPerPort):] {
			beyond[port] = append(beyond[port], c.GroupKey)
		}
		rest = append(rest, choices[1:min(len(of), MaxPerPort)]...)
	}
	if total > Max {
		fair(rest, func(a, b *choice) int { return cmp.Or(cmp.Compare(a.turn, b.turn), a.compare(b)) })
		for _, c := range rest[max(0, Max-(total-len(rest))):] {
			beyond[c.Port] = append(beyond[c.Port], c.GroupKey)
		}
	}
	return beyond
}

// A choice is a Candidate of a port that has too many.
type choice struct {
	*Candidate
	foreign bool // the address is none of the host's
	turn    int  // how many of the port come before
}

// choose sorts the groups of a port: those that are kept come first.
func choose(groups []Candidate, local func(netip.Addr) bool) []choice {
	out := make([]choice, len(groups))
	for i := range groups {
		addr := groups[i].Address.Unmap().WithZone("")
		out[i] = choice{
			Candidate: &groups[i],
			foreign:   !addr.IsUnspecified() && !addr.IsLoopback() && !local(addr),
		}
	}
	fair(out, (*choice).compare)
	for i := range out {
		out[i].turn = i
	}
	return out
}

func fair(choices []choice, compare func(a, b *choice) int) {
	share.Fairly(choices, compare, share.ByUser(func(c *choice) bindrule.UID { return c.UID })...)
}

func (c *choice) compare(o *choice) int {
	return cmp.Or(
		last(c.foreign, o.foreign),
		cmp.Compare(c.Rank(), o.Rank()),
		last(c.Gone, o.Gone),
		c.First.Compare(o.First),
		c.GroupKey.Compare(o.GroupKey),
	)
}

// last puts what is set last.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
