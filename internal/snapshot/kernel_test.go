package snapshot

import (
	"bufio"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

var (
	localhost4 = netip.MustParseAddr("127.0.0.1")
	localhost6 = netip.MustParseAddr("::1")
)

// kernelTaker takes snapshots of a namespace, from the running kernel.
func kernelTaker(t *testing.T, ns *kerneltest.NetNS, watched watch.Config) *Taker {
	t.Helper()
	reader, err := stack.NewReader("/proc")
	if err != nil {
		t.Fatal(err)
	}
	return newTaker(t, Config{
		Host: &probe.Host{Config: probe.Config{
			NetNS: ns.FD(),
			Stack: func() (stats stack.Stats, err error) {
				err = ns.Run(func() (err error) {
					stats, err = reader.Read()
					return err
				})
				return stats, err
			},
		}},
		Retention: retention,
		Parts:     Parts{TCP: true, Listeners: true},
	}, watched)
}

// showsBoundInactive: the kernel dumps sockets that are bound and nothing more, from
// Linux 6.8 on (TCP_BOUND_INACTIVE).
func showsBoundInactive(t *testing.T) bool { return kerneltest.KernelAtLeast(t, 6, 8) }

func TestKernelSocketsInEveryState(t *testing.T) {
	inactive := showsBoundInactive(t)
	for _, kind := range []struct {
		name   string
		listen string
		from   netip.Addr
		option *bool // IPV6_V6ONLY
		family netlinkdiag.Family
		v6only bool // what becomes of it
	}{
		{"ipv4", "127.0.0.1", localhost4, nil, netlinkdiag.FamilyIPv4, false},
		{"ipv4 wildcard", "0.0.0.0", localhost4, nil, netlinkdiag.FamilyIPv4, false},
		// bind() sets sk_ipv6only for any address but the wildcard and v4-mapped ones
		// (__inet6_bind).
		{"ipv6", "::1", localhost6, new(false), netlinkdiag.FamilyIPv6, true},
		{"ipv6 wildcard v6only", "::", localhost6, new(true), netlinkdiag.FamilyIPv6, true},
		{"dual-stack ipv6", "::", localhost6, new(false), netlinkdiag.FamilyIPv6, false},
		{"dual-stack ipv4", "::", localhost4, new(false), netlinkdiag.FamilyIPv6, false},
		{"v4-mapped", "::ffff:127.0.0.1", localhost4, nil, netlinkdiag.FamilyIPv6, false},
	} {
		t.Run(kind.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			taker := kernelTaker(t, ns, discovering())
			want := ports.PortSockets{Number: 4840}
			half := want.Of(kind.family)

			// A number of its own for each state, so that none is taken for another.
			addr := netip.AddrPortFrom(netip.MustParseAddr(kind.listen), want.Number)
			l := ns.Listen(t, addr, kerneltest.Options{V6Only: kind.option})
			half.States[netlinkdiag.StateListen] = 1
			n := 1
			for _, state := range kerneltest.States() {
				switch state {
				case kerneltest.StateListen:
					continue
				case kerneltest.StateClose:
					// A second one would conflict with it.
					l.Peers(t, state, 1, kind.from)
					if inactive {
						half.States[netlinkdiag.StateClose] = 1
					}
					continue
				}
				n++
				l.Peers(t, state, n, kind.from)
				half.States[state] = uint64(n)
			}
			ns.Listen(t, netip.AddrPortFrom(localhost6, 631), kerneltest.Options{})

			s := whole(t, taker)
			checkWatched(t, &s, 631, 4840)
			got := port(t, &s, 4840)
			if left := got.Of(kind.family).TimeWaitRemaining; left <= 0 || left > time.Minute {
				t.Errorf("TIME_WAIT for %v, want up to a minute", left)
			}
			got.Of(kind.family).TimeWaitRemaining = 0
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}

			g := s.Listeners.Data[1]
			if len(s.Listeners.Data) != 2 || g.Port != 4840 || g.Family != kind.family ||
				g.Address != addr.Addr() || g.Interface != "" || g.Sockets != 1 || g.QueueLimit != kerneltest.DefaultBacklog ||
				g.V6Only != kind.v6only || !g.DropsKnown {
				t.Errorf("listeners are %+v", s.Listeners.Data)
			}
		})
	}
}

func TestKernelListenerOnADevice(t *testing.T) {
	ns := kerneltest.New(t)
	ns.AddDummy(t, "dummy7", netip.MustParsePrefix("192.0.2.1/24"))
	addr := netip.AddrPortFrom(netip.IPv4Unspecified(), 4840)
	ns.Listen(t, addr, kerneltest.Options{Device: "dummy7"})
	ns.Listen(t, addr, kerneltest.Options{Device: "lo"})

	s := whole(t, kernelTaker(t, ns, discovering()))
	var got []string
	for _, g := range s.Listeners.Data {
		got = append(got, g.Interface)
	}
	if strings.Join(got, " ") != "lo dummy7" { // lo is always the first device
		t.Errorf("groups on %q, want lo and dummy7", got)
	}
	if n := port(t, &s, 4840).IPv4.States[netlinkdiag.StateListen]; n != 2 {
		t.Errorf("%d listening sockets on the port, want 2", n)
	}
}

