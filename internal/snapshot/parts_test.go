package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var (
	errDial  = errors.New("no netlink today")
	errStack = errors.New("no procfs today")
)

func TestExplicitPortHasZerosBeforeAnySocket(t *testing.T) {
	f := newFake()
	taker := newTaker(t, f.config(), watch.Config{
		Ports:    []watch.Spec{{PortRange: sock.PortRange{First: 4840, Last: 4841}, Name: "opcua"}},
		MaxPorts: 512,
	})
	s := whole(t, taker)
	checkWatched(t, &s, 4840, 4841)
	for _, number := range []uint16{4840, 4841} {
		if got, want := port(t, &s, number), (ports.PortSockets{Number: number}); got != want {
			t.Errorf("port %d has %+v, want %+v", number, got, want)
		}
	}
}

func TestCountsPerPortFamilyAndState(t *testing.T) {
	f := newFake(
		diagtest.Listening("0.0.0.0:80", 1), diagtest.Listening("[::]:80", 2), diagtest.Listening("[::]:81", 3),
		diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:80", "127.0.0.1:4000"),
		diagtest.InState(netlinkdiag.StateEstablished, "[::1]:80", "[::1]:4000"),
		diagtest.InState(netlinkdiag.StateEstablished, "[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:4001"),
		diagtest.InState(netlinkdiag.StateClose, "0.0.0.0:80", "0.0.0.0:0"), // bound-inactive
		diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4003", 59*time.Second),
		diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4002", 60*time.Second),
		diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4004", 58*time.Second),
		diagtest.TimeWait("[::1]:80", "[::1]:4002", 3*time.Second),
		diagtest.TimeWait("127.0.0.1:79", "127.0.0.1:4004", 58*time.Second),
	)
	// A FIN_WAIT2 that nobody owns has the timer of TIME_WAIT, and is not there yet.
	orphan := diagtest.TimeWait("[::1]:81", "[::1]:4005", 40*time.Second)
	orphan.State = netlinkdiag.StateFinWait2
	f.set(append(f.sockets, orphan)...)

	s := whole(t, newTaker(t, f.config(), discovering()))
	checkWatched(t, &s, 80, 81)
	for _, want := range []ports.PortSockets{
		{Number: 80,
			IPv4: ports.FamilySockets{
				States: counts(map[netlinkdiag.State]uint64{
					netlinkdiag.StateListen: 1, netlinkdiag.StateEstablished: 1,
					netlinkdiag.StateClose: 1, netlinkdiag.StateTimeWait: 3,
				}),
				TimeWaitRemaining: 60 * time.Second,
			},
			IPv6: ports.FamilySockets{
				States: counts(map[netlinkdiag.State]uint64{
					netlinkdiag.StateListen: 1, netlinkdiag.StateEstablished: 2, netlinkdiag.StateTimeWait: 1,
				}),
				TimeWaitRemaining: 3 * time.Second,
			}},
		{Number: 81,
			IPv6: ports.FamilySockets{States: counts(map[netlinkdiag.State]uint64{
				netlinkdiag.StateListen: 1, netlinkdiag.StateFinWait2: 1,
			})}},
	} {
		if got := port(t, &s, want.Number); got != want {
			t.Errorf("port %d has %+v, want %+v", want.Number, got, want)
		}
	}
}

func TestFailedDumpOfListenersKeepsWhatIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(withDrops(diagtest.Listening("0.0.0.0:80", 1), 5), diagtest.Listening("[::1]:631", 2))
		taker := newTaker(t, f.config(), discovering())
		whole(t, taker)

		f.script(refuse(unix.ENOBUFS), nil)
		for range 3 {
			time.Sleep(retention)
			s := taker.Take(t.Context())
			checkErrors(t, &s, unix.ENOBUFS, unix.ENOBUFS, unix.ENOBUFS, nil)
			checkWatched(t, &s, 80, 631)
			if s.TCP.Data != nil || s.Listeners.Data != nil {
				t.Errorf("got %+v and %+v, want nothing", s.TCP.Data, s.Listeners.Data)
			}
		}

		// 80 was dropping while nobody could look; 631 had gone.
		f.script(nil, nil)
		f.set(withDrops(diagtest.Listening("0.0.0.0:80", 1), 7))
		s := whole(t, taker)
		checkWatched(t, &s, 80)
		if g := s.Listeners.Data; len(g) != 1 || g[0].Drops != 7 {
			t.Errorf("got %+v, want one group with 7 drops", g)
		}
	})
}

func TestFailedDumpOfSocketsCostsThemOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		taker := newTaker(t, f.config(), discovering())
		f.script(nil, refuse(unix.ENOBUFS))
		s := taker.Take(t.Context())
		checkErrors(t, &s, nil, nil, unix.ENOBUFS, nil)
		if len(s.Listeners.Data) != 1 || s.TCP.Data != nil || s.Stack.Data != someStats() {
			t.Errorf("got %+v, want one listener, the stack and no sockets", s)
		}
		if taker.Ready() {
			t.Error("ready before the sockets were read once")
		}
		f.script(nil, nil)
		s = whole(t, taker)
		checkWebServer(t, &s)
	})
}

