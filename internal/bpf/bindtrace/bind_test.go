//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

const (
	testPort  = 4840
	otherPort = 4841
)

// way is a way in which bind fails.
type way struct {
	name  string
	errno unix.Errno
	port  uint16
	other bool           // the call has no port that the kernel would have read
	addr  netip.AddrPort // the event's
	skip  func(target) bool
	// bind makes the socket and the call that fails, and returns its error.
	bind func(t *testing.T, tg target) error
}

func ways(tg target) []way {
	at := func(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
	wrongFamily := unix.EAFNOSUPPORT
	if tg.protocol == sock.SCTP {
		wrongFamily = unix.EINVAL // sctp_sockaddr_af
	}
	// A sockaddr of the other family, long enough for either.
	foreign, foreignBytes := netip.MustParseAddr("2001:db8::2"), []byte(nil)
	if tg.family == sock.FamilyIPv6 {
		foreign = netip.MustParseAddr("192.0.2.2")
		foreignBytes = make([]byte, unix.SizeofSockaddrInet6-unix.SizeofSockaddrInet4)
	}
	return []way{
		{
			name: "port in use", errno: unix.EADDRINUSE, port: testPort, addr: at(tg.local, testPort),
			bind: func(t *testing.T, tg target) error {
				tg.openBound(t, testPort)
				return bindRaw(tg.open(t), sockaddrOf(tg.local, testPort))
			},
		}, {
			name: "address of another host", errno: unix.EADDRNOTAVAIL, port: testPort, addr: at(tg.elsewhere, testPort),
			bind: func(t *testing.T, tg target) error {
				return bindRaw(tg.open(t), sockaddrOf(tg.elsewhere, testPort))
			},
		}, {
			name: "any port of another host", errno: unix.EADDRNOTAVAIL, port: 0, addr: at(tg.elsewhere, 0),
			bind: func(t *testing.T, tg target) error {
				return bindRaw(tg.open(t), sockaddrOf(tg.elsewhere, 0))
			},
		}, {
			name: "privileged port", errno: unix.EACCES, port: 443, addr: at(tg.local, 443),
			bind: func(t *testing.T, tg target) error {
				dropCap(t, unix.CAP_NET_BIND_SERVICE)
				return bindRaw(tg.open(t), sockaddrOf(tg.local, 443))
			},
		}, {
			name: "already bound", errno: unix.EINVAL, port: testPort, addr: at(tg.local, testPort),
			bind: func(t *testing.T, tg target) error {
				return bindRaw(tg.openBound(t, otherPort), sockaddrOf(tg.local, testPort))
			},
		}, {
			name: "sockaddr too short", errno: unix.EINVAL, other: true,
			bind: func(t *testing.T, tg target) error {
				return bindRaw(tg.open(t), sockaddrOf(tg.elsewhere, testPort)[:8])
			},
		}, {
			name: "sockaddr too long", errno: unix.EINVAL, other: true,
			bind: func(t *testing.T, tg target) error {
				long := append(sockaddrOf(tg.elsewhere, testPort), make([]byte, 129)...)
				return bindRaw(tg.open(t), long[:129])
			},
		}, {
			name: "sockaddr unreadable", errno: unix.EFAULT, other: true,
			bind: func(t *testing.T, tg target) error { return bindRaw(tg.open(t), nil) },
		}, {
			name: "sockaddr of the other family", errno: wrongFamily, port: testPort, addr: at(foreign, testPort),
			skip: func(tg target) bool { return tg.name == "sctp6" }, // takes both
			bind: func(t *testing.T, tg target) error {
				return bindRaw(tg.open(t), append(sockaddrOf(foreign, testPort), foreignBytes...))
			},
		}, {
			name: "v4 sockaddr on v6 socket", errno: unix.EINVAL, port: testPort, addr: at(foreign, testPort),
			skip: func(tg target) bool { return tg.family != sock.FamilyIPv6 || tg.protocol == sock.SCTP },
			bind: func(t *testing.T, tg target) error {
				return bindRaw(tg.open(t), sockaddrOf(foreign, testPort))
			},
		}, {
			name: "sockaddr of a family without ports", errno: wrongFamily, other: true,
			bind: func(t *testing.T, tg target) error {
				sockaddr := sockaddrOf(netip.MustParseAddr("2001:db8::2"), testPort)
				binary.NativeEndian.PutUint16(sockaddr, unix.AF_UNIX)
				return bindRaw(tg.open(t), sockaddr)
			},
		}, {
			name: "AF_UNSPEC with an address", errno: wrongFamily, port: testPort,
			addr: at(netip.MustParseAddr("192.0.2.2"), testPort),
			bind: func(t *testing.T, tg target) error {
				sockaddr := append(sockaddrOf(netip.MustParseAddr("192.0.2.2"), testPort), make([]byte, 12)...)
				binary.NativeEndian.PutUint16(sockaddr, unix.AF_UNSPEC)
				return bindRaw(tg.open(t), sockaddr)
			},
		},
	}
}

// Each way in which bind fails adds one to one key, and makes one event.
func TestFailedBindCountsOnceByPortAskedFor(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort, 443)
		for _, tg := range targets(t, ns) {
			for _, w := range ways(tg) {
				if w.skip != nil && w.skip(tg) {
					continue
				}
				t.Run(tg.name+"/"+w.name, func(t *testing.T) {
					netns := uint32(ns.Inode())
					before := countsOf(t, tr, netns)
					ns.Do(t, func() {
						if err := w.bind(t, tg); !errors.Is(err, w.errno) {
							t.Fatalf("bind: want %v, got %v", w.errno, err)
						}
					})
					want := Key{
						Netns: netns, Port: w.port, OtherPort: w.other,
						Family: tg.family, Protocol: tg.protocol, Errno: w.errno,
					}
					if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{want: 1}) {
						t.Errorf("counted %+v, want 1 of %+v", got, want)
					}
					e := nextEvent(t, tr, netns)
					if got := netip.AddrPortFrom(e.Addr, e.Port); e.PortKnown == w.other || !w.other && got != w.addr {
						t.Errorf("event: port known %v, address %v, want %v", e.PortKnown, got, w.addr)
					}
					if e.Errno != w.errno || e.Family != tg.family || e.Protocol != tg.protocol || e.Op != OpBind {
						t.Errorf("event %+v is not of %+v", e, want)
					}
					if int(e.PID) != os.Getpid() || e.UID != 0 || e.Process != ownName(t) {
						t.Errorf("event: pid %d uid %d name %q are not this process", e.PID, e.UID, e.Process)
					}
				})
			}
		}
	})
}