// tcpExt reads a counter of /proc/net/netstat.
func tcpExt(t *testing.T, ns *kerneltest.NetNS, name string) uint64 {
	t.Helper()
	var value uint64
	ns.Do(t, func() {
		t.Helper()
		f, err := os.Open("/proc/thread-self/net/netstat")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			names := strings.Fields(lines.Text())
			lines.Scan()
			values := strings.Fields(lines.Text())
			for i := range names {
				if names[0] == "TcpExt:" && names[i] == name {
					if value, err = strconv.ParseUint(values[i], 10, 64); err != nil {
						t.Fatal(err)
					}
					return
				}
			}
		}
		t.Fatalf("no TcpExt %s in /proc/net/netstat", name)
	})
	return value
}

// overrun connects clients, more than the listener's accept queue takes, until some are
// dropped. It does so one after the other: a queue that fills up while a handshake is on
// its way drops at the last ACK, and tcp_v4_rcv then counts the packet in sk_drops once more.
func overrun(t *testing.T, ns *kerneltest.NetNS, l *kerneltest.Listener, clients int, from netip.Addr) {
	t.Helper()
	for accepted := 0; clients > 0; clients-- {
		dropped := tcpExt(t, ns, "ListenOverflows")
		c := l.Queue(t, 1, from)[0]
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if tcpExt(t, ns, "ListenOverflows") > dropped {
				// No retransmission is to be dropped later on.
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				break
			}
			if established(t, ns, l.Port()) > accepted {
				accepted++
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("a client was neither let in nor dropped")
			}
		}
	}
}

// established counts the connections on a local port.
func established(t *testing.T, ns *kerneltest.NetNS, port uint16) int {
	t.Helper()
	sockets, err := ns.TCPSockets()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range sockets {
		if s.Local.Port() == port && s.State == kerneltest.StateEstablished {
			n++
		}
	}
	return n
}

func TestKernelAcceptQueueOverrun(t *testing.T) {
	for _, tt := range []struct {
		name    string
		listen  string
		from    netip.Addr
		backlog int
	}{
		{"ipv4", "127.0.0.1", localhost4, 2},
		{"ipv6", "::1", localhost6, 4},
		{"dual-stack", "::", localhost4, 1},
		{"backlog 0", "127.0.0.1", localhost4, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			taker := kernelTaker(t, ns, discovering())
			l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(tt.listen), 4840), kerneltest.Options{Backlog: tt.backlog})
			limit := uint64(max(tt.backlog, 0))

			s := whole(t, taker)
			if g := s.Listeners.Data[0]; g.Queue != 0 || g.QueueLimit != limit || g.QueueRatio != 0 || g.Drops != 0 {
				t.Errorf("before: got %+v, want an empty queue of %d", g, limit)
			}
			overrun(t, ns, l, 10, tt.from)
			s = whole(t, taker)
			overflows := tcpExt(t, ns, "ListenOverflows")

			// sk_acceptq_is_full compares with >, so one more than the limit is let in.
			g := s.Listeners.Data[0]
			if g.Queue != limit+1 || g.QueueLimit != limit || g.QueueRatio != float64(limit+1)/float64(max(limit, 1)) {
				t.Errorf("got queue %d, limit %d, ratio %v, want %d of %d", g.Queue, g.QueueLimit, g.QueueRatio, limit+1, limit)
			}
			if overflows == 0 || g.Drops != overflows || s.Stack.Data.ListenOverflows.V != overflows {
				t.Errorf("%d drops at the listener, %d in the stack's part, want %d as /proc/net/netstat has it",
					g.Drops, s.Stack.Data.ListenOverflows.V, overflows)
			}
		})
	}
}

func TestKernelDropsOutliveSocketsOfAGroup(t *testing.T) {
	ns := kerneltest.New(t)
	taker := kernelTaker(t, ns, discovering())
	addr := netip.AddrPortFrom(localhost4, 4840)
	opts := kerneltest.Options{ReusePort: true, Backlog: 1}
	first, second := ns.Listen(t, addr, opts), ns.Listen(t, addr, opts)
	overrun(t, ns, first, 40, localhost4) // which the kernel spreads over both

	s := whole(t, taker)
	before := s.Listeners.Data[0]
	if before.Sockets != 2 || before.QueueLimit != 2 || before.Queue != 4 || before.QueueRatio != 2 {
		t.Fatalf("got %+v, want two full queues of limit 1", before)
	}
	if want := tcpExt(t, ns, "ListenOverflows"); before.Drops != want {
		t.Fatalf("%d drops, want %d", before.Drops, want)
	}
	for i, old := range []*kerneltest.Listener{first, second} {
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		ns.Listen(t, addr, opts) // in its place
		s = whole(t, taker)
		if g := s.Listeners.Data[0]; g.Sockets != 2 || g.Drops != before.Drops {
			t.Errorf("%d of the old sockets replaced: got %+v, want 2 sockets and %d drops", i+1, g, before.Drops)
		}
	}
}
