package snapshot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// taken are events of binds to a port that is taken: of another address each time.
func taken(port uint16, n int) []bindtrace.Event {
	out := make([]bindtrace.Event, n)
	for i := range out {
		out[i] = bindtrace.Event{
			Time: time.Unix(1_700_000_000, int64(i)), Netns: conflictNetns, Errno: unix.EADDRINUSE,
			Protocol: bindtrace.ProtocolTCP, PortKnown: true, Port: port,
			Addr: netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}),
		}
	}
	return out
}

const conflictNetns = 4026531840

// A followed Taker is given events by hand.
type followed struct {
	*Taker
	kernel *fake
	told   []Conflict
	events chan bindtrace.Event
	done   chan error
}

// follow lets a Taker of a fake kernel follow events, inside a synctest bubble.
func follow(t *testing.T, watched ports.Config, sockets ...netlinkdiag.Socket) *followed {
	t.Helper()
	return newFollowed(t, watched, nil, sockets...)
}

func newFollowed(t *testing.T, watched ports.Config, flags FlagReader, sockets ...netlinkdiag.Socket) *followed {
	t.Helper()
	f := &followed{kernel: newFake(sockets...), events: make(chan bindtrace.Event), done: make(chan error, 1)}
	cfg := f.kernel.config()
	cfg.OwnNetns, cfg.Flags = conflictNetns, flags
	cfg.OnConflict = func(c Conflict) { f.told = append(f.told, c) }
	f.Taker = openTaker(t, cfg, watched)
	f.host.failures.watch(map[uint32][]ports.Set{conflictNetns: {f.host.own.set}}, nil)
	go func() {
		f.done <- f.follow(func(e *bindtrace.Event) error {
			next, ok := <-f.events
			if !ok {
				return os.ErrClosed
			}
			*e = next
			return nil
		})
	}()
	return f
}

func (f *followed) send(events ...bindtrace.Event) {
	for i := range events {
		f.events <- events[i]
	}
}

// end waits until all is settled and told, and ends it. The bubble fails when anything stays.
func (f *followed) end(t *testing.T) {
	t.Helper()
	time.Sleep(time.Minute)
	close(f.events)
	if err := <-f.done; err != os.ErrClosed {
		t.Errorf("following ended with %v, want %v", err, os.ErrClosed)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func (f *followed) counted() map[string]uint64 {
	return byCause(f.host.failures.conflicts.all(), func(ConflictCount) bool { return true })
}

// byCause sums the counts of some.
func byCause(counts []ConflictCount, of func(ConflictCount) bool) map[string]uint64 {
	out := make(map[string]uint64)
	for _, c := range counts {
		if of(c) {
			out[fmt.Sprintf("%s/%t", c.Cause, c.ReuseAddr)] += c.N
		}
	}
	return out
}

func watchPorts(numbers ...uint16) ports.Config {
	cfg := ports.Config{MaxPorts: 1 << 16}
	for _, p := range numbers {
		cfg.Ports = append(cfg.Ports, ports.Spec{PortRange: sock.PortRange{First: p, Last: p}})
	}
	return cfg
}

func TestManyFailuresShareFewLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80), listening("0.0.0.0:80", 1))
		const n = 100_000
		event := taken(80, 1)
		start := time.Now()
		for range n {
			f.send(event...)
		}
		took := time.Since(start)
		f.end(t)

		if got, want := f.counted(), map[string]uint64{"listener/false": n}; !equalCounts(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		told := 0
		for _, c := range f.told {
			told += int(c.Failures)
		}
		if told != n || len(f.told) != 2 {
			t.Errorf("told of %d failures in %d lines, want %d in 2: at once, and half a minute later", told, len(f.told), n)
		}
		// A dump of listeners each, and one more for each line.
		looks, others := f.kernel.dumps()
		looks -= len(f.told)
		if others != 0 {
			t.Errorf("%d dumps of all sockets, though the listener explains everything", others)
		}
		if most := int(took/minLookGap) + 2; looks > most || looks < 2 {
			t.Errorf("%d looks in %v, want at most %d and no less than 2", looks, took, most)
		}
	})
}

