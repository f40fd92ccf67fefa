package unixreport

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/diagnosis/unixdiag"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/unixfailures"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixstate"
	"sockstate_exporter/internal/unixwatch"
	"sockstate_exporter/netlinkdiag"
)

// hostile is a name that a user can choose.
const hostile = "/tmp/a\n\x1b[31m\xff\u202e<b>\"$(rm)'"

func listener(file uint32) unixsock.Socket {
	return unixsock.Socket{
		UnixSocket: netlinkdiag.UnixSocket{
			Type: netlinkdiag.UnixStream, State: netlinkdiag.StateListen, Inode: file, Name: hostile, RQueue: 2, WQueue: 5,
			File: netlinkdiag.UnixFile{Inode: file}, HasFile: true,
		},
		Owner: owner.Owner{Process: hostile, PID: 7, Unit: "a.service"},
		There: unixsock.File{Kind: unixsock.FileAbsent},
	}
}

// Whatever names users choose, the texts are lines of printable ASCII, and the JSON is UTF-8 without
// control characters.
func TestNamesOfUsersAreShownSafely(t *testing.T) {
	name := unixsock.Name{Path: hostile}
	file := unixsock.File{Kind: unixsock.FileSocket, Inode: 1}
	s := snapshot.Snapshot{Unix: unixstate.State{
		Failures: &unixfailures.State{Recent: []unixfailures.Failure{{
			Name: name, NameKnown: true, Process: hostile, PID: 7, Errno: unix.ENOENT, Count: 1, Last: time.Now(),
			Diagnosis: unixdiag.OfCall(name, true, unix.ENOENT),
		}}},
		Watch: &unixwatch.State{},
	}}
	for _, seen := range []unixsock.Seen{
		{Name: name, File: file},
		{Name: name, File: file, Sockets: []unixsock.Socket{listener(1), listener(2)}},
		{Name: name, File: unixsock.File{Kind: unixsock.DirMissing}},
		{Name: unixsock.Name{Path: hostile, Abstract: true}},
	} {
		s.Unix.Watch.Paths = append(s.Unix.Watch.Paths, unixwatch.Path{Verdict: unixsock.Judge(seen)})
	}
	rows, places := Failures(&s, time.Now(), func(*snapshot.Namespace) bool { return true }), Watched(&s, true)
	if len(rows) != 1 || len(places) != 4 || !places[0].Bad() || places[3].Bad() {
		t.Fatalf("got %d rows and %+v", len(rows), places)
	}
	lines := []string{Explain(&s.Unix.Failures.Recent[0]), rows[0].Where(), rows[0].NetnsText(), rows[0].Owner.Who()}
	for i := range places {
		lines = append(append(append(lines, places[i].Line(), places[i].QueueText()), places[i].Details()...), places[i].Advice()...)
	}
	for _, line := range lines {
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("not a line of printable ASCII: %q", line)
		}
	}
	for _, v := range []any{rows, places} {
		out, err := json.Marshal(v)
		if err != nil || !utf8.Valid(out) || strings.Contains(string(out), `\u001b`) || strings.Contains(string(out), "\u202e") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

func TestPlaceOfTwoListeners(t *testing.T) {
	v := unixsock.Judge(unixsock.Seen{
		Name: unixsock.Name{Path: "/run/app.sock"}, File: unixsock.File{Kind: unixsock.FileSocket, Inode: 1},
		Sockets: []unixsock.Socket{listener(2), listener(1)},
	})
	p := New(&v)
	if p.Outcome != report.Blocked || p.State != InUse || p.QueueText() != "2 of 5" || len(p.Sockets) != 2 ||
		!*p.Sockets[0].Reached || *p.Sockets[1].Reached || p.Sockets[0].Inode != 1 {
		t.Errorf("got %+v", p)
	}
}
