package ports

import (
	"cmp"
	"slices"

	"sockstate_exporter/internal/owner"
)

// MaxOthers bounds the Others of a Group.
const MaxOthers = 2

// AllOwners are the owners of the group that are known, except OthersMore.
func (g *Group) AllOwners() []owner.Owner {
	if !g.Owner.Known() {
		return nil
	}
	return append([]owner.Owner{g.Owner}, g.Others...)
}

// SetOwners sets the owners of groups of the listeners, by cookie. The Owner of a group is that of its
// oldest socket, which has the lowest cookie. One that is known comes before one that is not.
func SetOwners(groups []Group, listeners []Listener, owners map[uint64]owner.Owner) {
	byAge := slices.Clone(listeners)
	slices.SortFunc(byAge, func(a, b Listener) int { return cmp.Compare(a.Cookie, b.Cookie) })
	index := make(map[GroupKey]int, len(groups))
	for i := range groups {
		index[groups[i].GroupKey] = i
		groups[i].Owner, groups[i].Others, groups[i].OthersMore, groups[i].Mixed = owner.Owner{}, nil, 0, false
	}
	type process struct {
		group, pid int
		service    string
	}
	counted := make(map[process]bool)
	for i := range byAge {
		of, found := owners[byAge[i].Cookie]
		n, ok := index[byAge[i].GroupKey]
		if !found || !ok {
			continue
		}
		g, who := &groups[n], process{n, of.PID, of.Service()}
		switch {
		case !of.Known():
			if g.Owner == (owner.Owner{}) {
				g.Owner = of // says why
			}
			continue
		case counted[who]:
			continue
		case !g.Owner.Known():
			g.Owner = of
		case len(g.Others) < MaxOthers:
			g.Others = append(g.Others, of)
		default:
			g.OthersMore++
		}
		counted[who] = true
		g.Mixed = g.Mixed || differ(&g.Owner, &of)
	}
}

// differ: workers of one server may have different names.
func differ(a, b *owner.Owner) bool {
	if a.Service() != "" || b.Service() != "" {
		return a.Service() != b.Service()
	}
	return a.Process != b.Process
}