func TestFailedStackCostsItselfOnly(t *testing.T) {
	f := newFake(webServer()...)
	cfg := f.config()
	cfg.Host.Stack = func() (stack.Stats, error) { return someStats(), errStack }
	taker := newTaker(t, cfg, discovering())
	s := taker.Take(t.Context())
	checkErrors(t, &s, nil, nil, nil, errStack)
	checkWebServer(t, &s)
	if s.Stack.Data != someStats() {
		t.Errorf("stack is %+v, want what of it could be had", s.Stack.Data)
	}
	if !taker.Ready() {
		t.Error("not ready, though only an optional part is missing")
	}
}

func TestModuleThatIsMissing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*fake)
		module string
	}{
		{"tcp_diag", func(f *fake) {
			none := func(req diagtest.Request) []diagtest.Datagram {
				return []diagtest.Datagram{{Data: diagtest.Error(req.Sequence, unix.ENOENT)}}
			}
			f.script(none, none)
		}, "tcp_diag"},
		{"inet_diag", func(f *fake) {
			f.OpenError = func(int) error {
				return &netlinkdiag.ModuleError{Module: "inet_diag", Err: unix.EPROTONOSUPPORT}
			}
		}, "inet_diag"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			tt.change(f)
			taker := newTaker(t, f.config(), discovering())
			s := taker.Take(t.Context())
			for _, err := range []error{s.Watch.Err, s.Listeners.Err, s.TCP.Err} {
				var lacking *netlinkdiag.ModuleError
				if !errors.As(err, &lacking) || lacking.Module != tt.module {
					t.Errorf("error %v, want a ModuleError for %s", err, tt.module)
				}
			}
			if s.Stack.Err != nil {
				t.Errorf("stack: %v", s.Stack.Err)
			}
			if !taker.Ready() {
				t.Error("not ready, though this kernel has no more to give")
			}
		})
	}
}

func TestDialsAgainUntilItWorks(t *testing.T) {
	f := newFake(webServer()...)
	dials := 0
	cfg := f.config()
	dial := cfg.Host.Dial
	cfg.Host.Dial = func(fd int) (*netlinkdiag.Conn, error) {
		if dials++; dials < 3 {
			return nil, errDial
		}
		return dial(fd)
	}
	taker := newTaker(t, cfg, discovering())
	for range 2 {
		s := taker.Take(t.Context())
		checkErrors(t, &s, errDial, errDial, errDial, nil)
		if taker.Ready() {
			t.Error("ready without a connection")
		}
	}
	for range 2 {
		s := whole(t, taker)
		checkWebServer(t, &s)
	}
	if dials != 3 {
		t.Errorf("dialled %d times, want 3", dials)
	}
	if !taker.Ready() {
		t.Error("not ready after a whole snapshot")
	}
}

