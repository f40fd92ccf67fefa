package report

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/reporttest"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/netlinkdiag"
)

func TestTextSaysWhatBlocksForHowLongAndWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		name    string // of the golden file
		sockets []bindrule.Socket
		query   Query
	}{
		{name: "nothing"},
		{name: "timewait-without-flag", sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 212, bindrule.No, left)}},
		{name: "timewait-with-flag", sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.Yes, left)}},
		{
			name:    "timewait-flag-unseen",
			sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 3, bindrule.FlagUnknown, left)},
			query:   Query{Unseen: []string{"SO_REUSEADDR of sockets in TIME_WAIT: needs CAP_BPF"}},
		},
		{name: "timewait-mixed", sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 5, bindrule.Yes, left), reporttest.TimeWait(lo4, 1, bindrule.No, left/2)}},
		{name: "listener-without-flag", sockets: []bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 2, bindrule.No, left)}},
		{name: "listener-with-flag", sockets: []bindrule.Socket{reporttest.Listener(any6, false, bindrule.Yes), reporttest.TimeWait(lo4, 2, bindrule.Yes, left)}},
		{name: "listener-that-lost-the-flag", sockets: []bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 2, bindrule.Yes, left)}},
		{name: "listener-flag-unseen", sockets: []bindrule.Socket{reporttest.Listener(any4, false, bindrule.FlagUnknown), reporttest.TimeWait(lo4, 2, bindrule.FlagUnknown, left)}},
		{name: "live", sockets: []bindrule.Socket{
			reporttest.Live(netlinkdiag.StateEstablished, 2, bindrule.Yes), reporttest.Live(netlinkdiag.StateCloseWait, 1, bindrule.Yes),
			reporttest.Live(netlinkdiag.StateFinWait2, 1, bindrule.Yes), reporttest.Live(netlinkdiag.StateLastAck, 1, bindrule.Yes),
		}},
		{name: "bound", sockets: []bindrule.Socket{reporttest.Live(netlinkdiag.StateClose, 1, bindrule.FlagUnknown)}},
		{name: "ipv4-half-missing", sockets: []bindrule.Socket{reporttest.Listener(any6, true, bindrule.No), reporttest.TimeWait(lo4, 2, bindrule.No, left)}},
		{
			name:    "addresses",
			sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 2, bindrule.No, left)},
			query:   Query{Addresses: []Address{{Addr: lo4}, {Addr: lo6}}},
		},
		{name: "device", sockets: []bindrule.Socket{reporttest.OnDevice()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New(reporttest.SnapshotOf(tt.sockets), tt.query)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := r.WriteText(&b, false); err != nil {
				t.Fatal(err)
			}
			reporttest.Golden(t, *update, tt.name+".txt", b.String())
		})
	}
}

// ownedSnapshot has a port with two listeners, of processes with hostile names.
func ownedSnapshot() (*snapshot.Snapshot, Query) {
	s := reporttest.SnapshotOf([]bindrule.Socket{
		reporttest.Listener(any4, false, bindrule.Yes), reporttest.Listener(any6, true, bindrule.Yes), reporttest.Live(netlinkdiag.StateCloseWait, 2, bindrule.Yes),
	})
	s.Listeners.Data[0].Owner = owner.Owner{Process: "opcua-server", PID: 4711, Processes: 3, Unit: "opcua.service"}
	s.Listeners.Data[1].Owner = owner.Owner{
		Process: "x\x1b[2J\n\"<b>", PID: 17, Processes: 1, Unit: "a\\x2db.scope", Runtime: owner.RuntimeDocker, Container: strings.Repeat("0123456789abcdef", 4),
	}
	holders := []Holder{
		{Owner: Owner{Process: "opcua-server", PID: 4711, Processes: 1, Unit: "opcua.service"}, Sockets: map[string]uint64{"close_wait": 2, "close": 1}},
		{Owner: Owner{Process: "\xff\n", PID: 18, Processes: 1}, Sockets: map[string]uint64{"established": 1}},
	}
	for pid := range uint32(maxHolders) {
		holders = append(holders, Holder{Owner: Owner{Process: "worker", PID: 100 + pid, Processes: 1}, Sockets: map[string]uint64{"established": 1}})
	}
	return s, Query{Holders: map[uint16][]Holder{4840: holders}}
}

func TestOwnersAreNamedInOneSafeLineEach(t *testing.T) {
	s, query := ownedSnapshot()
	r, err := New(s, query)
	if err != nil {
		t.Fatal(err)
	}
	var text, js strings.Builder
	if err := errors.Join(r.WriteText(&text, false), r.WriteJSON(&js)); err != nil {
		t.Fatal(err)
	}
	reporttest.Golden(t, *update, "owners.txt", text.String())
	reporttest.Golden(t, *update, "owners.json", js.String())
	for _, out := range []string{text.String(), js.String()} {
		if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("not printable: %q", out[max(0, i-40):i+4])
		}
	}
}

func TestJSONHasTheDocumentedForm(t *testing.T) {
	r, err := New(reporttest.SnapshotOf(
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 212, bindrule.No, left), reporttest.Live(netlinkdiag.StateEstablished, 1, bindrule.Yes)},
		[]bindrule.Socket{reporttest.TimeWait(lo4, 3, bindrule.FlagUnknown, left)},
	), Query{ReuseAddr: true, Unseen: []string{"SO_REUSEADDR of <some>"}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	reporttest.Golden(t, *update, "report.json", b.String())
}

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

func TestColourIsTheOnlyDifference(t *testing.T) {
	r, err := New(reporttest.SnapshotOf([]bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.Yes, left)}), Query{})
	if err != nil {
		t.Fatal(err)
	}
	var plain, coloured strings.Builder
	if err := errors.Join(r.WriteText(&plain, false), r.WriteText(&coloured, true)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Errorf("plain text has escape sequences:\n%q", plain.String())
	}
	stripped := strings.NewReplacer("\x1b[1;31mblocked\x1b[0m", "blocked", "\x1b[1;32mfree\x1b[0m", "free").Replace(coloured.String())
	if stripped == coloured.String() || stripped != plain.String() {
		t.Errorf("coloured text is %q, want the outcomes of the plain one coloured:\n%q", coloured.String(), plain.String())
	}
}
