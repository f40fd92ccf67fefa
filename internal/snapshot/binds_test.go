package snapshot

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
)

const ownNetns, foreignNetns = 4026531840, 4026532999

// failed is an event of a bind() in the exporter's own namespace.
func failed(port uint16, comm string, after time.Duration) bindtrace.Event {
	e := bindtrace.Event{
		Time: time.Unix(1_700_000_000, 0).Add(after), Netns: ownNetns, Errno: unix.EADDRINUSE,
		Protocol: bindtrace.ProtocolTCP, PortKnown: true, Port: port,
	}
	copy(e.Comm[:], comm)
	return e
}

// failuresOf watches ports and notes events.
func failuresOf(t *testing.T, ranges []sock.PortRange, events ...bindtrace.Event) *failures {
	t.Helper()
	f := newFailures(ownNetns, nil)
	f.watch(map[uint32][]ports.Set{ownNetns: {watching(t, ranges...)}}, nil)
	for i := range events {
		f.add(&events[i])
	}
	return f
}

func watching(t testing.TB, ranges ...sock.PortRange) ports.Set {
	t.Helper()
	cfg := ports.Config{MaxPorts: 512}
	for _, r := range ranges {
		cfg.Ports = append(cfg.Ports, ports.Spec{PortRange: r})
	}
	w, err := ports.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w.Update(time.Time{}, nil)
}

