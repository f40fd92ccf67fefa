//go:build linux

package bindtrace

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/sock"
)

var (
	v4any  = netip.MustParseAddr("0.0.0.0")
	v4lo   = netip.MustParseAddr("127.0.0.1")
	v4lo2  = netip.MustParseAddr("127.0.0.2")
	v6any  = netip.MustParseAddr("::")
	v6lo   = netip.MustParseAddr("::1")
	mapped = netip.MustParseAddr("::ffff:127.0.0.1")
)

// A situation is what is on testPort, and a bind that fails there.
type situation struct {
	name string
	// make makes the sockets, and returns those that are in the way.
	make func(t *testing.T, ns *kerneltest.NetNS) []Blocker
	addr netip.Addr // of the bind that fails
	opts kerneltest.Options
	// fail fails in place of the bind with these options.
	fail func(t *testing.T, ns *kerneltest.NetNS)
}

// open is a blocker that this process has open.
func open(t *testing.T, s *kerneltest.Socket, state sock.State, flags sock.ReuseFlags) Blocker {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(s.FD(), &st); err != nil {
		t.Fatal(err)
	}
	return Blocker{
		Socket: bhash.Socket{Port: testPort, Addr: s.Addr().Addr(), State: state, ReuseFlags: flags, NamedPort: state == sock.StateListen || state == sock.StateClose},
		Inode:  st.Ino, Own: true,
	}
}

func listenAt(t *testing.T, ns *kerneltest.NetNS, addr netip.Addr, opts kerneltest.Options) (*kerneltest.Listener, Blocker) {
	t.Helper()
	l := ns.Listen(t, netip.AddrPortFrom(addr, testPort), opts)
	b := open(t, &l.Socket, sock.StateListen, sock.ReuseFlags{ReuseAddr: opts.ReuseAddr, ReusePort: opts.ReusePort})
	b.V6Only = opts.V6Only != nil && *opts.V6Only
	return l, b
}

func closed(t *testing.T, s *kerneltest.Socket) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// nobodysSocket makes a socket with SO_REUSEPORT that is another user's before it binds: the kernel
// remembers the user of the bind.
func nobodysSocket(t *testing.T, ns *kerneltest.NetNS) (fd int) {
	t.Helper()
	ns.Do(t, func() { fd = target{domain: unix.AF_INET, typ: unix.SOCK_STREAM}.open(t) })
	err := errors.Join(unix.Fchown(fd, nobody, nobody), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func nobodyFails(t *testing.T, ns *kerneltest.NetNS) {
	t.Helper()
	if err := bindRaw(nobodysSocket(t, ns), sockaddrOf(v4any, testPort)); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("bind: %v, want EADDRINUSE", err)
	}
}

func nobodyListens(t *testing.T, ns *kerneltest.NetNS) Blocker {
	t.Helper()
	fd := nobodysSocket(t, ns)
	var st unix.Stat_t
	err := errors.Join(bindRaw(fd, sockaddrOf(v4any, testPort)), unix.Listen(fd, 1), unix.Fstat(fd, &st))
	if err != nil {
		t.Fatal(err)
	}
	return Blocker{
		Socket: bhash.Socket{
			Port: testPort, Addr: v4any, State: sock.StateListen, NamedPort: true, UID: nobody, ReuseFlags: sock.ReuseFlags{ReusePort: true},
		},
		Inode: st.Ino, Own: true,
	}
}

// timeWaitOf makes a TIME_WAIT socket of a listener.
func timeWaitOf(t *testing.T, l *kerneltest.Listener, from, local netip.Addr, flags sock.ReuseFlags) Blocker {
	t.Helper()
	p := l.Peers(t, kerneltest.StateTimeWait, 1, from)[0]
	peer := p.Addr
	if local.Is4In6() {
		peer = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port())
	}
	return Blocker{
		Socket: bhash.Socket{Port: testPort, Addr: local, State: sock.StateTimeWait, Kind: sock.KindTimeWait, ReuseFlags: flags},
		Peer:   peer,
	}
}

