package failures

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/failures/callers"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// taken are events of binds to a port that is taken: of another address each time.
func taken(port uint16, n int) []bindtrace.Event {
	out := make([]bindtrace.Event, n)
	for i := range out {
		out[i] = bindtrace.Event{
			Time: time.Unix(1_700_000_000, int64(i)), Netns: ownNetns, Errno: unix.EADDRINUSE,
			Family: sock.FamilyIPv4, Protocol: sock.TCP, PortKnown: true, Port: port,
			Addr: netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}),
		}
	}
	return out
}

// A followed Recorder gets events by hand.
type followed struct {
	*Recorder
	kernel   *fakeKernel
	reported []Conflict
	tracer   *fakeTracer
	done     chan error
}

// follow lets a Recorder follow events, inside a synctest bubble. It watches port 80, and asks a
// fake kernel.
func follow(t *testing.T, sockets ...netlinkdiag.Socket) *followed {
	t.Helper()
	return followWith(t, nil, nil, sockets...)
}

func followWith(t *testing.T, flags probe.FlagReader, owners callers.Finder, sockets ...netlinkdiag.Socket) *followed {
	t.Helper()
	f := &followed{kernel: newFakeKernel(sockets...), tracer: newFakeTracer(), done: make(chan error, 1)}
	f.Recorder = New(Config{
		Tracer:     f.tracer,
		Host:       &probe.Host{Config: probe.Config{Dial: f.kernel.dial, Flags: flags}, OwnInode: ownNetns},
		Owners:     owners,
		OnConflict: func(c Conflict) { f.reported = append(f.reported, c) },
	})
	f.watch(map[uint32][]watch.Set{ownNetns: {watching(t, one(80))}}, nil)
	go func() { f.done <- f.Follow() }()
	return f
}

func (f *followed) send(events ...bindtrace.Event) {
	for i := range events {
		f.tracer.events <- events[i]
	}
}

// end waits until everything is settled and reported, and ends it. The bubble fails when anything
// stays.
func (f *followed) end(t *testing.T) {
	t.Helper()
	time.Sleep(time.Minute)
	close(f.tracer.events)
	if err := <-f.done; err != nil {
		t.Errorf("following ended with %v, want no error", err)
	}
	if n := f.kernel.Live(); n != 0 {
		t.Errorf("%d connections stay open", n)
	}
}

func (f *followed) counted() map[codes.Code]uint64 {
	return byDiagnosis(f.conflicts.all(), func(ConflictCount) bool { return true })
}

// byDiagnosis sums the counts of some.
func byDiagnosis(counts []ConflictCount, of func(ConflictCount) bool) map[codes.Code]uint64 {
	out := make(map[codes.Code]uint64)
	for _, c := range counts {
		if of(c) {
			out[c.Diagnosis] += c.N
		}
	}
	return out
}

func TestManyFailuresShareFewLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, diagtest.Listening("0.0.0.0:80", 1))
		const n = 100_000
		event := taken(80, 1)
		start := time.Now()
		for range n {
			f.send(event...)
		}
		took := time.Since(start)
		f.end(t)

		if got, want := f.counted(), map[codes.Code]uint64{codes.OtherListener: n}; !equalCounts(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		failures := 0
		for _, c := range f.reported {
			failures += int(c.Failures)
		}
		if failures != n || len(f.reported) != 2 {
			t.Errorf("reported %d failures in %d lines, want %d in 2: at once, and half a minute later", failures, len(f.reported), n)
		}
		// A dump of listeners each, and one more for each line.
		looks, others := f.kernel.dumps()
		looks -= len(f.reported)
		if others != 0 {
			t.Errorf("%d dumps of all sockets, though the listener explains everything", others)
		}
		if most := int(took/minLookGap) + 2; looks > most || looks < 2 {
			t.Errorf("%d looks in %v, want at most %d and no less than 2", looks, took, most)
		}
	})
}