func TestPortThatAnyNamespaceWatchesHasItsNumberInAll(t *testing.T) {
	const blue = foreignNetns + 1
	f := newFailures(ownNetns, nil)
	f.watch(map[uint32][]ports.Set{ownNetns: {watching(t, one(80))}, blue: {watching(t, one(81))}}, nil)
	for _, netns := range []uint32{ownNetns, blue, foreignNetns} {
		for _, port := range []uint16{80, 81, 82} {
			e := failed(port, "", 0)
			e.Netns = netns
			f.add(&e)
		}
	}
	var got []FailureKey
	for _, failure := range f.all() {
		got = append(got, failure.FailureKey)
	}
	var want []FailureKey
	for _, netns := range []uint32{ownNetns, blue, 0} {
		for _, port := range []uint16{80, 81} {
			want = append(want, FailureKey{Netns: netns, Port: port, Protocol: bindtrace.ProtocolTCP})
		}
		want = append(want, FailureKey{Netns: netns, OtherPort: true, Protocol: bindtrace.ProtocolTCP})
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func one(port uint16) sock.PortRange { return sock.PortRange{First: port, Last: port} }

func TestLatestFailures(t *testing.T) {
	with := func(e bindtrace.Event, change func(*bindtrace.Event)) bindtrace.Event {
		change(&e)
		return e
	}
	failure := func(key FailureKey, process string, after time.Duration) Failure {
		return Failure{FailureKey: key, Time: time.Unix(1_700_000_000, 0).Add(after), Errno: unix.EADDRINUSE, Process: process}
	}
	tcp80 := FailureKey{Netns: conflictNetns, Port: 80, Protocol: bindtrace.ProtocolTCP}
	v6, udp, foreign, zero, other := tcp80, tcp80, tcp80, tcp80, tcp80
	v6.Family = bindtrace.FamilyIPv6
	udp.Protocol = bindtrace.ProtocolUDP
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
			with(failed(80, "udp", 3), func(e *bindtrace.Event) { e.Protocol = bindtrace.ProtocolUDP }),
			with(failed(80, "v6", 4), func(e *bindtrace.Event) { e.Family = bindtrace.FamilyIPv6 }),
			failed(0, "zero", 5),
			failed(80, "tcp", 6),
		}, []Failure{
			failure(zero, "zero", 5), failure(tcp80, "tcp", 6), failure(v6, "v6", 4), failure(udp, "udp", 3),
			failure(other, "other", 2), failure(foreign, "foreign", 1),
		}},
		{"ports that are not watched share one", []bindtrace.Event{failed(8080, "a", 1), failed(8081, "b", 2)},
			[]Failure{failure(other, "b", 2)}},
		{"a port that could not be read is not 0",
			[]bindtrace.Event{with(failed(0, "a", 1), func(e *bindtrace.Event) { e.PortKnown = false })},
			[]Failure{failure(other, "a", 1)}},
		{"listen is no bind",
			[]bindtrace.Event{with(failed(80, "a", 1), func(e *bindtrace.Event) { e.Op = bindtrace.OpListen })}, []Failure{}},
		{"a name of all 16 bytes", []bindtrace.Event{failed(80, "0123456789abcdef", 1)},
			[]Failure{failure(tcp80, "0123456789abcdef", 1)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := failuresOf(t, []sock.PortRange{one(80)}, tt.events...).all(); !slices.Equal(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// An ordinary user may ask for every port, in a namespace of their own too.
func TestHostileBindsKeepNoMoreThanWatchedPorts(t *testing.T) {
	f := failuresOf(t, []sock.PortRange{{First: 1000, Last: 1004}})
	families := []bindtrace.Family{bindtrace.FamilyIPv4, bindtrace.FamilyIPv6}
	for port := range 1 << 16 {
		for _, netns := range []uint32{ownNetns, foreignNetns + uint32(port)} {
			e := failed(uint16(port), "hostile", 0)
			e.Netns, e.Errno = netns, unix.Errno(port%4096)
			for _, e.Family = range families {
				for _, e.Protocol = range []bindtrace.Protocol{bindtrace.ProtocolTCP, bindtrace.ProtocolUDP} {
					f.add(&e)
				}
			}
		}
	}
	// Five ports, 0 and other, of two namespaces, families and protocols.
	if got, want := len(f.all()), (5+2)*2*2*2; got != want {
		t.Errorf("%d failures are kept, want %d", got, want)
	}
}

func TestPortsThatAreNotWatchedAnyMoreAreForgotten(t *testing.T) {
	f := failuresOf(t, []sock.PortRange{one(80), one(443)},
		failed(80, "a", 1), failed(443, "b", 2), failed(0, "c", 3), failed(8080, "d", 4))
	f.watch(map[uint32][]ports.Set{ownNetns: {watching(t, one(443))}}, nil)
	var watched []string
	for _, l := range f.all() {
		watched = append(watched, l.Process)
	}
	if want := []string{"c", "b", "d"}; !slices.Equal(watched, want) {
		t.Errorf("kept those of %q, want %q", watched, want)
	}
	again := failed(80, "e", 5)
	f.add(&again)
	if got := f.all(); len(got) != 3 || got[2].Process != "e" || !got[2].OtherPort {
		t.Errorf("got %+v, want the new failure under other", got)
	}
}

func TestFollowEndsWithTheEvents(t *testing.T) {
	f := failuresOf(t, []sock.PortRange{one(80)})
	n := 0
	err := f.follow(func(e *bindtrace.Event) error {
		if n++; n > 2 {
			return io.ErrUnexpectedEOF
		}
		*e = failed(80, "x", time.Duration(n))
		return nil
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(f.all()) != 1 || n != 3 {
		t.Errorf("ended with %v after %d reads and %d failures, want %v, 3 and 1", err, n, len(f.all()), io.ErrUnexpectedEOF)
	}
}

func TestFollowBindsWithoutATracerEndsAtOnce(t *testing.T) {
	if err := newTaker(t, newFake().config(), discovering()).FollowBinds(); err != nil {
		t.Error(err)
	}
}

// Events come from the tracer's reader while snapshots are taken.
func TestFailuresWhileWatchedPortsChange(t *testing.T) {
	f := failuresOf(t, []sock.PortRange{one(80)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			e := failed(uint16(80+i%2), "x", time.Duration(i))
			f.add(&e)
		}
	}()
	sets := []ports.Set{watching(t, one(80)), watching(t, one(81))}
	for i := range 200 {
		f.watch(map[uint32][]ports.Set{ownNetns: {sets[i%2]}}, nil)
		if n := len(f.all()); n > 2 {
			t.Fatalf("%d failures are kept, want 2 at most", n)
		}
	}
	<-done
}