// nextEvent returns the next event of a namespace.
func nextEvent(t *testing.T, tr *Tracer, netns uint32) Event {
	t.Helper()
	for {
		var e Event
		if err := tr.Read(time.Now().Add(10*time.Second), &e); err != nil {
			t.Fatal(err)
		}
		if e.Netns == netns {
			return e
		}
	}
}

// ownName returns the name of this process.
func ownName(t *testing.T) string {
	t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	name, _ := linux.ProcessName("/proc/self", string(comm[:len(comm)-1]))
	return name
}

func TestReuseFlagsOfTheBinderAreTold(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		for _, tg := range targets(t, ns) {
			for flags := range 8 {
				addr, port, only := flags&1, flags>>1&1, flags>>2
				if only == 1 && tg.family != sock.FamilyIPv6 {
					continue
				}
				netns := uint32(ns.Inode())
				before := countsOf(t, tr, netns)
				ns.Do(t, func() {
					fd := tg.open(t)
					err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, addr),
						unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, port))
					if tg.family == sock.FamilyIPv6 {
						err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only))
					}
					if err != nil {
						t.Fatal(err)
					}
					if err := bindRaw(fd, sockaddrOf(tg.elsewhere, testPort)); !errors.Is(err, unix.EADDRNOTAVAIL) {
						t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
					}
				})
				want := Key{
					Netns: netns, Port: testPort, Family: tg.family, Protocol: tg.protocol,
					Errno: unix.EADDRNOTAVAIL,
				}
				if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{want: 1}) {
					t.Errorf("%s: counted %+v, want 1 of %+v", tg.name, got, want)
				}
				e := nextEvent(t, tr, netns)
				if e.ReuseAddr != (addr == 1) || e.ReusePort != (port == 1) || e.V6Only != (only == 1) {
					t.Errorf("%s: event has flags %v %v %v, want %v %v %v", tg.name,
						e.ReuseAddr, e.ReusePort, e.V6Only, addr == 1, port == 1, only == 1)
				}
			}
		}
	})
}

