package failures

import (
	"maps"
	"slices"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
)

// Each port has one Conflict reported at a time: the first one noticeDelay after it happened, the
// next ones noticeInterval apart. The number of ports is bounded, and one user may take a quarter.
const (
	noticeDelay    = 250 * time.Millisecond
	noticeInterval = 30 * time.Second

	maxNoticePorts  = 256 // watched ones
	maxNoticeOthers = 16
)

// notices are the Conflicts to report, by port.
type notices struct {
	ports   map[portID]*notice
	leftOut bool // a port had no room
}

type notice struct {
	who waitingFor
	due time.Time
	// reported says that a Conflict was reported.
	reported bool
	// The Conflict that says most since the last report. It is valid unless its Failures are 0.
	conflict Conflict
}

func newNotices() *notices { return &notices{ports: make(map[portID]*notice)} }

func (t *notices) add(now time.Time, c Conflict, port *waitingPort) {
	at := portID{c.Netns, c.Port, c.Op == bindtrace.OpConnect}
	n, ok := t.ports[at]
	if !ok {
		who := port.who // the first to fail; else another one, who has room
		for by := range port.shares {
			if !t.hasSpace(who) {
				who.user = by
			}
		}
		if !t.hasSpace(who) {
			t.leftOut = true
			return
		}
		n = &notice{who: who, due: now.Add(noticeDelay)}
		t.ports[at] = n
	}
	failures := n.conflict.Failures
	if failures == 0 || !n.conflict.Diagnosis.Code.Before(c.Diagnosis.Code) {
		n.conflict = c
		n.conflict.Failures = 0
	}
	n.conflict.Failures = failures + c.Failures
}

func (t *notices) hasSpace(who waitingFor) bool {
	used, share, most := 0, 0, maxNoticeOthers
	if who.watched {
		most = maxNoticePorts
	}
	for _, n := range t.ports {
		if n.who.watched == who.watched {
			used++
		}
		if n.who == who {
			share++
		}
	}
	return used < most && share < most/userShare
}

// due returns the Conflicts to report now, by port.
func (t *notices) due(now time.Time) []Conflict {
	var out []Conflict
	for _, at := range slices.SortedFunc(maps.Keys(t.ports), portID.compare) {
		n := t.ports[at]
		switch {
		case now.Before(n.due):
		case n.conflict.Failures == 0:
			delete(t.ports, at)
		default:
			n.conflict.Repeat, n.conflict.More, t.leftOut = n.reported, t.leftOut, false
			out = append(out, n.conflict)
			n.conflict, n.reported = Conflict{}, true
			n.due = now.Add(noticeInterval)
		}
	}
	return out
}

// wait returns the time until the next one is due.
func (t *notices) wait(now time.Time) time.Duration {
	wait := time.Hour
	for _, n := range t.ports {
		wait = min(wait, n.due.Sub(now))
	}
	return max(wait, 0)
}
