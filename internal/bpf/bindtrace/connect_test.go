//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"unsafe" //nolint:depguard // connect(2) with any sockaddr

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// ephemeral is the number of ports that newCramped leaves.
const ephemeral = 4

// newCramped returns a namespace with few ephemeral ports.
func newCramped(t *testing.T) *kerneltest.NetNS {
	t.Helper()
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", fmt.Sprint(40000, " ", 40000+ephemeral-1))
	return ns
}

// connectRaw is connect(2) with any sockaddr.
func connectRaw(fd int, sockaddr []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(sockaddr))), uintptr(len(sockaddr)))
	if errno != 0 {
		return errno
	}
	return nil
}

// requireConnects fails unless connect() is traced.
func requireConnects(t *testing.T, tr *Tracer) {
	t.Helper()
	if err := tr.ConnectsErr(); err != nil {
		t.Fatal(err)
	}
}

// mustExhaust connects until no port is free, and once more.
func (tg target) mustExhaust(t *testing.T) {
	t.Helper()
	for range ephemeral {
		if err := connectRaw(tg.open(t), sockaddrOf(tg.local, testPort)); err != nil {
			t.Fatalf("connect: %v", err)
		}
	}
	if err := connectRaw(tg.open(t), sockaddrOf(tg.local, testPort)); !errors.Is(err, tg.noPort()) {
		t.Fatalf("connect without a port left: want %v, got %v", tg.noPort(), err)
	}
}

// listen lets others connect, where that takes a listener.
func (tg target) listen(t *testing.T) {
	t.Helper()
	fd := tg.openBound(t, testPort)
	if tg.typ != unix.SOCK_STREAM {
		return
	}
	if err := unix.Listen(fd, 2*ephemeral); err != nil {
		t.Fatal(err)
	}
}

// isTCP tells whether connect looks for a port by itself; for others inet_autobind
// does before.
func (tg target) isTCP() bool {
	return tg.protocol == sock.TCP || tg.protocol == sock.MPTCP
}

// noPort returns the error of connect when no ephemeral port is free.
func (tg target) noPort() unix.Errno {
	if tg.isTCP() {
		return unix.EADDRNOTAVAIL
	}
	return unix.EAGAIN
}

// connectKey is the key of a connect() that found no port.
func (tg target) connectKey(netns uint32, errno unix.Errno) Key {
	return Key{Netns: netns, Op: OpConnect, Family: tg.family, Protocol: tg.protocol, Errno: errno}
}

// Connections that succeed do not count. The one that finds no port counts once.
func TestConnectWithoutAPortLeftCountsOnce(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		for _, tg := range targets(t, kerneltest.New(t)) {
			t.Run(tg.name, func(t *testing.T) {
				ns := newCramped(t)
				watchOnly(t, tr, ns)
				netns := uint32(ns.Inode())
				before := countsOf(t, tr, netns) // of another namespace with this number
				ns.Do(t, func() {
					tg.listen(t)
					tg.mustExhaust(t)
				})
				want := tg.connectKey(netns, tg.noPort())
				if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{want: 1}) {
					t.Errorf("counted %+v, want 1 of %+v", got, want)
				}
				e := nextEvent(t, tr, netns)
				if e.Op != OpConnect || e.Addr != tg.local || e.Port != testPort || !e.PortKnown || e.OwnRange ||
					e.Family != tg.family || e.Protocol != tg.protocol || e.Errno != tg.noPort() {
					t.Errorf("event %+v: want the destination %v, port %d", e, tg.local, testPort)
				}
			})
		}
		checkStats(t, tr)
	})
}

// connectCase is a connect() of TCP that fails with EADDRNOTAVAIL in a namespace
// that the target has used up.
type connectCase struct {
	name    string
	other   bool // it fails although a port is free
	skip    func(target) bool
	prepare func(t *testing.T, ns *kerneltest.NetNS, tg target)
	connect func(t *testing.T, tg target) error
}