func equalCounts(a, b map[codes.Code]uint64) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// Any user may fail to bind to every port, at every loopback address.
func TestWhatWaitsForALookIsBounded(t *testing.T) {
	c := newConflicts(ownNetns)
	const users = 2 * userShare
	var total uint64
	add := func(port uint16, watched bool, n int) {
		key := Key{Netns: ownNetns, Port: port}
		if !watched {
			key.Port, key.OtherPort = 0, true
		}
		for _, e := range taken(port, n) {
			for e.User = range users {
				c.add(key, &e, owner.Owner{})
				total++
			}
		}
	}
	// Many binds of a port wait as well: on some ports there are more than have room.
	binds := func(port int) int {
		if port%64 == 0 {
			return maxWaitingBinds + 4
		}
		return 2
	}
	for port := range 1 << 13 {
		add(uint16(port), false, binds(port))
	}
	if len(c.waiting) != maxWaitingOthers {
		t.Errorf("%d ports wait that are not watched, want %d", len(c.waiting), maxWaitingOthers)
	}
	for port := range 1 << 13 {
		add(uint16(port), true, binds(port)) // in a set of that many
	}
	if want := maxWaitingOthers + maxWaitingPorts; len(c.waiting) != want {
		t.Errorf("%d ports wait, want %d", len(c.waiting), want)
	}
	var sum uint64
	notices := newNotices()
	taken, more := c.take()
	if !more {
		t.Error("nobody learns that more ports fail")
	}
	for number, port := range taken {
		if len(port.binds) > maxWaitingBinds {
			t.Errorf("%d binds of a port wait, want at most %d", len(port.binds), maxWaitingBinds)
		}
		for by, n := range port.shares {
			if n > maxWaitingBinds/userShare {
				t.Errorf("%d binds of user %d wait, want at most %d", n, by.uid, maxWaitingBinds/userShare)
			}
		}
		conflict := c.settle(number, port, new(facts.Observation))
		notices.add(time.Time{}, conflict, port)
	}
	for _, count := range c.all() {
		sum += count.N
	}
	if sum != total {
		t.Errorf("%d failures are counted, want %d", sum, total)
	}
	c.retire(func(key Key) Key { return Key{Netns: key.Netns, OtherPort: true} }) // no port is watched any more
	if len(c.counts) > 2 {
		t.Errorf("%d keys, want at most 2: the cause is known or not", len(c.counts))
	}
	if got := len(notices.ports); got > maxNoticePorts+maxNoticeOthers {
		t.Errorf("%d ports have notices, want at most %d", got, maxNoticePorts+maxNoticeOthers)
	}
	if len(c.waiting) != 0 || c.others != 0 {
		t.Errorf("%d ports, %d others still wait", len(c.waiting), c.others)
	}
}

// One user fails on many watched ports, and in many ways on the port of a server. The server's
// failure has its diagnosis all the same.
func TestAnotherUsersFloodLeavesTheDiagnosisOfAServersFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, diagtest.Listening("0.0.0.0:80", 1))
		f.watch(map[uint32][]watch.Set{ownNetns: {watching(t, one(80), sock.PortRange{First: 1000, Last: 1400})}}, nil)
		for port := uint16(1000); port < 1400; port++ {
			hostile := taken(port, 1)[0]
			hostile.User = 65534
			f.send(hostile)
		}
		for _, hostile := range taken(80, 200) {
			hostile.User = 65534
			f.send(hostile)
		}
		server := taken(80, 1)[0]
		server.ReuseAddr, server.Protocol = true, sock.MPTCP
		f.send(server)
		f.end(t)
		got := byDiagnosis(f.conflicts.all(), func(c ConflictCount) bool { return c.Port == 80 && c.Protocol == sock.MPTCP })
		if want := map[codes.Code]uint64{codes.OtherListener: 1}; !equalCounts(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
}

