// Package share divides what is limited between users, so that none of them takes all of it.
//
// It is pure.
package share

import (
	"cmp"
	"iter"
	"slices"

	"sockstate_exporter/internal/bindrule"
)

// firstSubordinate and subordinates are SUB_UID_MIN and SUB_UID_COUNT of login.defs(5).
const (
	firstSubordinate = 100_000
	subordinates     = 65_536
)

// Account returns the uid that a uid shares its budgets with. useradd gives each user 65,536
// subordinate uids, and whoever has them all must not have as many shares.
func Account(uid uint32) uint32 {
	if uid < firstSubordinate {
		return uid
	}
	return firstSubordinate + (uid-firstSubordinate)/subordinates*subordinates
}

// Most returns how much each may have at most, so that all together have no more than the limit.
func Most(wanted iter.Seq[uint64], limit uint64) uint64 {
	sorted := slices.Sorted(wanted)
	most := uint64(0)
	for i, n := range sorted {
		share := limit / uint64(len(sorted)-i)
		if n > share {
			return share
		}
		limit -= n
		most = n
	}
	return most // enough for all
}

// Fairly sorts rows so that whoever cuts the slice leaves everybody a fair share. The first level
// says whose row it is, the next one divides the rows of one owner, and so on. Each owner's best row
// comes first, then each owner's second best, and so on. compare puts better rows first.
func Fairly[T any](rows []T, compare func(a, b *T) int, levels ...func(*T) uint64) {
	if len(levels) == 0 {
		slices.SortFunc(rows, func(a, b T) int { return compare(&a, &b) })
		return
	}
	type turn struct {
		n   int
		row T
	}
	owners := make(map[uint64][]T)
	for i := range rows {
		owner := levels[0](&rows[i])
		owners[owner] = append(owners[owner], rows[i])
	}
	turns := make([]turn, 0, len(rows))
	for _, of := range owners {
		Fairly(of, compare, levels[1:]...)
		for n, row := range of {
			turns = append(turns, turn{n, row})
		}
	}
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Or(cmp.Compare(a.n, b.n), compare(&a.row, &b.row)) })
	for i := range turns {
		rows[i] = turns[i].row
	}
}

// ByUser returns levels for Fairly that give each user a share. All ids of a range of subordinate ids
// (subuid(5), user_namespaces(7)) are one user.
func ByUser[T any](uid func(*T) bindrule.UID) []func(*T) uint64 {
	const unknown = 1 << 32
	level := func(owner func(id uint32) uint32) func(*T) uint64 {
		return func(t *T) uint64 {
			if u := uid(t); u.Known {
				return uint64(owner(u.ID))
			}
			return unknown
		}
	}
	return []func(*T) uint64{
		level(Account),
		// systemd and Kubernetes give out ranges at multiples of their size: each is in two ranges
		// of useradd.
		level(func(id uint32) uint32 { return id / subordinates }),
		level(func(id uint32) uint32 { return id }),
	}
}
