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

// Subordinate user ids (subuid(5), user_namespaces(7)) come in ranges of idRange: a user has one, and
// so has a container. useradd gives them out from firstSubID up, systemd and Kubernetes at
// multiples of idRange.
const (
	firstSubID = 100_000
	idRange    = 65_536
)

// ByUser returns levels for Fairly that give each user a share. All ids of a range of subordinate
// ids are one user.
func ByUser[T any](uid func(*T) bindrule.UID) []func(*T) uint64 {
	const unknown = 1 << 32
	of := func(t *T, owner func(id uint64) uint64) uint64 {
		u := uid(t)
		if !u.Known {
			return unknown
		}
		return owner(uint64(u.ID))
	}
	return []func(*T) uint64{
		func(t *T) uint64 {
			return of(t, func(id uint64) uint64 {
				if id < firstSubID {
					return id
				}
				return firstSubID + (id-firstSubID)/idRange
			})
		},
		// A range that is counted from 0 is in two ranges of the level before.
		func(t *T) uint64 { return of(t, func(id uint64) uint64 { return id / idRange }) },
		func(t *T) uint64 { return of(t, func(id uint64) uint64 { return id }) },
	}
}