// Whatever users do, the keys of ports that are not watched any more are given back, and no sum falls.
func TestConflictKeysAreGivenBack(t *testing.T) {
	r := newRecorder()
	web := Key{Netns: ownNetns, Port: 9000, Family: sock.FamilyIPv4, Protocol: sock.TCP}
	var last uint64
	for round := range uint16(30) {
		first := 10_000 + 500*round
		flood := watching(t, one(9000), sock.PortRange{First: first, Last: first + 499})
		r.watch(map[uint32][]watch.Set{ownNetns: {flood}}, nil)
		for _, p := range flood.Ports {
			for _, code := range codes.Codes() {
				key := Key{Netns: ownNetns, Port: p.Number, Family: sock.FamilyIPv4, Protocol: sock.TCP}
				r.conflicts.settled(ConflictKey{key, code}, 1)
			}
		}
		var sum, ofWeb uint64
		for _, c := range r.conflicts.all() {
			sum += c.N
			if c.Key == web {
				ofWeb += c.N
			}
		}
		codes := uint64(len(codes.Codes()))
		if want := last + 501*codes; sum != want || ofWeb != codes*uint64(round+1) {
			t.Fatalf("%d failures, %d of the server, want %d and %d", sum, ofWeb, want, codes*uint64(round+1))
		}
		last = sum
		if n := len(r.conflicts.counts); n > 502*int(codes) {
			t.Fatalf("%d keys, want those of the watched ports and of others", n)
		}
	}
}

// Others cannot take the place of watched ports.
func TestWatchedPortIsLookedAtDuringAFloodOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, diagtest.Listening("0.0.0.0:80", 1))
		for port := uint16(1000); port < 2000; port++ {
			other := taken(port, 1)[0]
			other.User = uint32(port % userShare)
			f.send(other)
		}
		f.send(taken(80, 1)...)
		f.end(t)
		watched := byDiagnosis(f.conflicts.all(), func(c ConflictCount) bool { return c.Port == 80 })
		if want := map[codes.Code]uint64{codes.OtherListener: 1}; !equalCounts(watched, want) {
			t.Errorf("counted %v, want %v", watched, want)
		}
		others := 0
		for _, c := range f.reported {
			if c.Port != 80 {
				others++
			}
		}
		if others != maxNoticeOthers {
			t.Errorf("reported %d other ports, want %d", others, maxNoticeOthers)
		}
	})
}

// One user fails on more ports than may have notices, again and again. Another user's conflict is
// reported all the same.
func TestUserWhoFailsOnManyPortsLeavesNoticesToOthers(t *testing.T) {
	for _, tt := range []struct {
		name    string
		watched []sock.PortRange
		share   int
	}{
		{"watched ports", []sock.PortRange{one(81), {First: 1000, Last: 1099}}, maxNoticePorts / userShare},
		{"other ports", []sock.PortRange{one(80)}, maxNoticeOthers / userShare},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := follow(t)
				f.watch(map[uint32][]watch.Set{ownNetns: {watching(t, tt.watched...)}}, nil)
				for range 3 { // within noticeInterval, so that no port gives its place back
					for port := uint16(1000); port < 1100; port++ {
						hostile := taken(port, 1)[0]
						hostile.User = 1000
						f.send(hostile)
					}
					time.Sleep(time.Second)
				}
				for _, user := range []uint32{1000, 33} { // the server is not the first on its port
					e := taken(81, 1)[0]
					e.User, e.UID = user, user
					f.send(e)
				}
				f.end(t)
				reported, more := make(map[uint16]bool), false
				for _, c := range f.reported {
					reported[c.Port], more = true, more || c.More
				}
				if !more {
					t.Error("no report says that more ports fail")
				}
				if !reported[81] {
					t.Error("the server's conflict is not reported")
				}
				delete(reported, 81)
				if len(reported) != tt.share {
					t.Errorf("reported %d ports of the user who fails on many, want %d", len(reported), tt.share)
				}
			})
		})
	}
}