func situations() []situation {
	reuse, reusePort := kerneltest.Options{ReuseAddr: true}, kerneltest.Options{ReusePort: true}
	return []situation{
		{
			name: "TIME_WAIT of a server that is gone", addr: v4any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, _ := listenAt(t, ns, v4any, kerneltest.Options{})
				tw := timeWaitOf(t, l, v4lo, v4lo, sock.ReuseFlags{})
				closed(t, &l.Socket)
				return []Blocker{tw}
			},
		}, {
			name: "TIME_WAIT of a dual-stack server", addr: v4any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, _ := listenAt(t, ns, v6any, kerneltest.Options{})
				tw := []Blocker{timeWaitOf(t, l, v4lo, mapped, sock.ReuseFlags{}), timeWaitOf(t, l, v6lo, v6lo, sock.ReuseFlags{})}
				closed(t, &l.Socket)
				return tw
			},
		}, {
			name: "TIME_WAIT without the flag of the binder", addr: v4any, opts: reuse,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, _ := listenAt(t, ns, v4any, kerneltest.Options{})
				tw := timeWaitOf(t, l, v4lo, v4lo, sock.ReuseFlags{})
				closed(t, &l.Socket)
				return []Blocker{tw}
			},
		}, {
			name: "only the listener where all have SO_REUSEADDR", addr: v4any, opts: reuse,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, b := listenAt(t, ns, v4any, reuse)
				timeWaitOf(t, l, v4lo, v4lo, sock.ReuseFlags{ReuseAddr: true})
				return []Blocker{b}
			},
		}, {
			name: "listener of another user", addr: v4lo,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, b := listenAt(t, ns, v4any, kerneltest.Options{})
				if err := unix.Fchown(l.FD(), nobody, nobody); err != nil {
					t.Fatal(err)
				}
				b.UID = nobody
				return []Blocker{b}
			},
		}, {
			name: "SO_REUSEPORT of another user", addr: v4any, opts: reusePort,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				return []Blocker{nobodyListens(t, ns)}
			},
		}, {
			name: "TIME_WAIT with SO_REUSEPORT is not in the way of any user", fail: nobodyFails,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, _ := listenAt(t, ns, v4lo, reusePort)
				timeWaitOf(t, l, v4lo, v4lo, sock.ReuseFlags{ReusePort: true})
				closed(t, &l.Socket)
				s := ns.Bind(t, netip.AddrPortFrom(v4lo2, testPort), kerneltest.Options{})
				return []Blocker{open(t, s, sock.StateClose, sock.ReuseFlags{})}
			},
		}, {
			name: "own dual-stack listener", addr: v4any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				_, b := listenAt(t, ns, v6any, kerneltest.Options{})
				return []Blocker{b}
			},
		}, {
			name: "v6only listener is not in the way of 0.0.0.0", addr: v4any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				listenAt(t, ns, v6any, kerneltest.Options{V6Only: new(true)})
				_, b := listenAt(t, ns, v4lo, kerneltest.Options{})
				return []Blocker{b}
			},
		}, {
			name: "both listeners are in the way of a dual-stack one", addr: v6any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				_, v6 := listenAt(t, ns, v6any, kerneltest.Options{V6Only: new(true)})
				_, v4 := listenAt(t, ns, v4lo, kerneltest.Options{})
				return []Blocker{v6, v4}
			},
		}, {
			name: "one is in the way of a v6only one", addr: v6any, opts: kerneltest.Options{V6Only: new(true)},
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				_, v6 := listenAt(t, ns, v6any, kerneltest.Options{V6Only: new(true)})
				listenAt(t, ns, v4lo, kerneltest.Options{})
				return []Blocker{v6}
			},
		}, {
			name: "v4-mapped address", addr: mapped,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				_, b := listenAt(t, ns, v4lo, kerneltest.Options{})
				listenAt(t, ns, v4lo2, kerneltest.Options{})
				listenAt(t, ns, v6lo, kerneltest.Options{})
				return []Blocker{b}
			},
		}, {
			name: "IPv6 address", addr: v6lo,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				listenAt(t, ns, v4any, kerneltest.Options{})
				s := ns.Bind(t, netip.AddrPortFrom(v6lo, testPort), kerneltest.Options{})
				b := open(t, s, sock.StateClose, sock.ReuseFlags{})
				b.V6Only = true // as for each IPv6 address
				return []Blocker{b}
			},
		}, {
			name: "accepted connection in CLOSE_WAIT", addr: v4any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, _ := listenAt(t, ns, v4any, kerneltest.Options{})
				p := l.Peers(t, kerneltest.StateCloseWait, 1, v4lo)[0]
				closed(t, &l.Socket)
				b := open(t, p.Local, sock.StateCloseWait, sock.ReuseFlags{})
				b.Peer = p.Addr
				return []Blocker{b}
			},
		}, {
			name: "connection that was not accepted", addr: v4lo,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, b := listenAt(t, ns, v4any, kerneltest.Options{})
				client := l.Queue(t, 1, v4lo)[0]
				return []Blocker{b, {
					Socket: bhash.Socket{Port: testPort, Addr: v4lo, State: sock.StateEstablished, NoProcess: true}, Peer: client.Addr(),
				}}
			},
		}, {
			name: "IPv6 connection", addr: v6any,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				l, b := listenAt(t, ns, v6any, kerneltest.Options{})
				p := l.Peers(t, kerneltest.StateEstablished, 1, v6lo)[0]
				c := open(t, p.Local, sock.StateEstablished, sock.ReuseFlags{})
				c.Peer = p.Addr
				return []Blocker{b, c}
			},
		}, {
			name: "bound socket", addr: v4any, opts: reusePort,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				s := ns.Bind(t, netip.AddrPortFrom(v4lo, testPort), reuse)
				return []Blocker{open(t, s, sock.StateClose, sock.ReuseFlags{ReuseAddr: true})}
			},
		}, {
			name: "other devices are not in the way", addr: v4any, opts: kerneltest.Options{Device: "second"},
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				ns.AddDummy(t, "first")
				ns.AddDummy(t, "second")
				listenAt(t, ns, v4any, kerneltest.Options{Device: "first"})
				l, b := listenAt(t, ns, v4any, kerneltest.Options{Device: "second"})
				index, err := unix.GetsockoptInt(l.FD(), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
				if err != nil {
					t.Fatal(err)
				}
				b.Ifindex = uint32(index)
				return []Blocker{b}
			},
		}, {
			name: "other namespaces, ports and addresses are not in the way", addr: v4lo,
			make: func(t *testing.T, ns *kerneltest.NetNS) []Blocker {
				listenAt(t, kerneltest.New(t), v4any, kerneltest.Options{})
				ns.Listen(t, netip.AddrPortFrom(v4lo, otherPort), kerneltest.Options{})
				listenAt(t, ns, v4lo2, kerneltest.Options{})
				_, b := listenAt(t, ns, v4lo, kerneltest.Options{})
				return []Blocker{b}
			},
		},
	}
}

