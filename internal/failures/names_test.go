package failures

import (
	"fmt"
	"testing"
	"time"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
)

// A process that renames itself before each bind() makes a series each time.
func TestNamesOfThoseWhoFailAreBounded(t *testing.T) {
	const hostile, victim = 1000, 26
	r := recorderOf(t, []sock.PortRange{one(80), one(81)})
	shown := make(map[string]bool)
	look := func() {
		for _, f := range r.conflicts.latest.all() {
			if f.Port != 80 {
				continue
			}
			name := f.Process
			if f.Owner.Many.Process {
				name = "(many)"
			}
			shown[name] = true
		}
	}
	for i := range 10_000 {
		e := failed(80, fmt.Sprintf("x%d", i), time.Duration(i)*100*time.Millisecond)
		e.User, e.UID = hostile, 100_000+uint32(i) // a subordinate one each time
		r.add(&e)
		look()
	}
	if len(shown) != share.NamesOfUser+1 || !shown["(many)"] {
		t.Errorf("%d names are shown, want %d: %v", len(shown), share.NamesOfUser+1, shown)
	}
	for _, port := range []uint16{80, 81} {
		e := failed(port, "postgres", time.Hour/2)
		e.User, e.UID = victim, victim
		r.add(&e)
	}
	for _, f := range r.conflicts.latest.all() {
		if f.Process != "postgres" || f.Owner.Many != (owner.Many{}) {
			t.Errorf("port %d: the last is %s, left out: %+v; want postgres", f.Port, f.Process, f.Owner.Many)
		}
	}
	if len(r.conflicts.latest.names) != len(r.conflicts.latest.failures) {
		t.Errorf("names of %d ports are remembered, want %d", len(r.conflicts.latest.names), len(r.conflicts.latest.failures))
	}
	r.watch(nil, nil)
	if len(r.conflicts.latest.names) != 0 {
		t.Errorf("names of %d ports are remembered after they went", len(r.conflicts.latest.names))
	}
}