func TestEventsThatALookCannotExplain(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*bindtrace.Event)
		want   codes.Code
	}{
		{"another namespace", func(e *bindtrace.Event) { e.Netns++ }, codes.Unknown},
		{"sctp", func(e *bindtrace.Event) { e.Protocol = sock.SCTP }, codes.Unknown},
		{"port 0", func(e *bindtrace.Event) { e.Port = 0 }, codes.PortsExhausted},
		{"port 0 of its own range", func(e *bindtrace.Event) { e.Port, e.OwnRange = 0, true }, codes.PortsExhaustedForSocket},
		{"a port nobody read", func(e *bindtrace.Event) { e.PortKnown = false }, codes.Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := follow(t, diagtest.Listening("0.0.0.0:80", 1))
				event := taken(80, 1)[0]
				tt.change(&event)
				f.send(event)
				f.end(t)
				if got, want := f.counted(), map[codes.Code]uint64{tt.want: 1}; !equalCounts(got, want) {
					t.Errorf("counted %v, want %v", got, want)
				}
				// The log has those of port 0.
				if reported := tt.want == codes.PortsExhausted || tt.want == codes.PortsExhaustedForSocket; reported != (len(f.reported) == 1) {
					t.Errorf("reported %+v, want %t", f.reported, reported)
				}
				// Who has the local ports is asked where there may be any.
				if want := map[bool]int{true: 1}[tt.want == codes.PortsExhausted]; len(f.kernel.Requests()) != want {
					t.Errorf("%d dumps, want %d", len(f.kernel.Requests()), want)
				}
			})
		})
	}
}

func TestOtherErrorsAreNoConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, diagtest.Listening("0.0.0.0:80", 1))
		denied, listen := taken(80, 1)[0], taken(80, 1)[0]
		denied.Errno, listen.Op = unix.EACCES, bindtrace.OpListen
		f.send(denied, listen)
		f.end(t)
		if got := f.counted(); len(got) != 0 {
			t.Errorf("counted %v, want nothing", got)
		}
	})
}

func TestFailedLookHasUnknownDiagnosis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		f.kernel.script(func(diagtest.Request) []diagtest.Datagram { return []diagtest.Datagram{{Err: unix.ENOBUFS}} })
		f.send(taken(80, 2)...)
		f.end(t)
		if got, want := f.counted(), map[codes.Code]uint64{codes.Unknown: 2}; !equalCounts(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		for _, c := range f.reported {
			if !strings.Contains(c.Diagnosis.Sentence, "no buffer space") {
				t.Errorf("reported %+v, want the error of the look", c.Diagnosis)
			}
		}
		if len(f.reported) != 1 {
			t.Errorf("reported %d conflicts, want 1", len(f.reported))
		}
	})
}

func TestRestartedDumpOfALookCountsNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		asked := 0
		gone := diagtest.InState(netlinkdiag.StateClose, "0.0.0.0:80", "0.0.0.0:0")
		stays := []netlinkdiag.Socket{diagtest.TimeWait("127.0.0.0:80", "127.0.0.1:4000", time.Second)}
		f.kernel.script(func(req diagtest.Request) []diagtest.Datagram {
			if asked++; asked == 1 {
				return []diagtest.Datagram{
					{Data: diagtest.Socket(req, gone)},
					{Data: diagtest.Socket(req, stays[0])},
					{Data: diagtest.Interrupted(diagtest.Done(req.Sequence, 0))},
				}
			}
			return diagtest.Dump(req, stays)
		})
		f.send(taken(80, 1)...)
		f.end(t)
		if len(f.reported) != 1 || !strings.HasPrefix(f.reported[0].Diagnosis.Sentence, "1 connection is in TIME_WAIT") || f.reported[0].Diagnosis.Code != codes.TimeWait {
			t.Errorf("reported %+v, want one socket in TIME_WAIT", f.reported)
		}
		if asked != 2 {
			t.Errorf("asked %d times, want 2", asked)
		}
	})
}

// The first line comes at once, the next ones with what happened in between.
func TestLinesOfAPortAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, diagtest.Listening("0.0.0.0:80", 1))
		for range 100 {
			f.send(taken(80, 1)...)
			time.Sleep(time.Second)
		}
		f.end(t)
		var failures []uint64
		for _, c := range f.reported {
			failures = append(failures, c.Failures)
		}
		if want := []uint64{1, 30, 30, 30, 9}; !slices.Equal(failures, want) {
			t.Errorf("lines of %v failures, want %v", failures, want)
		}
		if n := len(f.conflicts.waiting); n != 0 {
			t.Errorf("%d ports still wait", n)
		}
	})
}

// unitsByPID says that each process is of a unit of its own.
type unitsByPID struct{}