func connectCases() []connectCase {
	return []connectCase{
		{
			name: "from an address",
			skip: func(tg target) bool { return tg.protocol == sock.MPTCP }, // of later kernels only
			connect: func(t *testing.T, tg target) error {
				fd := tg.open(t)
				err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
				if err := errors.Join(err, bindRaw(fd, sockaddrOf(tg.local, 0))); err != nil {
					t.Fatal(err)
				}
				return connectRaw(fd, sockaddrOf(tg.local, testPort))
			},
		}, {
			name: "IPv4-mapped",
			skip: func(tg target) bool { return tg.family != sock.FamilyIPv6 },
			prepare: func(t *testing.T, _ *kerneltest.NetNS, tg target) {
				tg.domain, tg.local = unix.AF_INET, netip.MustParseAddr("127.0.0.1")
				tg.listen(t)
				tg.mustExhaust(t)
			},
			connect: func(t *testing.T, tg target) error {
				return connectRaw(tg.open(t), sockaddrOf(netip.MustParseAddr("::ffff:127.0.0.1"), testPort))
			},
		}, {
			name:  "connection exists already",
			other: true,
			connect: func(t *testing.T, tg target) error {
				var fds [2]int
				for i := range fds {
					fds[i] = tg.open(t)
					err := unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
					if err := errors.Join(err, bindRaw(fds[i], sockaddrOf(tg.local, otherPort))); err != nil {
						t.Fatal(err)
					}
				}
				if err := connectRaw(fds[0], sockaddrOf(tg.local, testPort)); err != nil {
					t.Fatal(err)
				}
				return connectRaw(fds[1], sockaddrOf(tg.local, testPort))
			},
		}, {
			name:  "no source address",
			other: true,
			skip:  func(tg target) bool { return tg.family != sock.FamilyIPv6 },
			prepare: func(t *testing.T, ns *kerneltest.NetNS, _ target) {
				ns.Sysctl(t, "net.ipv6.conf.lo.disable_ipv6", "1")
			},
			connect: func(t *testing.T, tg target) error {
				return connectRaw(tg.open(t), sockaddrOf(tg.local, testPort))
			},
		},
	}
}

// connectsBeforeBind counts the events of connect before the next one of bind.
func connectsBeforeBind(t *testing.T, tr *Tracer, netns uint32) (n int) {
	t.Helper()
	for nextEvent(t, tr, netns).Op == OpConnect {
		n++
	}
	return n
}

// EADDRNOTAVAIL also has other causes than a lack of ports. Then it has no event.
func TestConnectTellsWantOfPortsFromOtherCauses(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		for _, tg := range targets(t, kerneltest.New(t)) {
			for _, c := range connectCases() {
				if !tg.isTCP() || c.skip != nil && c.skip(tg) {
					continue
				}
				t.Run(tg.name+"/"+c.name, func(t *testing.T) {
					ns := newCramped(t)
					watchOnly(t, tr, ns)
					netns := uint32(ns.Inode())
					var before map[Key]uint64
					events := 0
					ns.Do(t, func() {
						tg.listen(t)
						tg.mustExhaust(t)
						if c.prepare != nil {
							c.prepare(t, ns, tg)
						}
						if err := failOnce(testPort); err != nil {
							t.Fatal(err)
						}
						connectsBeforeBind(t, tr, netns)
						before = countsOf(t, tr, netns)
						if err := c.connect(t, tg); !errors.Is(err, unix.EADDRNOTAVAIL) {
							t.Fatalf("connect: want EADDRNOTAVAIL, got %v", err)
						}
						counted := grown(before, countsOf(t, tr, netns))
						want := tg.connectKey(netns, unix.EADDRNOTAVAIL)
						want.OtherPort = c.other
						if !maps.Equal(counted, map[Key]uint64{want: 1}) {
							t.Errorf("counted %+v, want 1 of %+v", counted, want)
						}
						if err := failOnce(testPort); err != nil {
							t.Fatal(err)
						}
						events = connectsBeforeBind(t, tr, netns)
					})
					if wanted := map[bool]int{true: 0, false: 1}[c.other]; events != wanted {
						t.Errorf("%d events, want %d", events, wanted)
					}
				})
			}
		}
	})
}