func TestRestartedDumpCountsNothingTwice(t *testing.T) {
	f := newFake(webServer()...)
	f.sockets[slices.IndexFunc(f.sockets, func(s netlinkdiag.Socket) bool { return s.Cookie == 1 })] =
		withDrops(diagtest.Listening("0.0.0.0:80", 1), 9)
	f.sockets = append(f.sockets, diagtest.Listening("[::1]:631", 2))
	// Every dump is interrupted half way once, after a socket that is gone the second time.
	interruptOnce := func(gone netlinkdiag.Socket) func(diagtest.Request) []diagtest.Datagram {
		seen := 0
		return func(req diagtest.Request) []diagtest.Datagram {
			whole := diagtest.Dump(req, f.sockets)
			if seen++; seen > 1 {
				return whole
			}
			return append([]diagtest.Datagram{
				{Data: diagtest.Socket(req, gone)},
				{Data: diagtest.Socket(req, f.sockets[1])},
				{Data: diagtest.Interrupted(diagtest.Socket(req, f.sockets[1]))},
			}, whole...)
		}
	}
	f.script(
		interruptOnce(withDrops(diagtest.Listening("0.0.0.0:80", 1), 9)),
		interruptOnce(diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4009", 60*time.Second)),
	)
	s := whole(t, newTaker(t, f.config(), discovering()))
	if listen, tcp := f.dumps(); listen != 2 || tcp != 2 {
		t.Fatalf("%d dumps of listeners and %d of others, want two of each", listen, tcp)
	}
	checkWatched(t, &s, 80, 631)
	checkWebServer(t, &s)
	if g := s.Listeners.Data; len(g) != 2 || g[0].Sockets != 1 || g[0].Drops != 9 {
		t.Errorf("got %+v, want two groups, of one socket each, the first with 9 drops", g)
	}
}

func TestManyPortsAreFilteredHereWithTheSameCounts(t *testing.T) {
	cfg := watch.Config{MaxPorts: 1 << 16}
	for p := 1; p < 1<<16; p += 2 {
		cfg.Ports = append(cfg.Ports, watch.Spec{PortRange: sock.PortRange{First: uint16(p), Last: uint16(p)}})
	}
	f := newFake(
		diagtest.Listening("0.0.0.0:81", 1),
		diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:81", "127.0.0.1:4000"),
		diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:82", "127.0.0.1:4000"),
		diagtest.TimeWait("[::1]:65535", "[::1]:4000", time.Second),
	)

	s := whole(t, newTaker(t, f.config(), cfg))
	for _, want := range []ports.PortSockets{
		{Number: 81, IPv4: ports.FamilySockets{States: counts(map[netlinkdiag.State]uint64{
			netlinkdiag.StateListen: 1, netlinkdiag.StateEstablished: 1,
		})}},
		{Number: 83},
		{Number: 65535, IPv6: ports.FamilySockets{
			States:            counts(map[netlinkdiag.State]uint64{netlinkdiag.StateTimeWait: 1}),
			TimeWaitRemaining: time.Second,
		}},
	} {
		if got := port(t, &s, want.Number); got != want {
			t.Errorf("port %d has %+v, want %+v", want.Number, got, want)
		}
	}
}

func TestPartsThatAreOff(t *testing.T) {
	for _, tt := range []struct {
		name                         string
		change                       func(*Config)
		listenersErr, tcpErr, stkErr error
		listenDumps, tcpDumps        int
	}{
		{"tcp", func(c *Config) { c.Parts.TCP = false }, nil, ErrOff, nil, 1, 0},
		{"listeners", func(c *Config) { c.Parts.Listeners = false }, ErrOff, nil, nil, 1, 1},
		{"stack", func(c *Config) { c.Host.Stack = nil }, nil, nil, ErrOff, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(webServer()...)
			cfg := f.config()
			tt.change(&cfg)
			taker := newTaker(t, cfg, discovering())
			s := taker.Take(t.Context())
			checkErrors(t, &s, nil, tt.listenersErr, tt.tcpErr, tt.stkErr)
			checkWatched(t, &s, 80)
			if got := fmt.Sprint(s.Listeners.Off(), s.TCP.Off(), s.Stack.Off(), s.Watch.Off()); got !=
				fmt.Sprint(tt.listenersErr != nil, tt.tcpErr != nil, tt.stkErr != nil, false) {
				t.Errorf("off: %s", got)
			}
			if listen, tcp := f.dumps(); listen != tt.listenDumps || tcp != tt.tcpDumps {
				t.Errorf("%d dumps of listeners and %d of others, want %d and %d", listen, tcp, tt.listenDumps, tt.tcpDumps)
			}
			if !taker.Ready() {
				t.Error("not ready, though nothing that is on is missing")
			}
		})
	}
}

func TestNothingWatchedNeedsNoDumpOfSockets(t *testing.T) {
	f := newFake(diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:4000", "127.0.0.1:80"))
	s := whole(t, newTaker(t, f.config(), discovering()))
	if len(s.TCP.Data) != 0 {
		t.Errorf("got sockets of %d ports, want none", len(s.TCP.Data))
	}
	if listen, tcp := f.dumps(); listen != 1 || tcp != 0 {
		t.Errorf("%d dumps of listeners and %d of others, want 1 and 0", listen, tcp)
	}
}

func TestDiscoveredPortStaysForTheRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(diagtest.Listening("0.0.0.0:80", 1))
		taker := newTaker(t, f.config(), discovering())
		whole(t, taker)

		f.set()
		time.Sleep(retention - time.Second)
		s := whole(t, taker)
		checkWatched(t, &s, 80)
		if got, want := port(t, &s, 80), (ports.PortSockets{Number: 80}); got != want {
			t.Errorf("port 80 has %+v, want %+v", got, want)
		}
		time.Sleep(time.Second)
		s = whole(t, taker)
		checkWatched(t, &s)
	})
}

func TestLingeringSocketsKeepADiscoveredPort(t *testing.T) {
	for _, state := range []netlinkdiag.State{netlinkdiag.StateTimeWait, netlinkdiag.StateCloseWait} {
		t.Run(state.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := diagtest.InState(state, "[::1]:80", "[::1]:4000")
				f := newFake(diagtest.Listening("[::]:80", 1), diagtest.Listening("[::]:81", 2), left)
				taker := newTaker(t, f.config(), discovering())
				whole(t, taker)

				f.set(left)
				for range 3 {
					time.Sleep(retention)
					s := whole(t, taker)
					checkWatched(t, &s, 80)
				}
				// What could not be asked for is not gone.
				f.script(nil, refuse(unix.ENOBUFS))
				for range 2 {
					time.Sleep(retention)
					s := taker.Take(t.Context())
					checkErrors(t, &s, nil, nil, unix.ENOBUFS, nil)
					checkWatched(t, &s, 80)
				}
				f.script(nil, nil)
				f.set()
				s := whole(t, taker) // sees that it is gone
				checkWatched(t, &s, 80)
				s = whole(t, taker)
				checkWatched(t, &s)
			})
		})
	}
}
