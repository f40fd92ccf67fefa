//go:build !race

package seen

import (
	"testing"

	"sockstate_exporter/internal/sock"
)

func TestSeeingNothingNewAllocatesNothing(t *testing.T) {
	w := newSeries(t)
	w.see([]uint16{80, 81}, sockets(80, v4, sock.StateTimeWait))
	if n := testing.AllocsPerRun(100, func() { w.memory.note(&w.last) }); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
