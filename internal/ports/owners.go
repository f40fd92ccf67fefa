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

// SetOwners sets the owners of groups of the listeners, by cookie. Both are sorted. The Owner of a group is that
// of its oldest socket, which has the lowest cookie. One that is known comes before one that is not.
func SetOwners(groups []Group, listeners []Listener, owners map[uint64]owner.Owner) {
	for g, of := range byGroup(groups, listeners) {
		g.Owner, g.Others, g.OthersMore, g.Mixed = owner.Owner{}, nil, 0, false
		if len(of) == 1 { // as most have
			g.Owner = owners[of[0].Cookie]
			continue
		}
		g.setOwners(of, owners)
	}
}

func (g *Group) setOwners(listeners []Listener, owners map[uint64]owner.Owner) {
	byAge := slices.SortedFunc(slices.Values(listeners), func(a, b Listener) int { return cmp.Compare(a.Cookie, b.Cookie) })
	type process struct {
		pid     int
		service string
	}
	counted := make(map[process]bool)
	for i := range byAge {
		of, found := owners[byAge[i].Cookie]
		if !found {
			continue
		}
		who := process{of.PID, of.Service()}
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
