package netlinkdiag_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/netlinkdiag"
)

// kinds are the combinations of listener and client that the kernel reports differently.
var kinds = []struct {
	name          string
	listen, from  string
	v6only        *bool
	family        netlinkdiag.Family
	local, remote string // of the connections
}{
	{"ipv4", "127.0.0.1", "127.0.0.2", nil, ipv4, "127.0.0.1", "127.0.0.2"},
	{"ipv4 wildcard", "0.0.0.0", "127.0.0.2", nil, ipv4, "127.0.0.1", "127.0.0.2"},
	{"ipv6", "::1", "::1", nil, ipv6, "::1", "::1"},
	{"v6only", "::", "::1", new(true), ipv6, "::1", "::1"},
	{"dual-stack, ipv6 client", "::", "::1", new(false), ipv6, "::1", "::1"},
	{"dual-stack, ipv4 client", "::", "127.0.0.2", new(false), ipv6, "::ffff:127.0.0.1", "::ffff:127.0.0.2"},
	{"v4-mapped", "::ffff:127.0.0.1", "127.0.0.2", nil, ipv6, "::ffff:127.0.0.1", "::ffff:127.0.0.2"},
}

// timers returns the timer that runs on a socket in the state while the test runs.
var timers = map[netlinkdiag.State]netlinkdiag.Timer{
	netlinkdiag.StateSynSent:  netlinkdiag.TimerRetransmit,
	netlinkdiag.StateSynRecv:  netlinkdiag.TimerRetransmit,
	netlinkdiag.StateFinWait1: netlinkdiag.TimerRetransmit,
	netlinkdiag.StateClosing:  netlinkdiag.TimerRetransmit,
	netlinkdiag.StateLastAck:  netlinkdiag.TimerRetransmit,
	netlinkdiag.StateTimeWait: netlinkdiag.TimerTimeWait,
}

// queues returns the number of bytes that kerneltest leaves in a socket in the state: a SYN
// or FIN without an answer is one byte to send, an unread FIN is one byte to read.
var queues = map[netlinkdiag.State]struct{ r, w uint32 }{
	netlinkdiag.StateSynSent:   {0, 1},
	netlinkdiag.StateFinWait1:  {0, 1},
	netlinkdiag.StateCloseWait: {1, 0},
	netlinkdiag.StateClosing:   {1, 1},
	netlinkdiag.StateLastAck:   {1, 1},
	netlinkdiag.StateListen:    {0, backlog},
}

const (
	backlog    = 17
	firstPort  = 4840 // plus the state: a listener for each
	listenPort = firstPort + uint16(netlinkdiag.StateListen)
)

// boundInactive says whether the kernel reports bound-inactive sockets.
func boundInactive(t *testing.T) bool { return kerneltest.KernelAtLeast(t, 6, 8) }