func equalCounts(a, b map[string]uint64) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// A million failures a second are not read a million a second.
func TestEventsAreReadNoFasterThanTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := paced(func(*bindtrace.Event) error { return nil })
		start := time.Now()
		var e bindtrace.Event
		for range 10*maxBurst + 1 {
			if err := read(&e); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 10*burstTime {
			t.Errorf("ten bursts took %v, want %v", took, 10*burstTime)
		}
	})
}

func TestFewEventsAreReadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := paced(func(*bindtrace.Event) error { time.Sleep(burstTime); return nil })
		start := time.Now()
		var e bindtrace.Event
		for range 2 * maxBurst {
			if err := read(&e); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 2*maxBurst*burstTime {
			t.Errorf("slow events took %v, want %v", took, 2*maxBurst*burstTime)
		}
	})
}

// Any user may fail to bind to every port, at every loopback address.
func TestWhatWaitsForALookIsBounded(t *testing.T) {
	c := newConflicts()
	var total uint64
	add := func(port uint16, watched bool, n int) {
		key := FailureKey{Netns: conflictNetns, Port: port}
		if !watched {
			key.Port, key.OtherPort = 0, true
		}
		for _, e := range taken(port, n) {
			c.add(key, &e, owner.Owner{})
			total++
		}
	}
	for port := range 1 << 16 {
		add(uint16(port), false, 20)
	}
	if len(c.waiting) != maxWaitingOthers {
		t.Errorf("%d ports wait that are not watched, want %d", len(c.waiting), maxWaitingOthers)
	}
	for port := range 1 << 16 {
		add(uint16(port), true, 20) // in a set of that many
	}
	if want := maxWaitingOthers + maxWaitingPorts; len(c.waiting) != want {
		t.Errorf("%d ports wait, want %d", len(c.waiting), want)
	}
	var sum uint64
	tidings := newTidings()
	for number, port := range c.take() {
		if len(port.binds) > maxWaitingBinds {
			t.Errorf("%d binds of a port wait, want at most %d", len(port.binds), maxWaitingBinds)
		}
		conflict := c.settle(number, port, &bindrule.Port{})
		tidings.add(time.Time{}, conflict, port.watched)
	}
	for _, count := range c.all() {
		sum += count.N
	}
	if sum != total {
		t.Errorf("%d failures are counted, want %d", sum, total)
	}
	if len(c.counts) > maxConflictKeys+1 {
		t.Errorf("%d keys, want at most %d", len(c.counts), maxConflictKeys+1)
	}
	if got := len(tidings.ports); got > maxToldPorts+maxToldOthers {
		t.Errorf("%d ports are told of, want at most %d", got, maxToldPorts+maxToldOthers)
	}
	if len(c.waiting) != 0 || c.others != 0 {
		t.Errorf("%d ports, %d others still wait", len(c.waiting), c.others)
	}
}

// Others cannot take the place of watched ports.
func TestWatchedPortIsLookedAtDuringAFloodOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80), listening("0.0.0.0:80", 1))
		for port := uint16(1000); port < 2000; port++ {
			f.send(taken(port, 1)...)
		}
		f.send(taken(80, 1)...)
		f.end(t)
		watched := byCause(f.host.failures.conflicts.all(), func(c ConflictCount) bool { return c.Port == 80 })
		if want := map[string]uint64{"listener/false": 1}; !equalCounts(watched, want) {
			t.Errorf("counted %v, want %v", watched, want)
		}
		others := 0
		for _, c := range f.told {
			if c.Port != 80 {
				others++
			}
		}
		if others != maxToldOthers {
			t.Errorf("told of %d other ports, want %d", others, maxToldOthers)
		}
	})
}