// A connect that fails with another error, or on another socket than an IP socket, does not count.
func TestOtherFailuresOfConnectAreNotCounted(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		ns := newCramped(t)
		watchOnly(t, tr, ns)
		netns := uint32(ns.Inode())
		before := countsOf(t, tr, netns)
		stats, err := tr.Stats()
		if err != nil {
			t.Fatal(err)
		}
		ns.Do(t, func() {
			local, elsewhere := sockaddrOf(netip.MustParseAddr("127.0.0.1"), testPort), sockaddrOf(netip.MustParseAddr("192.0.2.1"), testPort)
			open := func(domain, typ int) int {
				return target{domain: domain, typ: typ}.open(t)
			}
			bound := open(unix.AF_INET, unix.SOCK_DGRAM)
			if err := bindRaw(bound, local); err != nil {
				t.Fatal(err)
			}
			for _, c := range []struct {
				name     string
				fd       int
				sockaddr []byte
				want     error
			}{
				{"nobody listens", open(unix.AF_INET, unix.SOCK_STREAM), local, unix.ECONNREFUSED},
				{"no route", open(unix.AF_INET, unix.SOCK_STREAM), elsewhere, unix.ENETUNREACH},
				{"no route for a bound socket", bound, elsewhere, unix.ENETUNREACH},
				{"sockaddr of the other family", open(unix.AF_INET, unix.SOCK_STREAM), sockaddrOf(netip.IPv6Loopback(), testPort), unix.EAFNOSUPPORT},
				{"sockaddr too short", open(unix.AF_INET, unix.SOCK_STREAM), local[:8], unix.EINVAL},
				{"no such descriptor", 1 << 20, local, unix.EBADF},
				{"full backlog of a unix socket", unixClient(t), unixAddr(t), unix.EAGAIN},
			} {
				if err := connectRaw(c.fd, c.sockaddr); !errors.Is(err, c.want) {
					t.Errorf("%s: want %v, got %v", c.name, c.want, err)
				}
			}
		})
		if got := grown(before, countsOf(t, tr, netns)); len(got) != 0 {
			t.Errorf("counted %+v, want nothing", got)
		}
		after, err := tr.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if after.Unattributed != stats.Unattributed {
			t.Errorf("%d failures unattributed, want 0", after.Unattributed-stats.Unattributed)
		}
	})
}

// unixAddr is an abstract address of this test.
func unixAddr(t *testing.T) []byte {
	t.Helper()
	return append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), "\x00"+t.Name()...)
}

// unixClient is a socket whose connect to unixAddr does not wait for room in the
// backlog of one that is full.
func unixClient(t *testing.T) int {
	t.Helper()
	tg := target{domain: unix.AF_UNIX, typ: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}
	listener := tg.open(t)
	if err := errors.Join(bindRaw(listener, unixAddr(t)), unix.Listen(listener, 0)); err != nil {
		t.Fatal(err)
	}
	if err := connectRaw(tg.open(t), unixAddr(t)); err != nil {
		t.Fatal(err)
	}
	return tg.open(t)
}

// A failure in a namespace that is not watched counts in namespace 0.
func TestConnectOutsideTheWatchedNamespaces(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		watchOnly(t, tr, kerneltest.New(t))
		for _, tg := range targets(t, kerneltest.New(t)) {
			ns := newCramped(t)
			before := countsOf(t, tr, 0)
			ns.Do(t, func() {
				tg.listen(t)
				tg.mustExhaust(t)
			})
			want := tg.connectKey(0, tg.noPort())
			// The host may have failures of its own.
			if got := grown(before, countsOf(t, tr, 0))[want]; got < 1 {
				t.Errorf("%s: %+v is not counted", tg.name, want)
			}
			if got := countsOf(t, tr, uint32(ns.Inode())); len(got) != 0 {
				t.Errorf("%s: counted %+v for a namespace that is not watched", tg.name, got)
			}
		}
	})
}

func TestConnectsSwitchedOffAreNotCounted(t *testing.T) {
	eachMode(t, Options{NoConnects: true}, func(t *testing.T, tr *Tracer) {
		if err := tr.ConnectsErr(); !errors.Is(err, ErrOff) {
			t.Errorf("want %v, got %v", ErrOff, err)
		}
		ns := newCramped(t)
		watchOnly(t, tr, ns)
		tg := targets(t, ns)[0]
		ns.Do(t, func() {
			tg.listen(t)
			tg.mustExhaust(t)
			if err := bindRaw(tg.open(t), sockaddrOf(tg.elsewhere, 0)); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
			}
		})
		netns := uint32(ns.Inode())
		want := Key{Netns: netns, Family: tg.family, Protocol: tg.protocol, Errno: unix.EADDRNOTAVAIL}
		if got := countsOf(t, tr, netns); !maps.Equal(got, map[Key]uint64{want: 1}) {
			t.Errorf("counted %+v, want 1 of %+v", got, want)
		}
	})
}

