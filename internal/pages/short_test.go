package pages

import (
	"os"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/reporttest"
	"sockstate_exporter/netlinkdiag"
)

func TestPortThatIsFineTakesOneLine(t *testing.T) {
	s := watching(reporttest.SnapshotOf(
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes), reporttest.Listener(any6, true, bindrule.Yes)},
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.No)},
	))
	for i := range s.Listeners.Data {
		s.Listeners.Data[i].Owner.Process, s.Listeners.Data[i].Owner.PID = "nginx", 7
	}
	h := newPages(t, s).Ports()
	all := get(t, h, "/ports")
	if n := strings.Count(all, `<tbody class="good line">`); n != 1 {
		t.Errorf("%d ports take one line, want 1\n%s", n, all)
	}
	if !strings.Contains(all, `<span class="mono">0.0.0.0, :: (IPv6 only)</span> <span class="names">nginx (pid 7)</span>`) {
		t.Errorf("the line is not there\n%s", all)
	}
	if one := get(t, h, "/ports?port=4840"); strings.Contains(one, "good line") {
		t.Error("a port that was asked for has one line")
	}
}

// An ordinary user's exporter cannot know the flags of its own connections.
func TestOwnConnectionsAreNoMatter(t *testing.T) {
	s := watching(reporttest.SnapshotOf(
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes), reporttest.Live(netlinkdiag.StateEstablished, 1, bindrule.FlagUnknown), reporttest.TimeWait(lo4, 3, bindrule.FlagUnknown, left)},
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes), reporttest.Live(netlinkdiag.StateEstablished, 1, bindrule.FlagUnknown)},
	))
	for i := range s.Listeners.Data {
		s.Listeners.Data[i].ReuseAddr, s.Listeners.Data[i].Owner.PID = bindrule.Yes, 1
	}
	s.Listeners.Data[0].Owner.PID = os.Getpid()
	page := portsPage(t, s, "")
	for i, want := range [][]Problem{{NotKnown}, {}} { // the worst first
		if got := page.Ports[i].Problems; !slices.Equal(got, want) {
			t.Errorf("port %d: problems %q, want %q", page.Ports[i].Port, got, want)
		}
	}
	text := get(t, newPages(t, s).Ports(), "/ports?port=4840")
	_, row, _ := strings.Cut(text, `<span class="port">4840</span>`)
	row, _, _ = strings.Cut(row, "</tbody>")
	for _, word := range []string{"unknown", "TIME_WAIT", "what to do"} {
		if row == "" || strings.Contains(row, word) {
			t.Errorf("%q is about the exporter's own connections\n%s", word, row)
		}
	}
}