func TestEventsThatALookCannotExplain(t *testing.T) {
	for name, change := range map[string]func(*bindtrace.Event){
		"another namespace":  func(e *bindtrace.Event) { e.Netns++ },
		"udp":                func(e *bindtrace.Event) { e.Protocol = bindtrace.ProtocolUDP },
		"port 0":             func(e *bindtrace.Event) { e.Port = 0 },
		"a port nobody read": func(e *bindtrace.Event) { e.PortKnown = false },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := follow(t, watchPorts(80), listening("0.0.0.0:80", 1))
				event := taken(80, 1)[0]
				change(&event)
				f.send(event)
				f.end(t)
				if got, want := f.counted(), map[string]uint64{"unknown/false": 1}; !equalCounts(got, want) {
					t.Errorf("counted %v, want %v", got, want)
				}
				if len(f.told) != 0 || len(f.kernel.Requests()) != 0 {
					t.Errorf("told of %+v after %d dumps, want nothing", f.told, len(f.kernel.Requests()))
				}
			})
		})
	}
}

func TestOtherErrorsAreNoConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80), listening("0.0.0.0:80", 1))
		denied, listen := taken(80, 1)[0], taken(80, 1)[0]
		denied.Errno, listen.Op = unix.EACCES, bindtrace.OpListen
		f.send(denied, listen)
		f.end(t)
		if got := f.counted(); len(got) != 0 {
			t.Errorf("counted %v, want nothing", got)
		}
	})
}

func TestFailedLookIsOfUnknownCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80))
		f.kernel.script(nil, refuse(unix.ENOBUFS))
		f.send(taken(80, 2)...)
		f.end(t)
		if got, want := f.counted(), map[string]uint64{"unknown/false": 2}; !equalCounts(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
		for _, c := range f.told {
			if c.Err == nil {
				t.Errorf("told of %+v, want its error", c)
			}
		}
		if len(f.told) != 1 {
			t.Errorf("told of %d conflicts, want 1", len(f.told))
		}
	})
}

func TestRestartedDumpOfALookCountsNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80))
		asked := 0
		gone := socket(netlinkdiag.StateClose, "0.0.0.0:80", "0.0.0.0:0")
		stays := []netlinkdiag.Socket{timeWait("127.0.0.0:80", "127.0.0.1:4000", time.Second)}
		f.kernel.script(nil, func(req diagtest.Request) []diagtest.Datagram {
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
		if len(f.told) != 1 || len(f.told[0].Blockers) != 1 || f.told[0].Blockers[0].Count != 1 || f.told[0].Cause != CauseTimeWait {
			t.Errorf("told of %+v, want one socket in TIME_WAIT", f.told)
		}
		if asked != 2 {
			t.Errorf("asked %d times, want 2", asked)
		}
	})
}

// The first line comes at once, the next ones with what happened in between.
func TestLinesOfAPortAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80), listening("0.0.0.0:80", 1))
		for range 100 {
			f.send(taken(80, 1)...)
			time.Sleep(time.Second)
		}
		f.end(t)
		var failures []uint64
		for _, c := range f.told {
			failures = append(failures, c.Failures)
		}
		if want := []uint64{1, 30, 30, 30, 9}; !slices.Equal(failures, want) {
			t.Errorf("lines of %v failures, want %v", failures, want)
		}
		if n := len(f.Taker.host.failures.conflicts.waiting); n != 0 {
			t.Errorf("%d ports still wait", n)
		}
	})
}

// unitsByPID says that each process is of a unit of its own.
type unitsByPID struct{}

func (unitsByPID) Find(context.Context, []owner.Socket) (map[uint64]owner.Owner, error) {
	return nil, nil //nolint:nilnil // nobody is known
}

func (unitsByPID) OfProcess(pid uint32, _ uint64) (owner.Owner, bool) {
	return owner.Owner{Unit: fmt.Sprintf("%d.service", pid)}, true
}

func TestConflictHasTheOwnerOfTheFailureThatIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80), listening("0.0.0.0:80", 1))
		f.host.failures.callers.finder = unitsByPID{}
		events := taken(80, 3)
		for i := range events {
			events[i].PID = uint32(100 + i)
		}
		f.send(events...)
		f.end(t)
		if len(f.told) != 1 || f.told[0].PID != 102 || f.told[0].Owner.Unit != "102.service" {
			t.Errorf("told %+v, want one conflict, of process 102 and its unit", f.told)
		}
	})
}

