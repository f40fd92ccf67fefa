package check

import (
	"flag"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/reporttest"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

var update = flag.Bool("update", false, "write the golden files anew")

const left = 42100 * time.Millisecond

var lo6 = netip.IPv6Loopback()

func TestTextSaysWhatBlocksForHowLongAndWhatToDo(t *testing.T) {
	one := func(addresses ...netip.Addr) []report.Target {
		target := report.Target{PortRange: sock.PortRange{First: port, Last: port}}
		if len(addresses) == 0 {
			return []report.Target{target}
		}
		var out []report.Target
		for _, a := range addresses {
			target.Address.Addr = a
			out = append(out, target)
		}
		return out
	}
	for _, tt := range []struct {
		name    string // of the golden file
		sockets []bindrule.Socket
		query   report.Query
		notSeen string
	}{
		{name: "nothing"},
		{name: "timewait-without-flag", sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 212, bindrule.No, left)}},
		{name: "timewait-with-flag", sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.Yes, left)}},
		{
			name:    "timewait-with-flag-asked-for",
			sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.Yes, left)},
			query:   report.Query{ReuseAddr: true},
		},
		{
			name:    "timewait-flag-unseen",
			sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 3, bindrule.FlagUnknown, left)},
			query:   report.Query{ReuseAddr: true},
			notSeen: "SO_REUSEADDR of sockets that do not listen, owners of some sockets (root sees more)",
		},
		{name: "timewait-mixed", sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 5, bindrule.Yes, left), reporttest.TimeWait(lo4, 1, bindrule.No, left/2)}},
		{name: "listener-without-flag", sockets: []bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 2, bindrule.No, left)}},
		{name: "listener-with-flag", sockets: []bindrule.Socket{reporttest.Listener(any6, false, bindrule.Yes), reporttest.TimeWait(lo4, 2, bindrule.Yes, left)}},
		{
			name:    "listener-with-connections",
			sockets: []bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.Live(netlinkdiag.StateEstablished, 2, bindrule.No), reporttest.Live(netlinkdiag.StateCloseWait, 1, bindrule.No)},
		},
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
			query:   report.Query{Targets: one(lo4, lo6)},
		},
		{
			name:    "address-free",
			sockets: []bindrule.Socket{reporttest.TimeWait(lo4, 2, bindrule.No, left)},
			query:   report.Query{Targets: one(lo6)},
		},
		{
			name:    "address-of-a-wildcard-listener",
			sockets: []bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)},
			query:   report.Query{Targets: one(lo4)},
		},
		{name: "reuseport", sockets: []bindrule.Socket{reporttest.OnDevice()}, query: report.Query{ReusePort: true, UID: bindrule.UIDOf(1000)}},
		{name: "device", sockets: []bindrule.Socket{reporttest.OnDevice()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.query.Targets == nil {
				tt.query.Targets = one()
			}
			r, err := report.New(reporttest.SnapshotOf(tt.sockets), tt.query)
			if err != nil {
				t.Fatal(err)
			}
			reporttest.Golden(t, *update, tt.name+".txt", textOf(t, r, tt.query.Targets, tt.notSeen, false))
		})
	}
}

func textOf(t *testing.T, r *report.Report, targets []report.Target, notSeen string, colour bool) string {
	t.Helper()
	var b strings.Builder
	if err := writeText(&b, &judgement{ports: r}, targets, notSeen, colour); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestRangeHasOneLineForEachPortThatIsNotFree(t *testing.T) {
	ports := [][]bindrule.Socket{
		nil,
		{reporttest.Listener(any4, false, bindrule.Yes)},
		nil,
		{reporttest.TimeWait(lo4, 2, bindrule.No, left)},
		{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 2, bindrule.No, left)},
	}
	targets := []report.Target{
		{PortRange: sock.PortRange{First: 4840, Last: 4844}},
		{PortRange: sock.PortRange{First: 4842, Last: 4842}, Name: "service"},
		{PortRange: sock.PortRange{First: 4843, Last: 4843}},
		{PortRange: sock.PortRange{First: 4840, Last: 4844}},
	}
	for _, restart := range []bool{false, true} {
		r, err := report.New(reporttest.SnapshotOf(ports...), report.Query{Targets: targets, Restart: restart})
		if err != nil {
			t.Fatal(err)
		}
		reporttest.Golden(t, *update, "range.txt", textOf(t, r, targets, "", false))
		wantOutcomes := map[bool]string{false: "free,blocked,free,blocked,blocked", true: "free,free,free,blocked,blocked"}[restart]
		var got []string
		for i := range r.Ports {
			got = append(got, string(r.Ports[i].Outcome))
		}
		if strings.Join(got, ",") != wantOutcomes {
			t.Errorf("restart %v: outcomes %v, want %s", restart, got, wantOutcomes)
		}
	}
}