func (unitsByPID) OfProcess(pid uint32, _ time.Duration, _ uint64) (owner.Owner, bool) {
	return owner.Owner{Unit: fmt.Sprintf("%d.service", pid)}, true
}

func TestConflictHasTheOwnerOfTheFailureThatIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := followWith(t, nil, unitsByPID{}, diagtest.Listening("0.0.0.0:80", 1))
		events := taken(80, 3)
		for i := range events {
			events[i].PID = uint32(100 + i)
		}
		f.send(events...)
		f.end(t)
		if len(f.reported) != 1 || f.reported[0].PID != 102 || f.reported[0].Owner.Unit != "102.service" {
			t.Errorf("reported %+v, want one conflict, of process 102 and its unit", f.reported)
		}
	})
}

func TestTheDiagnosisThatSaysMostIsReported(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	notices := newNotices()
	for _, code := range []codes.Code{codes.Unknown, codes.TimeWait, codes.Unknown} {
		notices.add(now, Conflict{Port: 80, Diagnosis: diagnosis.Diagnosis{Code: code}, Failures: 2}, &waitingPort{who: waitingFor{watched: true}})
	}
	if early := notices.due(now); len(early) != 0 {
		t.Errorf("reported %+v too early", early)
	}
	if wait := notices.wait(now); wait != noticeDelay {
		t.Errorf("wait for %v, want %v", wait, noticeDelay)
	}
	now = now.Add(noticeDelay)
	if due := notices.due(now); len(due) != 1 || due[0].Diagnosis.Code != codes.TimeWait || due[0].Failures != 6 {
		t.Errorf("reported %+v, want time_wait of 6 failures", due)
	}
	if due := notices.due(now.Add(noticeInterval)); len(due) != 0 || len(notices.ports) != 0 {
		t.Errorf("reported %+v and kept %d ports, want nothing", due, len(notices.ports))
	}
}

// flagsWithout is a reader that fails, or misses what is on ports.
type flagsWithout struct {
	err    error
	missed map[uint16]uint64
}

func (*flagsWithout) Mode() sockflags.Mode { return sockflags.ModeBPF }

func (f *flagsWithout) Read(context.Context, sockflags.Request) (*sockflags.Result, error) {
	if f.err != nil {
		return nil, f.err
	}
	return &sockflags.Result{Missed: f.missed}, nil
}

// A bound socket whose flag is not known blocked the bind only where nothing else can have.
func TestNothingIsConcludedFromFlagsThatAreMissing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags flagsWithout
		want  codes.Code
	}{
		{"all there", flagsWithout{}, codes.BoundOnly},
		{"some missed", flagsWithout{missed: map[uint16]uint64{80: 1}}, codes.Unknown},
		{"some missed on another port", flagsWithout{missed: map[uint16]uint64{81: 1}}, codes.BoundOnly},
		{"failed", flagsWithout{err: unix.EPERM}, codes.Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := followWith(t, &tt.flags, nil, diagtest.InState(netlinkdiag.StateClose, "127.0.0.0:80", "0.0.0.0:0"))
				e := taken(80, 1)[0]
				e.ReuseAddr = true
				f.send(e)
				f.end(t)
				if got, want := f.counted(), map[codes.Code]uint64{tt.want: 1}; !equalCounts(got, want) {
					t.Errorf("counted %v, want %v", got, want)
				}
				if len(f.reported) != 1 {
					t.Errorf("reported %+v, want one", f.reported)
				}
			})
		})
	}
}

// The gap grows with the time that looks take.
func TestSlowLooksAreFurtherApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		const slow = time.Second
		var looks []time.Time
		f.kernel.script(func(req diagtest.Request) []diagtest.Datagram {
			looks = append(looks, time.Now())
			time.Sleep(slow)
			return diagtest.Dump(req, nil)
		})
		for range 300 {
			f.send(taken(80, 1)...)
			time.Sleep(100 * time.Millisecond)
		}
		f.end(t)
		if len(looks) != 7 {
			t.Errorf("%d looks in half a minute, want one in five seconds", len(looks))
		}
	})
}