// What is in the way is captured, and nothing else.
func TestCaptureOfWhatIsInTheWay(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		for _, s := range situations() {
			t.Run(s.name, func(t *testing.T) {
				ns := kerneltest.New(t)
				want := s.make(t, ns)
				if s.fail != nil {
					s.fail(t, ns)
				} else {
					mustBeInUse(t, ns, s.addr, s.opts)
				}
				checkBlockers(t, nextEvent(t, tr, uint32(ns.Inode())), want)
			})
		}
	})
}

// mustCapture fails where blockers are not captured. Kernels before Linux 6.1 are not tested.
func mustCapture(t *testing.T, tr *Tracer) {
	t.Helper()
	if err := tr.CapturesErr(); err != nil {
		t.Fatal(err)
	}
}

// mustBeInUse fails to bind to testPort.
func mustBeInUse(t *testing.T, ns *kerneltest.NetNS, addr netip.Addr, opts kerneltest.Options) {
	t.Helper()
	s, err := ns.OpenBound(netip.AddrPortFrom(addr, testPort), opts)
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("bind to %v: %v, want EADDRINUSE", addr, err)
	}
}

// checkBlockers compares all but the cookies and the exact time left.
func checkBlockers(t *testing.T, e Event, want []Blocker) {
	t.Helper()
	if e.Captured != CaptureAll {
		t.Errorf("captured %d, want all: %d", e.Captured, CaptureAll)
	}
	got := slices.Clone(e.Blockers)
	listens := func(b Blocker) bool { return b.State == sock.StateListen }
	for i := range got {
		b := &got[i]
		if timeWait := b.Kind == sock.KindTimeWait; timeWait != (b.Expires > 0) || b.Expires > 2*time.Minute {
			t.Errorf("%+v: expires in %v", b, b.Expires)
		}
		b.Expires, b.Cookie = 0, 0
		if i > 0 && listens(*b) && !listens(got[i-1]) {
			t.Errorf("a listener comes after another socket: %+v", got)
		}
	}
	order := func(a, b Blocker) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		t.Errorf("captured\n%+v, want\n%+v", got, want)
	}
}