// ownedSnapshot has a port with two listeners, of processes with hostile names.
func ownedSnapshot() (*snapshot.Snapshot, report.Query) {
	s := reporttest.SnapshotOf([]bindrule.Socket{
		reporttest.Listener(any4, false, bindrule.Yes), reporttest.Listener(any6, true, bindrule.Yes), reporttest.Live(netlinkdiag.StateCloseWait, 2, bindrule.Yes),
	})
	s.Listeners.Data[0].Owner = owner.Owner{Process: "opcua-server", PID: 4711, Processes: 3, Unit: "opcua.service"}
	s.Listeners.Data[1].Owner = owner.Owner{
		Process: "x\x1b[2J\n\"<b>", PID: 17, Processes: 1, Unit: "a\\x2db.scope", Runtime: sock.RuntimeDocker, Container: strings.Repeat("0123456789abcdef", 4),
	}
	server := owner.Owner{Process: "opcua-server", PID: 4711, Processes: 1, Unit: "opcua.service"}
	open := []facts.Open{
		{State: sock.StateCloseWait, Addr: lo4, Count: 2, Owner: server},
		{State: sock.StateClose, Addr: lo4, Count: 1, Owner: server},
		{State: sock.StateEstablished, Addr: lo4, Count: 1, Owner: owner.Owner{Process: "\xff\n", PID: 18, Processes: 1}},
	}
	for pid := range maxHolders {
		open = append(open, facts.Open{State: sock.StateEstablished, Addr: lo4, Count: 1, Owner: owner.Owner{Process: "worker", PID: 100 + pid, Processes: 1}})
	}
	return s, report.Query{Open: map[uint16][]facts.Open{port: open}, Targets: []report.Target{{PortRange: sock.PortRange{First: port, Last: port}}}}
}

func TestOwnersAreNamedInOneSafeLineEach(t *testing.T) {
	s, query := ownedSnapshot()
	r, err := report.New(s, query)
	if err != nil {
		t.Fatal(err)
	}
	var js strings.Builder
	if err := writeJSON(&js, &judgement{ports: r}); err != nil {
		t.Fatal(err)
	}
	text := textOf(t, r, query.Targets, "", false)
	reporttest.Golden(t, *update, "owners.txt", text)
	reporttest.Golden(t, *update, "owners.json", js.String())
	for _, out := range []string{text, js.String()} {
		if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("not printable: %q", out[max(0, i-40):i+4])
		}
	}
}

func TestJSONHasTheDocumentedForm(t *testing.T) {
	r, err := report.New(reporttest.SnapshotOf(
		[]bindrule.Socket{reporttest.Listener(any4, false, bindrule.No), reporttest.TimeWait(lo4, 212, bindrule.No, left), reporttest.Live(netlinkdiag.StateEstablished, 1, bindrule.Yes)},
		[]bindrule.Socket{reporttest.TimeWait(lo4, 3, bindrule.FlagUnknown, left)},
	), report.Query{ReuseAddr: true, Unseen: []string{"SO_REUSEADDR of <some>"}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := writeJSON(&b, &judgement{ports: r}); err != nil {
		t.Fatal(err)
	}
	reporttest.Golden(t, *update, "report.json", b.String())
}

func TestColourIsTheOnlyDifference(t *testing.T) {
	r, err := report.New(reporttest.SnapshotOf([]bindrule.Socket{reporttest.TimeWait(lo4, 1, bindrule.Yes, left)}), report.Query{})
	if err != nil {
		t.Fatal(err)
	}
	targets := []report.Target{{PortRange: sock.PortRange{First: port, Last: port}}}
	plain, coloured := textOf(t, r, targets, "", false), textOf(t, r, targets, "", true)
	if strings.Contains(plain, "\x1b") {
		t.Errorf("plain text has escape sequences:\n%q", plain)
	}
	stripped := strings.NewReplacer("\x1b[1;31mblocked\x1b[0m", "blocked", "\x1b[1;32mfree\x1b[0m", "free").Replace(coloured)
	if stripped == coloured || stripped != plain {
		t.Errorf("coloured text is %q, want the outcomes of the plain one coloured:\n%q", coloured, plain)
	}
}
