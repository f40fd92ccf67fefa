package failures

import (
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// The failure that makes a port watched counts under its number, and what was shown does not fall.
func TestFailuresJustBeforeTheWatchOfTheirPort(t *testing.T) {
	tracer := newFakeTracer()
	r := New(Config{Tracer: tracer, Host: &probe.Host{OwnInode: ownNetns}})
	nobody := map[uint32][]watch.Set{ownNetns: nil}
	web := map[uint32][]watch.Set{ownNetns: {watching(t, one(80))}}
	type shown struct{ port, other uint64 }
	update := func(sets map[uint32][]watch.Set, port, other uint64) shown {
		t.Helper()
		key := bindtrace.Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRINUSE}
		off := key
		off.Port, off.OtherPort = 0, true
		tracer.counts = []bindtrace.Count{{Key: key, N: port}, {Key: off, N: other}}
		binds, err := r.Update(sets, nil)
		if err != nil {
			t.Fatal(err)
		}
		var s shown
		for _, c := range binds.Counts {
			switch c.Key {
			case key:
				s.port = c.N
			case off:
				s.other = c.N
			}
		}
		return s
	}
	fail := func(port uint16) {
		e := failed(port, "x", 0)
		r.add(&e)
	}
	for _, step := range []struct {
		what        string
		fails       []uint16
		sets        map[uint32][]watch.Set
		port, other uint64 // as the tracer counts
		want        shown
	}{
		{"old failures", []uint16{80, 81}, nobody, 0, 2, shown{0, 2}},
		{"nothing", nil, nobody, 0, 2, shown{0, 2}},
		{"nothing again", nil, nobody, 0, 2, shown{0, 2}},
		{"a failure, and the watch of its port", []uint16{80, 81}, web, 0, 4, shown{1, 3}},
		{"the next failure", []uint16{80}, web, 1, 4, shown{2, 3}},
		{"the port leaves", nil, nobody, 0, 5, shown{0, 5}},
		{"a failure that was shown with others", []uint16{80}, nobody, 0, 6, shown{0, 6}},
		{"and the watch of its port", nil, web, 0, 6, shown{1, 6}},
		{"another port catches up", []uint16{81}, web, 0, 7, shown{1, 6}},
		{"and goes on", []uint16{81}, web, 0, 8, shown{1, 7}},
	} {
		for _, port := range step.fails {
			fail(port)
		}
		if got := update(step.sets, step.port, step.other); got != step.want {
			t.Errorf("%s: got %+v, want %+v", step.what, got, step.want)
		}
	}
}

func TestDiagnosisOfTheFailureThatMadeAPortWatched(t *testing.T) {
	r := newRecorder()
	off := Key{Netns: ownNetns, OtherPort: true, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	port := &waitingPort{binds: map[waitingBind]*waitingBinds{{key: off, errno: unix.EADDRINUSE}: {n: 1}}}
	r.conflicts.settle(portID{netns: ownNetns, port: 80}, port, new(facts.Observation))
	r.watch(map[uint32][]watch.Set{ownNetns: {watching(t, one(80))}}, nil)
	got := r.conflicts.all()
	if len(got) != 2 || got[0].Port != 80 || got[0].N != 1 || got[0].Diagnosis != codes.Unknown || got[1].N != 0 {
		t.Errorf("got %+v, want one failure of port 80, and none of others", got)
	}
}