// The socket that loses is not in its own way. Others that are only bound are, if it has no
// SO_REUSEADDR any more.
func TestCaptureOfListenThatLoses(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		for _, tt := range []struct {
			name         string
			first, loser netip.Addr
			mptcp, reuse bool
		}{
			{"ipv4", v4any, v4lo, false, true},
			{"ipv6", v6any, v4any, false, true},
			{"without SO_REUSEADDR", v4any, v4lo, false, false},
			{"mptcp", v4any, v4any, true, true},
			{"mptcp without SO_REUSEADDR", v4any, v4any, true, false},
		} {
			t.Run(tt.name, func(t *testing.T) {
				ns := kerneltest.New(t)
				if tt.mptcp && !hasMPTCP(t, ns) {
					return
				}
				bind := func(addr netip.Addr) *kerneltest.Socket {
					return ns.Bind(t, netip.AddrPortFrom(addr, testPort), kerneltest.Options{ReuseAddr: true, MPTCP: tt.mptcp})
				}
				first, loser, other := bind(tt.first), bind(tt.loser), bind(v4any)
				want := []Blocker{open(t, first, sock.StateListen, sock.ReuseFlags{ReuseAddr: true})}
				if err := unix.Listen(first.FD(), 1); err != nil {
					t.Fatal(err)
				}
				if !tt.reuse {
					if err := unix.SetsockoptInt(loser.FD(), unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
						t.Fatal(err)
					}
					want = append(want, open(t, other, sock.StateClose, sock.ReuseFlags{ReuseAddr: true}))
				}
				if err := unix.Listen(loser.FD(), 1); !errors.Is(err, unix.EADDRINUSE) {
					t.Fatalf("listen: %v, want EADDRINUSE", err)
				}
				checkBlockers(t, nextEvent(t, tr, uint32(ns.Inode())), want)
			})
		}
	})
}

// hasMPTCP says whether the kernel has MPTCP.
func hasMPTCP(t *testing.T, ns *kerneltest.NetNS) bool {
	t.Helper()
	return slices.ContainsFunc(targets(t, ns), func(tg target) bool { return tg.protocol == sock.MPTCP })
}

// An MPTCP socket is known by its first TCP socket, which has its inode.
func TestCaptureOfMPTCP(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		if !hasMPTCP(t, ns) {
			return
		}
		l, listener := listenAt(t, ns, v6any, kerneltest.Options{MPTCP: true})
		p := l.Peers(t, kerneltest.StateEstablished, 1, v4lo)[0]
		connection := open(t, p.Local, sock.StateEstablished, sock.ReuseFlags{})
		connection.Addr = mapped
		connection.Peer = netip.AddrPortFrom(mapped, p.Addr.Port())
		for _, mptcp := range []bool{false, true} {
			mustBeInUse(t, ns, v4any, kerneltest.Options{MPTCP: mptcp})
			e := nextEvent(t, tr, uint32(ns.Inode()))
			if (e.Protocol == sock.MPTCP) != mptcp {
				t.Errorf("event of %v", e.Protocol)
			}
			checkBlockers(t, e, []Blocker{listener, connection})
		}
	})
}

// failAtOnce makes a listener and a connection from another port, fails to bind to both ports, and
// ends. Nothing of it is left then.
func failAtOnce([]string) error {
	listener, connection, binder := -1, -1, -1
	var err error
	for _, fd := range []*int{&listener, &connection, &binder} {
		if *fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
	}
	abort := &unix.Linger{Onoff: 1}
	err = errors.Join(
		bindRaw(listener, sockaddrOf(v4lo, testPort)),
		unix.Listen(listener, 1),
		bindRaw(connection, sockaddrOf(v4lo2, otherPort)),
		unix.SetsockoptLinger(connection, unix.SOL_SOCKET, unix.SO_LINGER, abort),
		connectRaw(connection, sockaddrOf(v4lo, testPort)),
	)
	if err != nil {
		return err
	}
	for addr, port := range map[netip.Addr]uint16{v4lo: testPort, v4lo2: otherPort} {
		if err := bindRaw(binder, sockaddrOf(addr, port)); !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind to port %d: %w, want EADDRINUSE", port, err)
		}
	}
	return nil
}

