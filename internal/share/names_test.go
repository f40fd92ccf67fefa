package share

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"sockstate_exporter/internal/owner"
)

// A labeler collects the names that are shown.
type labeler struct {
	Names
	now   time.Time
	shown map[[2]string]bool
}

func newLabeler() *labeler {
	return &labeler{now: time.Now(), shown: make(map[[2]string]bool)}
}

func (l *labeler) add(user uint32, process, unit string) owner.Many {
	many := l.Add(l.now, user, process, unit)
	if many.Process {
		process = "(many)"
	}
	if many.Unit {
		unit = "(many)"
	}
	l.shown[[2]string{process, unit}] = true
	return many
}

func TestNamesOfOneUserAreBounded(t *testing.T) {
	fixed := func(name string) func(int) string { return func(int) string { return name } }
	unit := func(i int) string { return fmt.Sprintf("user@1000/%d.service", i) }
	for what, tt := range map[string]struct {
		process, unit func(int) string
		want          int
	}{
		"processes":                 {strconv.Itoa, fixed("nginx.service"), NamesOfUser + 1},
		"processes without a unit":  {strconv.Itoa, fixed(""), NamesOfUser + 1},
		"units":                     {fixed("x"), unit, 2*NamesOfUser + 1},
		"processes and their units": {strconv.Itoa, unit, 2*NamesOfUser + 1},
		"units of unknown ones":     {fixed(""), unit, NamesOfUser + 1},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLabeler()
			for i := range 10_000 {
				l.add(1000, tt.process(i), tt.unit(i))
				l.now = l.now.Add(100 * time.Millisecond)
			}
			if len(l.shown) > tt.want {
				t.Errorf("%d pairs of names are shown, want at most %d", len(l.shown), tt.want)
			}
		})
	}
}

func TestUserCannotUseUpTheNamesOfOthers(t *testing.T) {
	l := newLabeler()
	var users []uint32
	for user := range uint32(100) {
		users = append(users, 100_000+user) // subordinate ones of one user
	}
	for i := range 10_000 {
		l.add(users[i%len(users)], fmt.Sprint(i), fmt.Sprintf("user@1000/%d.service", i))
	}
	if want := 2*usersOfPort*NamesOfUser + 1; len(l.shown) > want {
		t.Errorf("%d pairs of names are shown, want at most %d", len(l.shown), want)
	}
	for _, user := range []uint32{0, 26, maxSystemUID} {
		if got := l.add(user, "postgres", "postgresql.service"); got != (owner.Many{}) {
			t.Errorf("user %d: %+v is left out", user, got)
		}
	}
	// What is shown goes on being shown, whoever uses it.
	for range 100 {
		l.now = l.now.Add(50 * time.Minute)
		if got := l.add(0, "postgres", "postgresql.service"); got != (owner.Many{}) {
			t.Errorf("after %v: %+v is left out", l.now, got)
		}
	}
}

func TestUnitIsShownWhereProcessesAreMany(t *testing.T) {
	l := newLabeler()
	for i := range 2 * NamesOfUser {
		l.add(33, fmt.Sprintf("worker %d", i), "web.service")
	}
	if got := l.add(33, "one more", "web.service"); got != (owner.Many{Process: true}) {
		t.Errorf("got %+v, want the process to be left out", got)
	}
}

func TestNamesMakeRoomAfterAnHour(t *testing.T) {
	l := newLabeler()
	for i := range NamesOfUser {
		l.add(1000, fmt.Sprint(i), "")
	}
	if got := l.add(1000, "new", ""); !got.Process {
		t.Error("one more name has room")
	}
	l.now = l.now.Add(keepName - time.Minute)
	l.add(1000, "0", "") // stays in use
	l.now = l.now.Add(2 * time.Minute)
	if got := l.add(1000, "new", ""); got.Process {
		t.Error("a new name has no room after an hour")
	}
	if got := len(l.processes); got != 2 {
		t.Errorf("%d names are remembered, want 2", got)
	}
}

func BenchmarkNames(b *testing.B) {
	n, now := new(Names), time.Now()
	for i := range usersOfPort * NamesOfUser {
		n.Add(now, uint32(1000+i%usersOfPort), fmt.Sprint(i), "")
	}
	for i := 0; b.Loop(); i++ {
		n.Add(now, 1000, [...]string{"a", "b"}[i%2], "postgresql.service")
	}
}