// dialNetNS opens a Conn to the namespace that is closed when the test ends.
func dialNetNS(t testing.TB, ns *kerneltest.NetNS) *netlinkdiag.Conn {
	t.Helper()
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func mustDump(t testing.TB, c *netlinkdiag.Conn, req netlinkdiag.Request) []netlinkdiag.Socket {
	t.Helper()
	got, err := collect(c.Dump(noContext, req))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// identity returns the cookie, owner and inode from getsockopt(2) and fstat(2).
func identity(t testing.TB, s *kerneltest.Socket) (cookie uint64, uid, inode uint32) {
	t.Helper()
	cookie, err := unix.GetsockoptUint64(s.FD(), unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(s.FD(), &st); err != nil {
		t.Fatal(err)
	}
	return cookie, st.Uid, uint32(st.Ino)
}

// v6only returns IPV6_V6ONLY. bind(2) sets it, too, for an address that is neither `::` nor
// v4-mapped (inet6_bind).
func v6only(t testing.TB, s *kerneltest.Socket) bool {
	t.Helper()
	if s.Addr().Addr().Is4() {
		return false
	}
	v, err := unix.GetsockoptInt(s.FD(), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	if err != nil {
		t.Fatal(err)
	}
	return v != 0
}

// fixed checks and clears the fields that change by themselves.
func fixed(t testing.TB, s netlinkdiag.Socket) netlinkdiag.Socket {
	t.Helper()
	if (s.Expires > 0) != (s.Timer != netlinkdiag.TimerNone) && s.Timer != netlinkdiag.TimerRetransmit {
		t.Errorf("%v: timer %d, expires in %v", s.Local, s.Timer, s.Expires)
	}
	if s.Retransmits > 0 && s.Timer != netlinkdiag.TimerRetransmit {
		t.Errorf("%v: %d retransmits, timer %d", s.Local, s.Retransmits, s.Timer)
	}
	s.Expires, s.Retransmits = 0, 0
	return s
}

// Every field is right, for sockets of every kind in every state.
func TestKernelReportsWhatWasMade(t *testing.T) {
	const n = 2
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			var want []netlinkdiag.Socket
			local, remote := netip.MustParseAddr(k.local), netip.MustParseAddr(k.remote)
			for _, state := range kerneltest.States() {
				l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(k.listen), firstPort+uint16(state)),
					kerneltest.Options{V6Only: k.v6only, Backlog: backlog})
				s := netlinkdiag.Socket{
					Family: k.family, State: netlinkdiag.State(state),
					Timer:  timers[netlinkdiag.State(state)],
					RQueue: queues[netlinkdiag.State(state)].r, WQueue: queues[netlinkdiag.State(state)].w,
				}
				if state == kerneltest.StateListen {
					s.Local, s.Remote = l.Addr(), netip.AddrPortFrom(unspecified(k.family), 0)
					s.V6Only = v6only(t, &l.Socket)
					s.Cookie, s.UID, s.Inode = identity(t, &l.Socket)
					want = append(want, s)
					continue
				}
				for _, p := range l.Peers(t, state, n, netip.MustParseAddr(k.from)) {
					s.Local, s.Remote = netip.AddrPortFrom(local, l.Port()), netip.AddrPortFrom(remote, p.Addr.Port())
					if state == kerneltest.StateClose {
						s.Remote = netip.AddrPortFrom(unspecified(k.family), 0)
						s.V6Only = v6only(t, p.Local)
					}
					s.Cookie, s.UID, s.Inode = 0, 0, 0
					if p.Local != nil {
						s.Cookie, s.UID, s.Inode = identity(t, p.Local)
					}
					want = append(want, s)
				}
			}
			if !boundInactive(t) {
				want = slices.DeleteFunc(want, func(s netlinkdiag.Socket) bool { return s.State == netlinkdiag.StateClose })
			}

			c := dialNetNS(t, ns)
			for _, family := range []netlinkdiag.Family{both, k.family} {
				var got []netlinkdiag.Socket
				cookies := make(map[uint64]bool)
				for _, s := range mustDump(t, c, netlinkdiag.Request{Family: family}) {
					if p := s.Local.Port(); p <= firstPort || p > firstPort+uint16(netlinkdiag.StateClosing) {
						continue // the other end
					}
					if s.State == netlinkdiag.StateListen && s.Local.Port() != listenPort {
						continue // the other ends
					}
					if cookies[s.Cookie] || s.Cookie == 0 {
						t.Errorf("%v %v: cookie %d is not its own", s.State, s.Local, s.Cookie)
					}
					cookies[s.Cookie] = true
					if s.Inode == 0 {
						s.Cookie = 0 // nobody else knows it
					}
					got = append(got, fixed(t, s))
				}
				requireSame(t, got, want)
			}
		})
	}
}

func unspecified(f netlinkdiag.Family) netip.Addr {
	if f == ipv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// requireSame checks that the elements are the same, in any order.
func requireSame[T comparable](t testing.TB, got, want []T) {
	t.Helper()
	count := make(map[T]int)
	for _, s := range got {
		count[s]++
	}
	for _, s := range want {
		count[s]--
	}
	for s, n := range count {
		for ; n > 0; n-- {
			t.Errorf("has, and should not: %+v", s)
		}
		for ; n < 0; n++ {
			t.Errorf("lacks: %+v", s)
		}
	}
}

func TestKernelReportsDevice(t *testing.T) {
	ns := kerneltest.New(t)
	ns.AddDummy(t, "dummy0", netip.MustParsePrefix("192.0.2.1/24"))
	ns.Listen(t, addr("192.0.2.1:4840"), kerneltest.Options{Device: "dummy0"})
	var index int
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("dummy0")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			t.Fatal(err)
		}
		index = int(ifr.Uint32())
	})
	got := mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{})
	if len(got) != 1 || index == 0 || got[0].Ifindex != uint32(index) {
		t.Errorf("reported %+v, want one on device %d", got, index)
	}
}