func TestCaptureOfAProcessThatEndsAtOnce(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		cmd := ns.Command(t, "/proc/self/exe")
		cmd.Env = reexec.RoleEnv("fail-at-once")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			e := nextEvent(t, tr, uint32(ns.Inode()))
			if int(e.PID) != cmd.Process.Pid || e.Captured != CaptureAll || len(e.Blockers) == 0 {
				t.Fatalf("event %+v", e)
			}
			b := e.Blockers[0]
			want := Blocker{Socket: bhash.Socket{Port: testPort, Addr: v4lo, State: sock.StateListen, NamedPort: true}}
			if e.Port == otherPort {
				want = Blocker{
					Socket: bhash.Socket{Port: otherPort, Addr: v4lo2, State: sock.StateEstablished, NamedPort: true},
					Peer:   netip.AddrPortFrom(v4lo, testPort), Outgoing: true,
				}
			}
			if b.Inode == 0 || !b.Own {
				t.Errorf("%+v: want an inode, and own", b)
			}
			b.Inode, b.Own, b.Cookie = 0, false, 0
			if b != want {
				t.Errorf("captured %+v, want %+v", b, want)
			}
		}
		ns.Bind(t, netip.AddrPortFrom(v4lo2, otherPort), kerneltest.Options{})
	})
}

// failBesideTest fails to bind, and ends.
func failBesideTest([]string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := bindRaw(fd, sockaddrOf(v4lo, testPort)); !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("bind: %w, want EADDRINUSE", err)
	}
	return nil
}

// Only what the caller has open is its own.
func TestCaptureOfAnotherProcess(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		_, b := listenAt(t, ns, v4any, kerneltest.Options{})
		cmd := ns.Command(t, "/proc/self/exe")
		cmd.Env = reexec.RoleEnv("fail-beside-test")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		b.Own = false
		checkBlockers(t, nextEvent(t, tr, uint32(ns.Inode())), []Blocker{b})
	})
}

// The cookie is the one that sock_diag shows, once it has asked for one.
func TestCaptureHasTheCookie(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		l, _ := listenAt(t, ns, v4any, kerneltest.Options{})
		cookie, err := unix.GetsockoptUint64(l.FD(), unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			t.Fatal(err)
		}
		mustBeInUse(t, ns, v4any, kerneltest.Options{})
		if e := nextEvent(t, tr, uint32(ns.Inode())); len(e.Blockers) != 1 || e.Blockers[0].Cookie != cookie {
			t.Errorf("captured %+v, want cookie %d", e.Blockers, cookie)
		}
	})
}

// Other failures have no blockers.
func TestNothingIsCapturedWhereNothingIsInTheWay(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := newCramped(t)
		for _, tg := range targets(t, ns) {
			ns.Do(t, func() {
				if err := bindRaw(tg.open(t), sockaddrOf(tg.elsewhere, testPort)); !errors.Is(err, unix.EADDRNOTAVAIL) {
					t.Fatal(err)
				}
				if tg.protocol != sock.TCP && tg.protocol != sock.MPTCP && tg.protocol != sock.UDP {
					tg.openBound(t, testPort)
					if err := bindRaw(tg.open(t), sockaddrOf(tg.local, testPort)); !errors.Is(err, unix.EADDRINUSE) {
						t.Fatal(err)
					}
				}
			})
		}
		for range targets(t, ns) {
			e := nextEvent(t, tr, uint32(ns.Inode()))
			if e.Captured != CaptureNone || e.Blockers != nil {
				t.Errorf("%+v: captured %d, %+v, want none", e, e.Captured, e.Blockers)
			}
		}
	})
}

// As on a kernel without bpf_loop().
func TestEventsWithoutCapture(t *testing.T) {
	eachMode(t, Options{noCapture: true}, func(t *testing.T, tr *Tracer) {
		if err := tr.CapturesErr(); !errors.Is(err, ErrOff) {
			t.Errorf("captures: %v, want %v", err, ErrOff)
		}
		ns := kerneltest.New(t)
		listenAt(t, ns, v4any, kerneltest.Options{})
		mustBeInUse(t, ns, v4any, kerneltest.Options{})
		e := nextEvent(t, tr, uint32(ns.Inode()))
		if e.Captured != CaptureNone || e.Blockers != nil || e.Port != testPort || e.Errno != unix.EADDRINUSE {
			t.Errorf("event %+v", e)
		}
	})
}
