package pages

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/reporttest"
	"sockstate_exporter/internal/sock"
)

// Nothing is in the way on a port, and binds fail all the same.
func TestPortsShowFailedBinds(t *testing.T) {
	s := hostWithFailures()
	s.Binds.Data.Failing = []failing.State{
		{Key: failing.Key{Netns: s.Inode, Port: 4840, Family: sock.FamilyIPv4}, Failing: true}, // it has a listener
		{Key: failing.Key{Netns: s.Inode, Port: 4841, Family: sock.FamilyIPv4}},
		{Key: failing.Key{Netns: s.Inode, Port: 4842, Family: sock.FamilyIPv6}, Failing: true}, // nobody listens
	}
	rows := make(map[uint16]PortRow)
	for _, r := range portsPage(t, s, "&netns=").Ports {
		if r.Protocol == "tcp" {
			rows[r.Port] = r
		}
	}
	for port, want := range map[uint16][]Problem{4840: {QueueFull, BindsFail}, 4841: {RestartBlocked, BindsFailed, NoReuseAddr}, 4842: {Down, BindsFail, NoListener}} {
		got := slices.Clone(rows[port].Problems)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%d: problems %v, want %v", port, rows[port].Problems, want)
		}
	}
	if f := rows[4840].FailedBinds; f == nil || f.Count != 17 || !f.Failing || f.Ago != 1 || f.Errno != "EADDRINUSE" || f.Diagnosis != codes.TimeWait {
		t.Errorf("4840: %+v", f)
	}
	if r := rows[4842]; r.Outcome != report.Free || r.Verdict[0].Text != "no socket is in the way, but binds fail" || rows[4840].Verdict[0].Text != "free" || r.FailedBinds == nil || r.FailedBinds.Diagnosis != codes.AddressMissing {
		t.Errorf("4842: %s, %+v, %+v", r.Outcome, r.Verdict, r.FailedBinds)
	}
	if a := rows[4842].Advice; len(a) != 1 || !strings.HasSuffix(a[0], "#address_missing)") {
		t.Errorf("4842: advice %q, want what explains the failure", a)
	}
	if a := rows[4840].Advice; !slices.ContainsFunc(a, func(a string) bool { return strings.HasSuffix(a, "#time_wait)") }) {
		t.Errorf("4840: advice %q, want what explains the failure beside the server", a)
	}
	if f := rows[4843].FailedBinds; f != nil {
		t.Errorf("4843: %+v, want none", f)
	}
	body := get(t, newPages(t, s).Ports(), "/ports?port=4840-4842")
	if want := `<a href="failures?netns=&amp;port=4842">1 bind failed</a>, the latest 2 min ago: EADDRNOTAVAIL, address_missing</p>`; !strings.Contains(body, want) {
		t.Errorf("no %s in:\n%s", want, body)
	}
}

// A listener that a helper of a dead server still has is no server that could restart.
func TestInheritedListenerBlocksARestart(t *testing.T) {
	s := watching(reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)}))
	s.Listeners.Data[0].Owner = owner.Owner{Process: "helper", PID: 8, Processes: 1, Inherited: true}
	r := portsPage(t, s, "").Ports[0]
	if r.Outcome != report.Blocked || !slices.Contains(r.Problems, RestartBlocked) || r.Diagnosis == nil || r.Diagnosis.Code != codes.InheritedListener {
		t.Errorf("%s, %v, %+v", r.Outcome, r.Problems, r.Diagnosis)
	}
	s.Listeners.Data[0].Owner.Inherited = false
	if r := portsPage(t, s, "").Ports[0]; r.Outcome != report.Free || len(r.Problems) != 0 {
		t.Errorf("%s, %v, want a server that can restart", r.Outcome, r.Problems)
	}
}

// net.ipv4.ip_local_port_range tells a client's connection from a server's where nobody has seen a server.
func TestPortsKnowOutgoingConnectionsByTheirPort(t *testing.T) {
	connection := bindrule.Socket{Addr: lo4, State: sock.StateEstablished, ReuseAddr: bindrule.No, ReusePort: bindrule.No, Count: 1}
	s := watching(reporttest.SnapshotOf([]bindrule.Socket{connection}))
	for _, tt := range []struct {
		ports sock.PortRange
		want  codes.Code
	}{{sock.PortRange{First: 4000, Last: 5000}, codes.OutgoingConnection}, {sock.PortRange{First: 32768, Last: 60999}, codes.Unknown}} {
		s.LocalPorts = tt.ports
		if d := portsPage(t, s, "").Ports[0].Diagnosis; d == nil || d.Code != tt.want {
			t.Errorf("%v: %+v, want %s", tt.ports, d, tt.want)
		}
	}
}

// The snapshot knows who has the sockets that are in the way, and who is at the other end.
func TestPortsNameWhoIsInTheWay(t *testing.T) {
	connection := bindrule.Socket{Addr: lo4, State: sock.StateEstablished, ReuseAddr: bindrule.No, ReusePort: bindrule.No, NamedPort: true, Count: 1}
	s := watching(reporttest.SnapshotOf([]bindrule.Socket{connection}))
	s.Open = map[uint16][]facts.Open{s.Verdicts.Data[0].Number: {{
		State: sock.StateEstablished, Addr: lo4, Peer: netip.MustParseAddrPort("192.0.2.1:443"), Count: 1, Owner: owner.Owner{Process: "client", PID: 7, Processes: 1},
	}}}
	r := portsPage(t, s, "").Ports[0]
	if d := r.Diagnosis; d == nil || d.Code != codes.OutgoingConnection || d.Holder == nil || d.Holder.Process != "client" || d.Peer != "192.0.2.1:443" {
		t.Errorf("diagnosis %+v", d)
	}
	if want := ", open in client (pid 7)"; !strings.Contains(r.Verdict[0].Text, want) {
		t.Errorf("verdict %q, want %q in it", r.Verdict[0].Text, want)
	}
}