func TestKernelReportsOwner(t *testing.T) {
	const owner = 65534
	ns := kerneltest.New(t)
	l := ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	if err := unix.Fchown(l.FD(), owner, -1); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		kerneltest.Skip(t, "needs another user in this user namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	got := mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{})
	if len(got) != 1 || got[0].UID != owner {
		t.Errorf("reported %+v, want one of user %d", got, owner)
	}
}

// SO_MEMINFO returns the same numbers. The getter for ICMP6_FILTER has room for all of them
// except the drops.
func TestKernelReportsMemory(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	sockets := map[uint16]*kerneltest.Socket{l.Port(): &l.Socket}
	for i, rcvbuf := range []int{10_000, 20_000, 30_000} {
		p := l.Peers(t, kerneltest.StateEstablished, 1, netip.MustParseAddr("127.0.0.2"))[0]
		if err := unix.SetsockoptInt(p.Remote.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf); err != nil {
			t.Fatal(err)
		}
		for range i {
			if _, err := unix.Write(p.Local.FD(), make([]byte, 300)); err != nil {
				t.Fatal(err)
			}
		}
		sockets[p.Remote.Port()] = p.Remote
	}
	seen := 0
	for _, s := range mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{Extensions: netlinkdiag.ExtensionSKMemInfo}) {
		made := sockets[s.Local.Port()]
		if made == nil || s.State == netlinkdiag.StateEstablished && made == &l.Socket {
			continue
		}
		seen++
		mem, err := unix.GetsockoptICMPv6Filter(made.FD(), unix.SOL_SOCKET, unix.SO_MEMINFO)
		if err != nil {
			t.Fatal(err)
		}
		m := s.Mem
		got := [8]uint32{
			m.RmemAlloc, m.Rcvbuf, m.WmemAlloc, m.Sndbuf, m.FwdAlloc, m.WmemQueued, m.Optmem, m.Backlog,
		}
		if !s.HasMem || got != mem.Data {
			t.Errorf("%v: memory is %v (%v), want %v", s.Local, got, s.HasMem, mem.Data)
		}
	}
	if seen != len(sockets) {
		t.Errorf("%d sockets, want %d", seen, len(sockets))
	}

	for _, s := range mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{}) {
		if s.HasMem {
			t.Errorf("%v: memory that was not asked for", s.Local)
		}
	}
}

func TestKernelReportsDrops(t *testing.T) {
	const n = 5
	ns := kerneltest.New(t)
	receiver := ns.ListenUDP(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	if err := receiver.Deafen(); err != nil {
		t.Fatal(err)
	}
	sender := ns.DialUDP(t, addr("127.0.0.1:4841"), receiver.Addr(), kerneltest.Options{})
	for range n {
		if _, err := unix.Write(sender.FD(), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{
		Protocol: udp, Extensions: netlinkdiag.ExtensionSKMemInfo,
	}) {
		want := uint32(0)
		if s.Local == receiver.Addr() {
			want = n
		}
		if s.Mem.Drops != want {
			t.Errorf("%v: %d drops, want %d", s.Local, s.Mem.Drops, want)
		}
	}
}

func TestKernelReportsAcceptQueue(t *testing.T) {
	const queued = 3
	ns := kerneltest.New(t)
	l := ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{Backlog: backlog})
	l.Queue(t, queued, netip.MustParseAddr("127.0.0.2"))
	got := mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{States: netlinkdiag.States(netlinkdiag.StateListen)})
	if len(got) != 1 || got[0].RQueue != queued || got[0].WQueue != backlog {
		t.Errorf("reported %+v, want %d of %d connections", got, queued, backlog)
	}
}

// An orphan that waits for its peer's FIN becomes a minisocket (tcp_close, tcp_time_wait).
func TestKernelReportsOrphanInFinWait2(t *testing.T) {
	ns := kerneltest.New(t)
	l := ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	p := l.Peers(t, kerneltest.StateFinWait2, 1, netip.MustParseAddr("127.0.0.2"))[0]
	if err := p.Local.Orphan(); err != nil {
		t.Fatal(err)
	}
	c := dialNetNS(t, ns)
	filter := netlinkdiag.PortFilter{Local: []netlinkdiag.PortRange{netlinkdiag.Port(4840)}}
	got := mustDump(t, c, netlinkdiag.Request{Ports: filter, States: netlinkdiag.States(netlinkdiag.StateFinWait2)})
	if len(got) != 1 || got[0].State != netlinkdiag.StateFinWait2 || got[0].Timer != netlinkdiag.TimerTimeWait || got[0].Inode != 0 {
		t.Errorf("reported %+v, want one in fin_wait2 with the time_wait timer", got)
	}
	if got := mustDump(t, c, netlinkdiag.Request{Ports: filter, States: netlinkdiag.States(netlinkdiag.StateTimeWait)}); len(got) != 0 {
		t.Errorf("reported %+v as time_wait", got)
	}
}