func TestEventTellsWhenWhereAndWho(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		before := time.Now()
		ns.Do(t, func() {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.BindToDevice(fd, "lo"); err != nil {
				t.Fatal(err)
			}
			addr := sockaddrOf(netip.MustParseAddr("fe80::1"), testPort)
			binary.NativeEndian.PutUint32(addr[24:], 1) // sin6_scope_id: lo
			if err := bindRaw(fd, addr); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
			}
		})
		e := nextEvent(t, tr, uint32(ns.Inode()))
		if e.Ifindex != 1 || e.Addr != netip.MustParseAddr("fe80::1%1") || e.Port != testPort {
			t.Errorf("event of %v port %d on device %d, want fe80::1%%1, %d, 1", e.Addr, e.Port, e.Ifindex, testPort)
		}
		// The clocks are read one after the other, and one may be set meanwhile.
		if e.Time.Before(before.Add(-time.Minute)) || e.Time.After(time.Now().Add(time.Minute)) {
			t.Errorf("event at %v, want about %v", e.Time, before)
		}
		if want, known := ownCgroup(t); known && e.CgroupID != want {
			t.Errorf("event of cgroup %d, want %d", e.CgroupID, want)
		}
	})
}

// ownCgroup is the inode of this process's cgroup, if cgroup2 is mounted where
// it usually is.
func ownCgroup(t *testing.T) (uint64, bool) {
	t.Helper()
	lines, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !v2 {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var fs unix.Statfs_t
			var st unix.Stat_t
			if unix.Statfs(mount, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC && unix.Stat(mount+path, &st) == nil {
				return st.Ino, true
			}
		}
	}
	t.Log("cgroup2 is not mounted")
	return 0, false
}

// A bind that succeeds, failures on other than IP sockets, and listen on a socket that cannot listen
// do not count.
func TestNothingElseIsCounted(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		netns := uint32(ns.Inode())
		stats, err := tr.Stats()
		if err != nil {
			t.Fatal(err)
		}
		any4 := sockaddrOf(netip.IPv4Unspecified(), testPort)
		ns.Do(t, func() {
			tcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(tcp)
			local, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(local)
			file, err := os.Open("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(udp)
			if err := unix.Listen(udp, 1); !errors.Is(err, unix.EOPNOTSUPP) {
				t.Errorf("listen on udp: want EOPNOTSUPP, got %v", err)
			}
			for _, c := range []struct {
				name string
				fd   int
				want error
			}{
				{"works", tcp, nil},
				{"no such descriptor", 1 << 20, unix.EBADF},
				{"negative descriptor", -1, unix.EBADF},
				{"no socket", int(file.Fd()), unix.ENOTSOCK},
				{"unix socket", local, unix.EINVAL},
			} {
				if err := bindRaw(c.fd, any4); !errors.Is(err, c.want) {
					t.Errorf("bind, %s: want %v, got %v", c.name, c.want, err)
				}
			}
		})
		if got := countsOf(t, tr, netns); len(got) != 0 {
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

// A call that seccomp answers is not a bind.
func TestAnswerOfSeccompIsNotCounted(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		ns.Do(t, func() {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			answer(t, unix.SYS_BIND, unix.EADDRINUSE)
			if err := bindRaw(fd, sockaddrOf(netip.IPv4Unspecified(), testPort)); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("bind: want EADDRINUSE, got %v", err)
			}
		})
		if got := countsOf(t, tr, uint32(ns.Inode())); len(got) != 0 {
			t.Errorf("counted %+v, want nothing", got)
		}
		checkStats(t, tr)
	})
}

