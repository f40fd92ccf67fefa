package diagnosis

import (
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// wouldFail are the facts of a bind to 0.0.0.0:4840 that nobody has made.
// Nobody has seen whether a server accepted it or a client opened it.
func TestConnectionWhoseOpenerNobodyHasSeen(t *testing.T) {
	f := inUse(no, no, connected(sock.StateEstablished, "192.0.2.1:5555", no))
	f.Seen, f.Port = Now, 7020
	for _, listened := range []bool{false, true} {
		f.Host.Listened = listened
		want := map[bool]codes.Code{false: codes.Unknown, true: codes.AcceptedConnection}[listened]
		d := Of(&f)
		if d.Code != want || d.End != UntilClosed() || strings.Contains(d.Sentence, "new socket") {
			t.Errorf("listened %t: %+v, want %s until closed", listened, d, want)
		}
		if reserve := strings.Contains(d.Remedy, "add 7020 to net.ipv4.ip_local_reserved_ports"); reserve == listened {
			t.Errorf("listened %t: remedy %s", listened, d.Remedy)
		}
	}
}

func wouldFail(reuseAddr bindrule.Flag, blockers ...Blocker) Facts {
	return but(inUse(reuseAddr, no, blockers...), func(f *Facts) { f.Seen, f.Errno, f.Process = Now, 0, "" })
}

func TestDiagnosesOfBindsThatNobodyHasMade(t *testing.T) {
	nginx := owner.Owner{Process: "nginx", PID: 7, Unit: "nginx.service", Processes: 1}
	curl := owner.Owner{Process: "curl", PID: 8, Processes: 1}
	held := func(by owner.Owner) func(*Blocker) { return func(b *Blocker) { b.Holder, b.Held = by, true } }
	listen := on(sock.StateListen, "0.0.0.0", 1, no)
	open := connected(sock.StateEstablished, "127.0.0.1:5000", no)
	leaked := connected(sock.StateCloseWait, "127.0.0.1:5000", no).with(held(nginx))
	restart := func(reuseAddr bindrule.Flag, blockers ...Blocker) Facts {
		return but(wouldFail(reuseAddr, blockers...), func(f *Facts) { f.Call, f.By, f.Running, f.Host.Listened = Restart, nginx, true, true })
	}
	doubtful := func(f Facts, b ...Blocker) Facts { return but(f, func(f *Facts) { f.Doubtful = b }) }
	for _, tt := range []struct {
		name   string
		facts  Facts
		code   codes.Code
		end    End
		why    string
		remedy string // its beginning
	}{
		{"TIME_WAIT", wouldFail(no, waiting(5, no, 42_300*time.Millisecond)), codes.TimeWait, End{EndTime, 42_300 * time.Millisecond},
			"5 sockets in TIME_WAIT without SO_REUSEADDR, for 43 s", "Set SO_REUSEADDR before bind(). This time also wait 43 s"},
		{"TIME_WAIT with flags that nobody sees", wouldFail(no, waiting(5, unknown, time.Second)), codes.TimeWait, End{EndTime, time.Second},
			"5 sockets in TIME_WAIT, for 1 s", "Wait 1 s. SO_REUSEADDR on the new socket helps at once if they were opened with it"},
		{"others may block for longer", doubtful(wouldFail(yes, waiting(1, no, time.Second)), waiting(1, unknown, 2*time.Second)), codes.TimeWaitOldFlags, End{},
			"1 socket in TIME_WAIT without SO_REUSEADDR, for 2 s at most", "Wait 1 s"},
		{"not all sockets were seen", but(wouldFail(yes, waiting(1, no, time.Second)), func(f *Facts) { f.Partial = true }), codes.TimeWaitOldFlags, End{},
			"1 socket in TIME_WAIT without SO_REUSEADDR, for how long is not known", "Wait 1 s"},
		{"it depends on flags", doubtful(wouldFail(yes), waiting(3, unknown, time.Second)), codes.Unknown, End{},
			"it depends on flags of 3 sockets in TIME_WAIT, gone in 1 s", "Wait 1 s"},
		{"nothing is known", but(wouldFail(yes), func(f *Facts) { f.Partial = true }), codes.Unknown, End{}, "not all sockets were seen", ""},
		{"a healthy server", wouldFail(no, listen.with(held(nginx))), codes.OtherListener, UntilClosed(),
			"1 socket in LISTEN without SO_REUSEADDR, until closed", "To run another server here, stop nginx (pid 7, nginx.service) first, or use another port or address."},
		{"a listener that the exporter may not look at", wouldFail(no, listen.with(held(owner.Owner{Absence: owner.Hidden}))), codes.OtherListener, UntilClosed(),
			"1 socket in LISTEN without SO_REUSEADDR, until closed", "Not all processes could be looked into; `ss -Htlnp 'sport = :4840'`, as root on the host, may name it."},
		{"a restart of a server with open connections", restart(no, open.with(held(nginx)), open.with(held(nginx))), codes.AcceptedConnection, UntilClosed(),
			"2 connections of the server are open (2 ESTABLISHED, peer 127.0.0.1:5000), and those that it closes first stay in TIME_WAIT for 60 s; they were opened without SO_REUSEADDR, and the new socket lacks it too",
			"Set SO_REUSEADDR before bind(). For the restart that brings the flag: stop the server, wait 60 s"},
		{"another process has the server's connection", restart(yes, open.with(held(curl))), codes.AcceptedConnection, UntilClosed(),
			"1 connection of the server is open (1 ESTABLISHED, peer 127.0.0.1:5000), held by curl (pid 8), and those that it closes first stay in TIME_WAIT for 60 s; the new socket sets SO_REUSEADDR, but it was opened without SO_REUSEADDR",
			"Stop the server, wait 60 s"},
		{"a server that does not close what its clients have closed", doubtful(restart(no), leaked, leaked, leaked), codes.AcceptedConnection, End{Kind: EndKernel},
			"3 sockets in CLOSE_WAIT without SO_REUSEADDR end with the server, at once if the peers answer, else when the kernel gives up",
			"Find out why the server does not close connections that the peer has closed: it leaks descriptors. When the server ends, the kernel closes them"},
		{"and that has closed others first", doubtful(restart(no, waiting(5, no, 42*time.Second)), leaked), codes.TimeWait, End{EndTime, 42 * time.Second},
			"5 sockets in TIME_WAIT without SO_REUSEADDR, for 42 s", "Set SO_REUSEADDR before bind(). This time also wait 42 s"},
		{"one of them is not closed yet", restart(no, leaked, open.with(held(nginx))), codes.AcceptedConnection, UntilClosed(),
			"2 connections of the server are open (1 CLOSE_WAIT, 1 ESTABLISHED, peer 127.0.0.1:5000), and those that it closes first stay in TIME_WAIT for 60 s; they were opened without SO_REUSEADDR, and the new socket lacks it too",
			"Set SO_REUSEADDR before bind(). For the restart that brings the flag: stop the server, wait 60 s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Of(&tt.facts)
			if d.Code != tt.code || d.End != tt.end || d.Why != tt.why {
				t.Errorf("got  %s %v %s\nwant %s %v %s", d.Code, d.End, d.Why, tt.code, tt.end, tt.why)
			}
			if !strings.HasPrefix(d.Remedy, tt.remedy) || (d.Remedy == "") != (tt.remedy == "") {
				t.Errorf("remedy %q, want %q", d.Remedy, tt.remedy)
			}
		})
	}
}

