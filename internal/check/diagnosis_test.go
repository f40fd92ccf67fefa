package check

import (
	"fmt"
	"strings"
	"testing"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

func TestFirstLineSaysWhichAddressIsBlocked(t *testing.T) {
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{port}})
	first, p := answers(t, ns, ExitBlocked, "127.0.0.1:4840", "[::1]:4840", "127.0.0.2:4840")
	if want := "4840: blocked on 127.0.0.1 by 1 socket in TIME_WAIT"; !strings.HasPrefix(first, want) {
		t.Errorf("first line %q, want %q", first, want)
	}
	if p.Diagnosis == nil || p.Diagnosis.Code != codes.TimeWait || p.Diagnosis.Until != diagnosis.EndTime || p.Diagnosis.Seconds == nil {
		t.Errorf("diagnosis %+v, want %s", p.Diagnosis, codes.TimeWait)
	}
}

func TestRestartOfAServerWithClientsIsToldInASentence(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	pid := startServer(t, ns, "opcua-server")
	first, p := answers(t, ns, ExitBlocked, "--restart", "4840")
	want := "; a restart would fail: 1 connection of the server is open (1 ESTABLISHED, "
	if !strings.Contains(first, want) || strings.Contains(first, "held by") {
		t.Errorf("first line %q, want %q", first, want)
	}
	d := p.Diagnosis
	if d == nil || d.Code != codes.AcceptedConnection || d.Holder == nil || int(d.Holder.PID) != pid || !strings.Contains(d.Remedy, "stop the server") {
		t.Errorf("diagnosis %+v, want that of the connections of pid %d", d, pid)
	}
	for _, a := range p.Advice {
		if strings.Contains(a, "End ") || strings.Contains(a, "end opcua-server") {
			t.Errorf("advice %q", a)
		}
	}
}

// The server ends its connections in CLOSE_WAIT, if the peers answer.
func TestWhetherARestartBesideCloseWaitWorksIsUnknown(t *testing.T) {
	requireFlags(t)
	ns := kerneltest.New(t)
	ns.Listen(t, at(lo4), kerneltest.Options{}).Peers(t, kerneltest.StateCloseWait, 2, lo4)
	first, p := answers(t, ns, ExitError, "--restart", "4840")
	want := "; whether a restart would work is unknown: 2 sockets in CLOSE_WAIT without SO_REUSEADDR end with the server, at once if the peers answer, else when the kernel gives up"
	if !strings.HasSuffix(first, want) {
		t.Errorf("first line %q, want %q", first, want)
	}
	if d := p.Diagnosis; d == nil || d.Code != codes.AcceptedConnection || d.Until != diagnosis.EndKernel || !strings.Contains(d.Remedy, "leaks descriptors") {
		t.Errorf("diagnosis %+v", d)
	}
}

func TestAllOwnersOfASharedPortAreNamed(t *testing.T) {
	ns := kerneltest.New(t)
	for i := range 4 {
		startServer(t, ns, fmt.Sprintf("shared-%d", i))
	}
	first, p := answers(t, ns, ExitBlocked, "4840")
	l := &p.Listeners[0]
	if len(l.Owners) != 3 || l.LeftOut != 1 || *l.Owner != l.Owners[0] {
		t.Fatalf("owners %+v and %d more", l.Owners, l.LeftOut)
	}
	for _, o := range l.Owners {
		name := o.Process
		if !strings.HasPrefix(name, "shared-") || !strings.Contains(first, name) || !strings.Contains(p.Diagnosis.Sentence, name) {
			t.Errorf("first line %q, sentence %q: want %s in both", first, p.Diagnosis.Sentence, name)
		}
	}
	if want := " and 1 more listen on 127.0.0.1:4840"; !strings.Contains(p.Diagnosis.Sentence, want) {
		t.Errorf("sentence %q, want %q", p.Diagnosis.Sentence, want)
	}
	text := run(t, command(t, ns, "4840")).stdout
	if want := fmt.Sprintf("%s (pid %d) and 1 more\n", l.Owners[2].Process, l.Owners[2].PID); l.Owner.Place() == "" && !strings.Contains(text, want) {
		t.Errorf("text has no %q:\n%s", want, text)
	}
}

func TestHalvesInDifferentHandsAreASplitPort(t *testing.T) {
	ns := kerneltest.New(t)
	startServer(t, ns, "shared") // on 127.0.0.1
	yes := true
	ns.Listen(t, at(any6), kerneltest.Options{V6Only: &yes})
	if _, p := answers(t, ns, ExitBlocked, "4840"); p.Split != nil {
		t.Errorf("split %+v, want none: 127.0.0.1 is no wildcard", p.Split)
	}
	pid := startServer(t, ns, "shared-any")
	_, p := answers(t, ns, ExitBlocked, "4840")
	// The two processes of the test may belong to one unit. Then they count as one server.
	unit := p.Listeners[0].Owner.Place()
	if split := p.Split != nil && p.Split.Code == codes.SplitPort; split != (unit == "") {
		t.Errorf("split %+v, in unit %q", p.Split, unit)
	} else if want := fmt.Sprintf("shared-any (pid %d)", pid); split && !strings.Contains(p.Split.Sentence, want) {
		t.Errorf("split: %s, want %s", p.Split.Sentence, want)
	} else if split && !strings.HasPrefix(p.Advice[0], p.Split.Sentence) {
		t.Errorf("advice begins with %s, want %s", p.Advice[0], p.Split.Sentence)
	}
	_, p = answers(t, kerneltest.New(t), ExitFree, "4840")
	if p.Split != nil || p.Diagnosis != nil {
		t.Errorf("a free port has a diagnosis: %+v, %+v", p.Split, p.Diagnosis)
	}
}