func TestOwnFailuresHaveTheirOwnSections(t *testing.T) {
	q := request{now: pageTime}
	var got []string
	for _, section := range newFailuresPage(hostWithFailures(), q).Sections() {
		for _, r := range section.Rows {
			got = append(got, section.Title+": "+r.Owner.Process)
		}
	}
	got = slices.Compact(slices.DeleteFunc(got, func(s string) bool { return strings.Contains(s, "<") || strings.Contains(s, "\n") }))
	want := []string{
		"On watched ports: opcua-server", "On watched ports: second", "On watched ports: proxy",
		"On other ports: web", "On other ports: dns", "On other ports: ranged", "On other ports: odd",
		"In other network namespaces, on watched ports: client", "In other network namespaces, on other ports: ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAFullAcceptQueueHasAdvice(t *testing.T) {
	s := watching(reporttest.SnapshotOf([]bindrule.Socket{reporttest.Listener(any4, false, bindrule.Yes)}))
	g := &s.Listeners.Data[0]
	g.Owner, g.QueueRatio = owner.Owner{Process: "slow", PID: 8, Processes: 1}, 1
	r := portsPage(t, s, "").Ports[0]
	if len(r.Advice) != 1 || !strings.HasPrefix(r.Advice[0], "slow (pid 8) does not call accept() fast enough: ") {
		t.Errorf("advice %q", r.Advice)
	}
	g.QueueRatio = 0.9
	if r := portsPage(t, s, "").Ports[0]; len(r.Advice) != 0 {
		t.Errorf("advice %q, and the queue has room", r.Advice)
	}
}

func TestBindsThatFailedLongAgoAreNoProblem(t *testing.T) {
	s := hostWithFailures()
	for i := range s.Binds.Data.Recent {
		s.Binds.Data.Recent[i].Last = pageTime.Add(-lately)
	}
	for _, r := range portsPage(t, s, "&port=4841").Ports {
		if slices.Contains(r.Problems, BindsFailed) {
			t.Errorf("%d: problems %v", r.Port, r.Problems)
		}
	}
}

// What was in the way of the last bind is gone, and the server has not tried again.
func TestAFailureThatIsOverIsNotDown(t *testing.T) {
	s := watching(reporttest.SnapshotOf(nil))
	port := s.Watch.Data.Ports[0].Number
	s.Binds.Data.Failing = []failing.State{{Key: failing.Key{Netns: s.Inode, Port: port, Family: sock.FamilyIPv4}, Failing: true}}
	latest := failures.Recent{
		Netns: s.Inode, Port: port, PortKnown: true, Addr: any4, Protocol: sock.TCP, Errno: unix.EADDRINUSE, Count: 1, Last: pageTime.Add(-73 * time.Second),
	}
	for code, want := range map[codes.Code]struct {
		problem Problem
		text    string
	}{
		codes.TimeWait:    {NoListener, "the last bind failed 73 s ago (EADDRINUSE, time_wait); nothing is in the way now: start the server"},
		codes.OwnListener: {Down, "no socket is in the way, but binds fail"},
	} {
		latest.Settle(&diagnosis.Diagnosis{Code: code, Sentence: "what"})
		s.Binds.Data.Recent = []failures.Recent{latest}
		r := portsPage(t, s, "").Ports[0]
		if !slices.Contains(r.Problems, want.problem) || slices.Contains(r.Problems, Down) != (want.problem == Down) || r.Verdict[0].Text != want.text {
			t.Errorf("%s: problems %v, %+v", code, r.Problems, r.Verdict)
		}
	}
}

func TestAdviceGoesByTheFlagOfTheLastSocket(t *testing.T) {
	s := watching(reporttest.SnapshotOf([]bindrule.Socket{{
		Addr: lo4, State: sock.StateTimeWait, Kind: sock.KindTimeWait, ReuseAddr: bindrule.No, ReusePort: bindrule.No, Count: 1, Expires: time.Minute,
	}}))
	for flag, want := range map[bindrule.Flag]codes.Code{bindrule.No: codes.TimeWait, bindrule.Yes: codes.TimeWaitOldFlags} {
		s.Binds.Data.Recent = []failures.Recent{{
			Netns: s.Inode, Port: s.Watch.Data.Ports[0].Number, PortKnown: true, Addr: any4, Protocol: sock.TCP, Errno: unix.EADDRINUSE,
			Count: 1, Last: pageTime, Request: bindrule.Request{ReuseAddr: flag},
		}}
		if r := portsPage(t, s, "").Ports[0]; r.Diagnosis == nil || r.Diagnosis.Code != want || !strings.Contains(r.Advice[0], string(want)+")") {
			t.Errorf("SO_REUSEADDR %v: %+v, want %s", flag, r.Diagnosis, want)
		}
	}
}