func TestTheTellingCauseIsTold(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	tidings := newTidings()
	for _, cause := range []Cause{CauseUnknown, CauseTimeWait, CauseUnknown} {
		tidings.add(now, Conflict{Port: 80, Cause: cause, Failures: 2}, true)
	}
	if early := tidings.due(now); len(early) != 0 {
		t.Errorf("told %+v too early", early)
	}
	if wait := tidings.wait(now); wait != tellAfter {
		t.Errorf("wait for %v, want %v", wait, tellAfter)
	}
	now = now.Add(tellAfter)
	if due := tidings.due(now); len(due) != 1 || due[0].Cause != CauseTimeWait || due[0].Failures != 6 {
		t.Errorf("told %+v, want time_wait of 6 failures", due)
	}
	if due := tidings.due(now.Add(tellEvery)); len(due) != 0 || len(tidings.ports) != 0 {
		t.Errorf("told %+v and kept %d ports, want nothing", due, len(tidings.ports))
	}
}

func TestCauseOf(t *testing.T) {
	// All binders have SO_REUSEPORT, for which the kernel has a shortcut, and none of the others.
	any4 := netip.IPv4Unspecified()
	full := func(state netlinkdiag.State, flag bindrule.Flag) bindrule.Socket {
		return bindrule.Socket{Addr: any4, State: bindrule.State(state), Count: 1, V6Only: bindrule.No, ReuseAddr: flag, ReusePort: bindrule.No, UID: bindrule.UIDOf(1)}
	}
	mini := func(state netlinkdiag.State, flag bindrule.Flag) bindrule.Socket {
		s := full(state, flag)
		s.Kind, s.Expires, s.UID = bindrule.KindTimeWait, time.Second, bindrule.UID{}
		return s
	}
	const no, yes, unknown = bindrule.No, bindrule.Yes, bindrule.FlagUnknown
	listen, bound := full(netlinkdiag.StateListen, no), full(netlinkdiag.StateClose, no)
	established, wait := full(netlinkdiag.StateEstablished, no), mini(netlinkdiag.StateTimeWait, no)
	for _, tt := range []struct {
		name      string
		reuseAddr bindrule.Flag
		port      bindrule.Port
		want      Cause
	}{
		{"nothing there", no, bindrule.Port{}, CauseUnknown},
		{"of all the listener", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound, established, listen}}, CauseListener},
		{"of others the connection", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound, established}}, CauseConnection},
		{"before TIME_WAIT the bound one", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound}}, CauseBound},
		{"TIME_WAIT", no, bindrule.Port{Sockets: []bindrule.Socket{wait}}, CauseTimeWait},
		{"a FIN_WAIT2 without a process", no, bindrule.Port{Sockets: []bindrule.Socket{mini(netlinkdiag.StateFinWait2, no)}}, CauseConnection},
		{"those that let it pass are no cause", yes, bindrule.Port{Sockets: []bindrule.Socket{full(netlinkdiag.StateEstablished, yes), wait}}, CauseTimeWait},
		{"all let it pass", yes, bindrule.Port{Sockets: []bindrule.Socket{full(netlinkdiag.StateEstablished, yes)}}, CauseUnknown},
		{"flags unknown, but nothing else there", yes, bindrule.Port{Sockets: []bindrule.Socket{mini(netlinkdiag.StateTimeWait, unknown)}}, CauseTimeWait},
		{"flags unknown, and others may be there", yes, bindrule.Port{Incomplete: true, Sockets: []bindrule.Socket{mini(netlinkdiag.StateTimeWait, unknown)}}, CauseUnknown},
		{"flags unknown of two kinds", yes, bindrule.Port{Sockets: []bindrule.Socket{mini(netlinkdiag.StateTimeWait, unknown), full(netlinkdiag.StateClose, unknown)}}, CauseUnknown},
		{"one is sure, whatever others are", yes, bindrule.Port{Incomplete: true, Sockets: []bindrule.Socket{full(netlinkdiag.StateEstablished, unknown), wait}}, CauseTimeWait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request := bindrule.Request{Addr: any4, V6Only: no, ReuseAddr: tt.reuseAddr, ReusePort: yes, UID: bindrule.UIDOf(1)}
			if got, _ := causeOf(&tt.port, request); got != tt.want {
				t.Errorf("cause %v, want %v", got, tt.want)
			}
		})
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

