package failures

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A port counts by number in the namespaces that watch it, and in those that are not watched.
func TestPortHasItsNumberWhereItIsWatched(t *testing.T) {
	const blue = foreignNetns + 1
	r := newRecorder()
	r.watch(map[uint32][]watch.Set{ownNetns: {watching(t, one(80))}, blue: {watching(t, one(81))}}, nil)
	for _, netns := range []uint32{ownNetns, blue, foreignNetns} {
		for _, port := range []uint16{80, 81, 82} {
			e := failed(port, "", 0)
			e.Netns = netns
			r.add(&e)
		}
	}
	var got []Key
	for _, failure := range r.conflicts.latest.all() {
		got = append(got, failure.Key)
	}
	on := func(netns uint32, port uint16) Key {
		return Key{Netns: netns, Port: port, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	}
	off := func(netns uint32) Key {
		return Key{Netns: netns, OtherPort: true, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	}
	want := []Key{on(ownNetns, 80), off(ownNetns), on(blue, 81), off(blue), on(0, 80), on(0, 81), off(0)}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestLatestFailures(t *testing.T) {
	with := func(e bindtrace.Event, change func(*bindtrace.Event)) bindtrace.Event {
		change(&e)
		return e
	}
	failure := func(key Key, process string, after time.Duration) Failure {
		return Failure{Key: key, Time: time.Unix(1_700_000_000, 0).Add(after), Errno: unix.EADDRINUSE, Process: process}
	}
	tcp80 := Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	v6, udp, foreign, zero, other := tcp80, tcp80, tcp80, tcp80, tcp80
	v6.Family = sock.FamilyIPv6
	udp.Protocol = sock.UDP
	foreign.Netns = 0
	zero.Port = 0
	other.Port, other.OtherPort = 0, true

	for _, tt := range []struct {
		name   string
		events []bindtrace.Event
		want   []Failure
	}{
		{"none", nil, []Failure{}},
		{"the latest of a key", []bindtrace.Event{failed(80, "a", 1), failed(80, "b", 3), failed(80, "c", 5)},
			[]Failure{failure(tcp80, "c", 5)}},
		{"each key apart", []bindtrace.Event{
			with(failed(80, "foreign", 1), func(e *bindtrace.Event) { e.Netns = foreignNetns }),
			failed(8080, "other", 2),
			with(failed(80, "udp", 3), func(e *bindtrace.Event) { e.Protocol = sock.UDP }),
			with(failed(80, "v6", 4), func(e *bindtrace.Event) { e.Family = sock.FamilyIPv6 }),
			failed(0, "zero", 5),
			failed(80, "tcp", 6),
		}, []Failure{
			as(failure(zero, "zero", 5), codes.PortsExhausted), failure(tcp80, "tcp", 6), failure(v6, "v6", 4),
			failure(udp, "udp", 3), failure(other, "other", 2), as(failure(foreign, "foreign", 1), codes.Unknown),
		}},
		{"ports that are not watched share one", []bindtrace.Event{failed(8080, "a", 1), failed(8081, "b", 2)},
			[]Failure{failure(other, "b", 2)}},
		{"a port that could not be read is not 0",
			[]bindtrace.Event{with(failed(0, "a", 1), func(e *bindtrace.Event) { e.PortKnown = false })},
			[]Failure{as(failure(other, "a", 1), codes.Unknown)}},
		{"port 0 of a socket with a range of its own counts as other ports",
			[]bindtrace.Event{with(failed(0, "a", 1), func(e *bindtrace.Event) { e.OwnRange = true })},
			[]Failure{as(failure(other, "a", 1), codes.PortsExhaustedForSocket)}},
		{"listen is no bind",
			[]bindtrace.Event{with(failed(80, "a", 1), func(e *bindtrace.Event) { e.Op = bindtrace.OpListen })}, []Failure{}},
		{"an error that needs no look", []bindtrace.Event{with(failed(80, "a", 1), func(e *bindtrace.Event) { e.Errno, e.ReuseAddr = unix.EPERM, true })},
			[]Failure{{Key: tcp80, Time: failed(80, "", 1).Time, Errno: unix.EPERM, ReuseAddr: true, Process: "a", Diagnosis: codes.DeniedByPolicy}}},
		{"a name of all 16 bytes", []bindtrace.Event{failed(80, "0123456789abcdef", 1)},
			[]Failure{failure(tcp80, "0123456789abcdef", 1)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := recorderOf(t, []sock.PortRange{one(80)}, tt.events...).conflicts.latest.all(); !slices.Equal(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// An ordinary user may ask for every port, in a namespace of their own too.
func TestHostileBindsKeepNoMoreThanWatchedPorts(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{{First: 1000, Last: 1004}})
	families := []sock.Family{sock.FamilyIPv4, sock.FamilyIPv6}
	for port := range 1 << 16 {
		for _, netns := range []uint32{ownNetns, foreignNetns + uint32(port)} {
			e := failed(uint16(port), "hostile", 0)
			e.Netns, e.Errno = netns, unix.Errno(port%4096)
			for _, e.Family = range families {
				for _, e.Protocol = range []sock.Protocol{sock.TCP, sock.UDP} {
					r.add(&e)
				}
			}
		}
	}
	// Five ports, 0 and other, of two namespaces, families and protocols.
	if got, want := len(r.conflicts.latest.all()), (5+2)*2*2*2; got != want {
		t.Errorf("%d failures are kept, want %d", got, want)
	}
}

func TestPortsThatAreNotWatchedAnyMoreAreForgotten(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80), one(443)},
		failed(80, "a", 1), failed(443, "b", 2), failed(0, "c", 3), failed(8080, "d", 4))
	r.watch(map[uint32][]watch.Set{ownNetns: {watching(t, one(443))}}, nil)
	var watched []string
	for _, l := range r.conflicts.latest.all() {
		watched = append(watched, l.Process)
	}
	if want := []string{"c", "b", "d"}; !slices.Equal(watched, want) {
		t.Errorf("kept those of %q, want %q", watched, want)
	}
	again := failed(80, "e", 5)
	r.add(&again)
	if got := r.conflicts.latest.all(); len(got) != 3 || got[2].Process != "e" || !got[2].OtherPort {
		t.Errorf("got %+v, want the new failure under other", got)
	}
}

func TestFollowEndsWithTheEvents(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80)})
	n := 0
	err := r.follow(func(e *bindtrace.Event) error {
		if n++; n > 2 {
			return io.ErrUnexpectedEOF
		}
		*e = failed(80, "x", time.Duration(n))
		return nil
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(r.conflicts.latest.all()) != 1 || n != 3 {
		t.Errorf("ended with %v after %d reads and %d failures, want %v, 3 and 1", err, n, len(r.conflicts.latest.all()), io.ErrUnexpectedEOF)
	}
}

func TestFollowEndsWithoutAnErrorWhenTheTracerIsClosed(t *testing.T) {
	tracer := newFakeTracer()
	r := New(Config{Tracer: tracer, Host: &probe.Host{OwnInode: ownNetns}})
	done := make(chan error, 1)
	go func() { done <- r.Follow() }()
	tracer.events <- failed(80, "x", 0)
	close(tracer.events)
	if err := <-done; err != nil || len(r.conflicts.latest.all()) != 1 {
		t.Errorf("ended with %v and %d failures, want no error and 1", err, len(r.conflicts.latest.all()))
	}
}

func TestUpdateTellsTheTracerWhatIsWatched(t *testing.T) {
	const blue = foreignNetns + 1
	sets := map[uint32][]watch.Set{ownNetns: {watching(t, one(80)), watching(t, one(53))}, blue: {watching(t, one(80), one(81))}}
	others := []netns.ID{{Inode: blue, Cookie: 1}}
	tracer := newFakeTracer()
	tracer.counts = tracerCounts(map[uint32]uint64{blue: 7})
	r := New(Config{Tracer: tracer, Host: &probe.Host{OwnInode: ownNetns, Others: new(netns.Discoverer)}})
	e := failed(80, "x", 0)
	binds, err := r.Update(sets, others)
	r.add(&e)
	if err == nil {
		binds, err = r.Update(sets, others)
	}
	if err != nil {
		t.Fatal(err)
	}
	// Those of the own namespace first: there may be no room for all.
	if want := []bindtrace.Port{
		{Netns: ownNetns, Number: 53}, {Netns: ownNetns, Number: 80}, {Netns: blue, Number: 80}, {Netns: blue, Number: 81},
		{Number: 53}, {Number: 80}, {Number: 81},
	}; !slices.Equal(tracer.watched, want) {
		t.Errorf("watched %v, want %v", tracer.watched, want)
	}
	if want := []uint32{ownNetns, blue}; !slices.Equal(tracer.namespaces, want) || tracer.watches != 2 {
		t.Errorf("namespaces %v, set %d times, want %v, and 2 times", tracer.namespaces, tracer.watches, want)
	}
	if !slices.Equal(binds.Counts, tracer.counts) || !binds.Connects || binds.Stats.Lost != 3 ||
		len(binds.Latest) != 1 || binds.Latest[0].Port != 80 || len(binds.Recent) != 1 {
		t.Errorf("got %+v", binds)
	}

	// Another namespace with the number of one that is gone: the tracer has to forget it first.
	others = []netns.ID{{Inode: blue, Cookie: 2}}
	var told [][]uint32
	tracer.onWatch = func(namespaces []uint32) {
		told = append(told, namespaces)
		// In namespaces that are not watched, port 81 keeps its count: both of these watch it.
		if !slices.Contains(tracer.watched, bindtrace.Port{Number: 81}) {
			t.Errorf("the tracer was told to watch %v, want port 81 of others among them", tracer.watched)
		}
	}
	if _, err := r.Update(sets, others); err != nil {
		t.Fatal(err)
	}
	if want := [][]uint32{{ownNetns}, {ownNetns, blue}}; !slices.EqualFunc(told, want, slices.Equal[[]uint32]) {
		t.Errorf("the tracer was told %v, want %v", told, want)
	}
}

func TestUpdateReturnsTheErrorOfTheTracer(t *testing.T) {
	for _, call := range []string{"SetWatch", "Counts", "Stats"} {
		t.Run(call, func(t *testing.T) {
			tracer := newFakeTracer()
			tracer.refused = call
			r := New(Config{Tracer: tracer, Host: &probe.Host{OwnInode: ownNetns, Others: new(netns.Discoverer)}})
			if _, err := r.Update(nil, nil); !errors.Is(err, errRefused) {
				t.Errorf("error %v, want %v", err, errRefused)
			}
		})
	}
}

// Events come from the tracer's reader while snapshots are taken.
func TestFailuresWhileWatchedPortsChange(t *testing.T) {
	r := recorderOf(t, []sock.PortRange{one(80)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			e := failed(uint16(80+i%2), "x", time.Duration(i))
			r.add(&e)
		}
	}()
	sets := []watch.Set{watching(t, one(80)), watching(t, one(81))}
	for i := range 200 {
		r.watch(map[uint32][]watch.Set{ownNetns: {sets[i%2]}}, nil)
		if n := len(r.conflicts.latest.all()); n > 2 {
			t.Fatalf("%d failures are kept, want 2 at most", n)
		}
	}
	<-done
}
