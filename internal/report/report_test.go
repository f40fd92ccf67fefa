package report

import (
	"errors"
	"strings"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/reporttest"
)

func TestOutcomeIsTheWorstForTheBinderThatIsMeant(t *testing.T) {
	free := []bindrule.Socket{}
	lacking := []bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.No, left)}
	having := []bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.Yes, left)}
	unseen := []bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.FlagUnknown, left)}
	for _, tt := range []struct {
		name      string
		ports     [][]bindrule.Socket
		reuseAddr bool
		want      Outcome
	}{
		{"all free", [][]bindrule.Socket{free, free}, false, Free},
		{"one blocked", [][]bindrule.Socket{free, having, free}, false, Blocked},
		{"with the flag free", [][]bindrule.Socket{having, free}, true, Free},
		{"with the flag blocked", [][]bindrule.Socket{lacking}, true, Blocked},
		{"with the flag unknown", [][]bindrule.Socket{free, unseen}, true, Unknown},
		{"without it the same is known", [][]bindrule.Socket{unseen}, false, Blocked},
		{"blocked is worse than unknown", [][]bindrule.Socket{lacking, unseen}, true, Blocked},
		{"a listener is in the way", [][]bindrule.Socket{{reporttest.Listener(any4, false, bindrule.Yes)}}, true, Blocked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New(reporttest.SnapshotOf(tt.ports...), Query{ReuseAddr: tt.reuseAddr})
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != tt.want {
				t.Errorf("outcome %s, want %s", r.Outcome, tt.want)
			}
		})
	}
}

// The same listener blocks a restart, and a new bind beside other sockets.
func TestOneListenerIsToldOnce(t *testing.T) {
	s := reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes), reporttest.TimeWait(lo4, 1, bindrule.Yes, left)})
	s.Listeners.Data[0].Owner = owner.Owner{Process: "sleep", PID: 8, Processes: 1, Inherited: true}
	r, err := New(s, Query{})
	if err != nil {
		t.Fatal(err)
	}
	if a := r.Ports[0].Advice; len(a) != 1 || !strings.Contains(a[0], "#inherited_listener") {
		t.Errorf("advice %q, want one", a)
	}
}

func TestPortNotSeenWholeIsUnknown(t *testing.T) {
	s := reporttest.SnapshotOf(nil)
	s.Verdicts.Data[0].Port.Incomplete = true
	r, err := New(s, Query{})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Ports[0].Binds[0].Without; got.Outcome != Unknown || got.AtMostSeconds != nil {
		t.Errorf("answer %+v, want unknown and no bound", got)
	}
}

func TestSnapshotThatFailedIsAnError(t *testing.T) {
	want := errors.New("dump tcp sockets: no")
	s := reporttest.SnapshotOf(nil)
	s.Verdicts.Err = want
	if r, err := New(s, Query{}); r != nil || !errors.Is(err, want) {
		t.Errorf("report %v, error %v, want none and %v", r, err, want)
	}
}
