package ports

import (
	"cmp"
	"slices"

	"sockstate_exporter/internal/bindrule"
)

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
		level(accountOf),
		// systemd and Kubernetes give out ranges at multiples of their size: each is in two ranges
		// of useradd.
		level(func(id uint32) uint32 { return id / subordinates }),
		level(func(id uint32) uint32 { return id }),
	}
}