// A bound socket whose flag is not known is the cause only where nothing else can be.
func TestNothingIsConcludedFromFlagsThatAreMissing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags flagsWithout
		want  string
	}{
		{"all there", flagsWithout{}, "bound/true"},
		{"some missed", flagsWithout{missed: map[uint16]uint64{80: 1}}, "unknown/true"},
		{"some missed on another port", flagsWithout{missed: map[uint16]uint64{81: 1}}, "bound/true"},
		{"failed", flagsWithout{err: unix.EPERM}, "unknown/true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFollowed(t, watchPorts(80), &tt.flags, socket(netlinkdiag.StateClose, "127.0.0.0:80", "0.0.0.0:0"))
				e := taken(80, 1)[0]
				e.ReuseAddr = true
				f.send(e)
				f.end(t)
				if got, want := f.counted(), map[string]uint64{tt.want: 1}; !equalCounts(got, want) {
					t.Errorf("counted %v, want %v", got, want)
				}
				if len(f.told) != 1 || !errors.Is(f.told[0].Err, tt.flags.err) {
					t.Errorf("told of %+v, want one with error %v", f.told, tt.flags.err)
				}
			})
		})
	}
}

// The gap grows with the time that looks take.
func TestSlowLooksAreFurtherApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, watchPorts(80))
		const slow = time.Second
		var looks []time.Time
		f.kernel.script(nil, func(req diagtest.Request) []diagtest.Datagram {
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

func TestOtherHalf(t *testing.T) {
	server := func(local string, uid uint32, v6only bool) listener {
		s := listening(local, 1)
		s.UID, s.V6Only = uid, v6only
		return newListener(&s)
	}
	for _, tt := range []struct {
		name   string
		failed string
		listen listener
		want   bool
	}{
		{"IPv6 beside IPv4", "0.0.0.0", server("[::]:80", 7, true), true},
		{"IPv4 beside IPv6", "::1", server("127.0.0.1:80", 7, false), true},
		{"another address of the same family", "127.0.0.1", server("127.0.0.2:80", 7, false), false},
		{"a v4-mapped one is IPv4", "127.0.0.1", server("[::ffff:127.0.0.2]:80", 7, false), false},
		{"of another user", "0.0.0.0", server("[::]:80", 8, true), false},
		{"on another port", "0.0.0.0", server("[::]:81", 7, true), false},
		{"in the way itself", "0.0.0.0", server("[::]:80", 7, false), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Conflict{Port: 80, Request: bindrule.Request{
				Addr: netip.MustParseAddr(tt.failed), V6Only: bindrule.No, ReuseAddr: bindrule.No, ReusePort: bindrule.No, UID: bindrule.UIDOf(7),
			}}
			if got := len(otherHalf(&c, []listener{tt.listen})) == 1; got != tt.want {
				t.Errorf("other half: %t, want %t", got, tt.want)
			}
		})
	}
}

func TestSummaryIsBounded(t *testing.T) {
	var blockers []bindrule.Socket
	for i := range 1000 {
		s := bindrule.Socket{Addr: netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}), Count: 2, UID: bindrule.UIDOf(uint32(i))}
		for _, state := range []netlinkdiag.State{netlinkdiag.StateListen, netlinkdiag.StateClose, netlinkdiag.StateEstablished} {
			s.State = bindrule.State(state)
			blockers = append(blockers, s)
		}
		s.State, s.Kind, s.Expires, s.UID = bindrule.State(netlinkdiag.StateTimeWait), bindrule.KindTimeWait, time.Duration(i%500)*time.Second, bindrule.UID{}
		blockers = append(blockers, s)
	}
	got := summary(blockers)
	if len(got) != maxBlockersTold+2 {
		t.Fatalf("%d sockets are kept, want %d", len(got), maxBlockersTold+2)
	}
	for _, s := range got {
		if s.Kind == bindrule.KindTimeWait && (s.Count != 2000 || s.Expires != 499*time.Second) {
			t.Errorf("TIME_WAIT is %+v, want 2000 of them for 499 s", s)
		}
	}
}