// A port that is not watched counts under other, and existing counts stay.
func TestWatchedSetBoundsKeysAndKeepsCounts(t *testing.T) {
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		const port = 20017 // unlikely to fail on this host by itself
		watched, unwatched := kerneltest.New(t), kerneltest.New(t)
		inode := uint32(watched.Inode())
		// UDP over IPv6 with both flags is rare, so the host's own failures do not disturb it in namespace 0.
		fail := func(ns *kerneltest.NetNS) {
			t.Helper()
			ns.Do(t, func() {
				fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
					unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
				if err != nil {
					t.Fatal(err)
				}
				if err := bindRaw(fd, sockaddrOf(netip.MustParseAddr("2001:db8::1"), port)); !errors.Is(err, unix.EADDRNOTAVAIL) {
					t.Fatalf("bind: want EADDRNOTAVAIL, got %v", err)
				}
			})
		}
		key := func(netns uint32, other bool) Key {
			k := Key{
				Netns: netns, Port: port, Family: sock.FamilyIPv6, Protocol: sock.UDP,
				Errno: unix.EADDRNOTAVAIL,
			}
			if other {
				k.Port, k.OtherPort = 0, true
			}
			return k
		}
		for _, step := range []struct {
			name  string
			ports []uint16
			in    *kerneltest.NetNS
			key   Key
			want  uint64
		}{
			{"watched", []uint16{1, port, 65535}, watched, key(inode, false), 1},
			{"unwatched namespace", []uint16{port}, unwatched, key(0, false), 1},
			// The counts of a port that is not watched any more are of the other ports.
			{"unwatched port", []uint16{port - 1, port + 1}, watched, key(inode, true), 2},
			{"neither", nil, unwatched, key(0, true), 2},
			{"watched again", []uint16{port}, watched, key(inode, false), 1},
		} {
			watchOnly(t, tr, watched, step.ports...)
			fail(step.in)
			if got := countsOf(t, tr, step.key.Netns)[step.key]; got != step.want {
				t.Errorf("%s: %+v counted %d times, want %d", step.name, step.key, got, step.want)
			}
		}
		if err := tr.SetWatch([]uint32{uint32(unwatched.Inode())}, []Port{{Number: port}}); err != nil {
			t.Fatal(err)
		}
		fail(watched)
		got := countsOf(t, tr, 0)
		if k := key(0, false); got[k] != 1 {
			t.Errorf("no longer watched: %+v counted %d times, want 1", k, got[k])
		}
		if k := key(0, true); got[k] != 5 { // and 3 of the namespace
			t.Errorf("no longer watched: %+v counted %d times, want 5", k, got[k])
		}
		if got := total(countsOf(t, tr, inode)); got != 0 {
			t.Errorf("%d failures in the namespace that is not watched any more, want 0", got)
		}
	})
}

func TestFailedListenCountsUnderBoundPort(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		netns := uint32(ns.Inode())
		for _, tg := range targets(t, ns) {
			if !slices.Contains([]sock.Protocol{sock.TCP, sock.MPTCP}, tg.protocol) {
				continue
			}
			t.Run(tg.name, func(t *testing.T) {
				before := countsOf(t, tr, netns)
				ns.Do(t, func() {
					var fds [2]int
					for i := range fds {
						fds[i] = tg.open(t)
						if err := unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
							t.Fatal(err)
						}
						if err := bindRaw(fds[i], sockaddrOf(tg.local, testPort)); err != nil {
							t.Fatal(err)
						}
					}
					if err := unix.Listen(fds[0], 1); err != nil {
						t.Fatal(err)
					}
					if err := unix.Listen(fds[1], 1); !errors.Is(err, unix.EADDRINUSE) {
						t.Fatalf("listen: want EADDRINUSE, got %v", err)
					}
					if err := unix.Listen(-1, 1); !errors.Is(err, unix.EBADF) {
						t.Fatalf("listen: want EBADF, got %v", err)
					}
				})
				want := Key{
					Netns: netns, Port: testPort, Op: OpListen, Family: tg.family, Protocol: tg.protocol,
					Errno: unix.EADDRINUSE,
				}
				if got := grown(before, countsOf(t, tr, netns)); !maps.Equal(got, map[Key]uint64{want: 1}) {
					t.Errorf("counted %+v, want 1 of %+v", got, want)
				}
				e := nextEvent(t, tr, netns)
				if e.Op != OpListen || e.Port != testPort || e.Addr != tg.local {
					t.Errorf("event %+v is not of %+v", e, want)
				}
			})
		}
	})
}