// Binds are traced also where the tracer does not see its own connect() fail, here because seccomp
// answers it.
func TestBindsAreTracedWhereConnectsCannotBe(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, other *Tracer) {
		ns := kerneltest.New(t)
		var tr *Tracer
		var err error
		ns.Do(t, func() {
			answer(t, unix.SYS_CONNECT, unix.EPERM)
			tr, err = New(Options{Mode: other.Mode()})
		})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		var unavailable *sock.UnavailableError
		if err := tr.ConnectsErr(); !errors.As(err, &unavailable) || !errors.Is(err, unix.EPERM) {
			t.Errorf("connects: want an UnavailableError of EPERM, got %v", err)
		}
		watchOnly(t, tr, ns, testPort)
		netns := uint32(ns.Inode())
		tg := targets(t, ns)[0]
		ns.Do(t, func() {
			if err := bindRaw(tg.open(t), sockaddrOf(tg.elsewhere, testPort)); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
			}
		})
		want := Key{Netns: netns, Port: testPort, Family: tg.family, Protocol: tg.protocol, Errno: unix.EADDRNOTAVAIL}
		if got := countsOf(t, tr, netns); !maps.Equal(got, map[Key]uint64{want: 1}) {
			t.Errorf("counted %+v, want 1 of %+v", got, want)
		}
	})
}

// A connect() that seccomp answers did not reach the kernel, but the exit tracepoint cannot tell.
// Where the socket has a port, no port was missing.
func TestConnectAnsweredBySeccomp(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		for _, errno := range []unix.Errno{unix.EADDRNOTAVAIL, unix.EAGAIN} {
			for _, port := range []uint16{0, testPort} {
				t.Run(fmt.Sprint(unix.ErrnoName(errno), " with port ", port), func(t *testing.T) {
					ns := kerneltest.New(t)
					watchOnly(t, tr, ns)
					netns := uint32(ns.Inode())
					before := countsOf(t, tr, netns)
					tg := targets(t, ns)[0]
					ns.Do(t, func() {
						fd := tg.open(t)
						if port != 0 {
							fd = tg.openBound(t, port)
						}
						answer(t, unix.SYS_CONNECT, errno)
						if err := connectRaw(fd, sockaddrOf(tg.local, testPort)); !errors.Is(err, errno) {
							t.Errorf("connect: want %v, got %v", errno, err)
						}
					})
					want := map[Key]uint64{}
					key := tg.connectKey(netns, errno)
					key.OtherPort = port != 0
					if tr.Mode() == ModeTracepoint && (port == 0 || errno == unix.EADDRNOTAVAIL) {
						want[key] = 1
					}
					if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, want) {
						t.Errorf("counted %+v, want %+v", got, want)
					}
				})
			}
		}
	})
}

// A bind to port 0 that finds no free port counts under port 0.
func TestBindWithoutAPortLeftCountsUnderPortZero(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		for _, tg := range targets(t, kerneltest.New(t)) {
			t.Run(tg.name, func(t *testing.T) {
				ns := newCramped(t)
				watchOnly(t, tr, ns)
				netns := uint32(ns.Inode())
				before := countsOf(t, tr, netns)
				ns.Do(t, func() {
					for range ephemeral {
						tg.openBound(t, 0)
					}
					if err := bindRaw(tg.open(t), sockaddrOf(tg.local, 0)); !errors.Is(err, unix.EADDRINUSE) {
						t.Fatalf("bind without a port left: want EADDRINUSE, got %v", err)
					}
				})
				want := Key{Netns: netns, Family: tg.family, Protocol: tg.protocol, Errno: unix.EADDRINUSE}
				if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{want: 1}) {
					t.Errorf("counted %+v, want 1 of %+v", got, want)
				}
			})
		}
	})
}

// connectStorm is a process that fails to connect as often as stormEnv says, in a namespace without
// a free port.
func connectStorm([]string) error {
	calls, err := strconv.Atoi(os.Getenv(stormEnv))
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	addr := sockaddrOf(netip.MustParseAddr("127.0.0.1"), testPort)
	for range calls {
		if err := connectRaw(fd, addr); !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("connect: want EADDRNOTAVAIL, got %v", err)
		}
	}
	return nil
}

func TestStormOfConnectsIsCountedExactly(t *testing.T) {
	const processes, calls = 5, 20_000
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		requireConnects(t, tr)
		ns := newCramped(t)
		watchOnly(t, tr, ns)
		netns := uint32(ns.Inode())
		tg := targets(t, ns)[0]
		ns.Do(t, func() {
			tg.listen(t)
			tg.mustExhaust(t)
		})
		runProcesses(t, ns, processes, "connect-storm", strconv.Itoa(calls))
		want := map[Key]uint64{tg.connectKey(netns, unix.EADDRNOTAVAIL): processes*calls + 1}
		if got := countsOf(t, tr, netns); !maps.Equal(got, want) {
			t.Errorf("counted %+v, want %+v", got, want)
		}
		checkStats(t, tr)
	})
}