// A connection on a port where nothing listens may be a client's: nobody has seen who opened it.
func TestNobodyIsAdvisedToEndAClient(t *testing.T) {
	curl := owner.Owner{Process: "curl", PID: 8, Processes: 1}
	f := wouldFail(no, connected(sock.StateEstablished, "127.0.0.1:5000", no).with(func(b *Blocker) { b.Holder = curl }))
	d := Of(&f)
	if want := "1 connection on the port is open (1 ESTABLISHED, peer 127.0.0.1:5000), held by curl (pid 8)"; !strings.HasPrefix(d.Sentence, want) {
		t.Errorf("sentence %q, want %q", d.Sentence, want)
	}
	if strings.Contains(d.Remedy, "curl") {
		t.Errorf("remedy %q names the client", d.Remedy)
	}
}

func TestSplitPortsNameWhoseEachHalfIs(t *testing.T) {
	nginx, caddy := owner.Owner{Process: "nginx", PID: 7, Processes: 1}, owner.Owner{Process: "caddy", PID: 8, Processes: 1}
	for _, tt := range []struct {
		halves Halves
		want   string
	}{
		{Halves{IPv4: []owner.Owner{nginx}, IPv6: []owner.Owner{caddy, nginx}}, "IPv4 is served by nginx (pid 7), and IPv6 by caddy (pid 8) and nginx (pid 7)"},
		{Halves{IPv6: []owner.Owner{caddy}, Missing: sock.FamilyIPv4, Failed: true}, "only IPv6 is served, by caddy (pid 8); a bind for IPv4 failed, and nothing listens on it"},
		{Halves{IPv4: []owner.Owner{nginx}, Missing: sock.FamilyIPv6, Failed: true}, "only IPv4 is served, by nginx (pid 7); a bind for IPv6 failed, and nothing listens on it"},
		{Halves{Missing: sock.FamilyIPv4}, "only IPv6 is served: the listener on :: has IPV6_V6ONLY. If IPv4 should be served, that half of the server is missing"},
	} {
		if d := OfSplit(&tt.halves); d.Code != codes.SplitPort || d.Sentence != tt.want || d.Remedy == "" {
			t.Errorf("got  %s %s\nwant %s", d.Code, d.Sentence, tt.want)
		}
	}
}

func TestAFreeIPv6HalfIsNoCause(t *testing.T) {
	f := wouldFail(no, waiting(5, no, time.Second))
	f.HalfFree = true
	if d := Of(&f); strings.Contains(d.Sentence, "IPv6") || !strings.HasSuffix(d.Remedy, "may start with that half only.") {
		t.Errorf("got %s. %s", d.Sentence, d.Remedy)
	}
}
