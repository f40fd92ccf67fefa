package snapshot

import (
	"maps"
	"slices"
	"time"
)

// Of each port one Conflict is reported at a time: the first one tellAfter it happened, the
// next ones tellEvery. The number of ports is bounded.
const (
	tellAfter = 250 * time.Millisecond
	tellEvery = 30 * time.Second

	maxToldPorts  = 64 // watched ones
	maxToldOthers = 16
)

// tidings are the Conflicts to report, by port.
type tidings struct {
	ports map[place]*tiding
}

type tiding struct {
	watched bool
	due     time.Time
	// The most telling one since the last report; valid where its Failures are not 0.
	conflict Conflict
}

func newTidings() *tidings { return &tidings{ports: make(map[place]*tiding)} }

func (t *tidings) add(now time.Time, c Conflict, watched bool) {
	told, ok := t.ports[place{c.Netns, c.Port}]
	if !ok {
		if !t.room(watched) {
			return
		}
		told = &tiding{watched: watched, due: now.Add(tellAfter)}
		t.ports[place{c.Netns, c.Port}] = told
	}
	failures := told.conflict.Failures
	if failures == 0 || !told.conflict.Cause.before(c.Cause) {
		told.conflict = c
		told.conflict.Failures = 0
	}
	told.conflict.Failures = failures + c.Failures
}

func (t *tidings) room(watched bool) bool {
	n := 0
	for _, told := range t.ports {
		if told.watched == watched {
			n++
		}
	}
	if watched {
		return n < maxToldPorts
	}
	return n < maxToldOthers
}

// due are the Conflicts whose time has come, by port.
func (t *tidings) due(now time.Time) []Conflict {
	var out []Conflict
	for _, at := range slices.SortedFunc(maps.Keys(t.ports), place.compare) {
		told := t.ports[at]
		switch {
		case now.Before(told.due):
		case told.conflict.Failures == 0:
			delete(t.ports, at)
		default:
			out = append(out, told.conflict)
			told.conflict = Conflict{}
			told.due = now.Add(tellEvery)
		}
	}
	return out
}

// wait is the time until the next one is due.
func (t *tidings) wait(now time.Time) time.Duration {
	wait := time.Hour
	for _, told := range t.ports {
		wait = min(wait, told.due.Sub(now))
	}
	return max(wait, 0)
}