// Expires of a TIME_WAIT socket starts at TCP_TIMEWAIT_LEN and decreases with time.
func TestTimeWaitRunsDown(t *testing.T) {
	const (
		timeWaitLen = 60 * time.Second
		slack       = 100 * time.Millisecond // a jiffy at HZ=100, ten times
	)
	ns := kerneltest.New(t)
	c := dialNetNS(t, ns)
	expires := func() (d time.Duration, before, after time.Time) {
		before = time.Now()
		got := mustDump(t, c, netlinkdiag.Request{States: netlinkdiag.States(netlinkdiag.StateTimeWait)})
		if len(got) != 1 || got[0].Timer != netlinkdiag.TimerTimeWait {
			t.Fatalf("reported %+v, want one in time_wait", got)
		}
		return got[0].Expires, before, time.Now()
	}
	made := time.Now()
	timewait.MustMake(t, ns, timewait.Options{Count: 1, Ports: []uint16{4840}})
	first, before1, after1 := expires()
	if first > timeWaitLen+slack || first < timeWaitLen-after1.Sub(made)-slack {
		t.Errorf("expires in %v, %v after it was made", first, after1.Sub(made))
	}
	time.Sleep(300 * time.Millisecond)
	second, before2, after2 := expires()
	if ran := first - second; ran < before2.Sub(after1)-slack || ran > after2.Sub(before1)+slack {
		t.Errorf("ran down by %v within %v", ran, after2.Sub(before1))
	}
}

func TestUDP(t *testing.T) {
	ns := kerneltest.New(t)
	made := []*kerneltest.Socket{
		ns.ListenUDP(t, addr("127.0.0.1:4840"), kerneltest.Options{}),
		ns.DialUDP(t, addr("127.0.0.1:4841"), addr("127.0.0.2:53"), kerneltest.Options{}),
		ns.ListenUDP(t, addr("[::]:4842"), kerneltest.Options{}),
		ns.ListenUDP(t, addr("[::]:4843"), kerneltest.Options{V6Only: new(true)}),
		ns.DialUDP(t, addr("[::1]:4844"), addr("[::1]:53"), kerneltest.Options{}),
		ns.DialUDP(t, addr("[::ffff:127.0.0.1]:4845"), addr("[::ffff:127.0.0.2]:53"), kerneltest.Options{}),
	}
	want := []netlinkdiag.Socket{
		{Family: ipv4, State: netlinkdiag.StateClose, Remote: addr("0.0.0.0:0")},
		{Family: ipv4, State: netlinkdiag.StateEstablished, Remote: addr("127.0.0.2:53")},
		{Family: ipv6, State: netlinkdiag.StateClose, Remote: addr("[::]:0")},
		{Family: ipv6, State: netlinkdiag.StateClose, Remote: addr("[::]:0"), V6Only: true},
		{Family: ipv6, State: netlinkdiag.StateEstablished, Remote: addr("[::1]:53")},
		{Family: ipv6, State: netlinkdiag.StateEstablished, Remote: addr("[::ffff:127.0.0.2]:53")},
	}
	for i := range want {
		want[i].Local = made[i].Addr()
		want[i].Cookie, want[i].UID, want[i].Inode = identity(t, made[i])
	}
	c := dialNetNS(t, ns)
	requireSame(t, mustDump(t, c, netlinkdiag.Request{Protocol: udp}), want)
	requireSame(t, mustDump(t, c, netlinkdiag.Request{Protocol: udp, Family: ipv4}), want[:2])
	requireSame(t, mustDump(t, c, netlinkdiag.Request{Protocol: udp, Family: ipv6}), want[2:])
	requireSame(t, mustDump(t, c, netlinkdiag.Request{Protocol: udp, Ports: netlinkdiag.PortFilter{
		Local: []netlinkdiag.PortRange{{First: 4840, Last: 4842}},
	}}), want[:3])
	requireSame(t, mustDump(t, c, netlinkdiag.Request{Protocol: udp, States: netlinkdiag.States(netlinkdiag.StateEstablished)}),
		[]netlinkdiag.Socket{want[1], want[4], want[5]})
	if got := mustDump(t, c, netlinkdiag.Request{}); len(got) != 0 {
		t.Errorf("tcp sockets: %+v", got)
	}
}
