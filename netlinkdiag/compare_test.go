package netlinkdiag_test

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	vishvananda "github.com/vishvananda/netlink"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// sock_diag reports what other interfaces of the kernel report, and all requests report the
// same.
func TestAgreement(t *testing.T) {
	ns := zoo(t)
	c := dialNetNS(t, ns)
	for _, tt := range []struct {
		name string
		test func(*testing.T, *kerneltest.NetNS, *netlinkdiag.Conn)
	}{
		{"with /proc/net/tcp", testSameAsProcNetTCP},
		{"with vishvananda/netlink", testSameAsVishvananda},
		{"of one walk with two", testOneWalkIsTheSameAsTwo},
		{"of the filter with Match", testFilterIsTheSameAsMatch},
		{"of the states with those asked for", testStatesAreThoseAskedFor},
		{"of diagtest with the kernel", testDiagtestIsTheSame},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, ns, c) })
	}
}

// zoo makes sockets of every kind in every state, and their other ends, and waits until
// none changes any more.
func zoo(t *testing.T) *kerneltest.NetNS {
	t.Helper()
	ns := kerneltest.New(t)
	for i, k := range kinds {
		l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(k.listen), firstPort+uint16(i)),
			kerneltest.Options{V6Only: k.v6only})
		for _, state := range kerneltest.States() {
			if state == kerneltest.StateListen {
				continue
			}
			peers := l.Peers(t, state, 2, netip.MustParseAddr(k.from))
			if state == kerneltest.StateFinWait2 {
				if err := peers[0].Local.Orphan(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	settle(t, dialNetNS(t, ns))
	return ns
}

// settle waits until no socket has changed for longer than an ACK can be delayed
// (TCP_DELACK_MAX, 200 ms): the other end of a close_wait is in fin_wait1 until then.
func settle(t *testing.T, c *netlinkdiag.Conn) {
	t.Helper()
	const quiet, most = 300 * time.Millisecond, time.Minute
	begun, since := time.Now(), time.Now()
	for last := wheres(nil); time.Since(since) < quiet; time.Sleep(20 * time.Millisecond) {
		now := wheres(mustDump(t, c, netlinkdiag.Request{}))
		if !sameSet(last, now) {
			last, since = now, time.Now()
		}
		if time.Since(begun) > most {
			t.Fatal("the sockets do not keep still")
		}
	}
}

func sameSet[T comparable](a, b []T) bool {
	count := make(map[T]int)
	for _, v := range a {
		count[v]++
	}
	for _, v := range b {
		if count[v]--; count[v] < 0 {
			return false
		}
	}
	return len(a) == len(b)
}

// still returns the socket without the fields that change by themselves: the timer, and
// what a retransmission changes.
func still(s netlinkdiag.Socket) netlinkdiag.Socket {
	s.Timer, s.Expires, s.Retransmits = 0, 0, 0
	return s
}

func allStill(sockets []netlinkdiag.Socket) []netlinkdiag.Socket {
	out := make([]netlinkdiag.Socket, len(sockets))
	for i, s := range sockets {
		out[i] = still(s)
	}
	return out
}

// where has the fields that every source of sockets reports.
type where struct {
	family        netlinkdiag.Family
	local, remote netip.AddrPort
	state         netlinkdiag.State
	uid, inode    uint32
}

func wheres(sockets []netlinkdiag.Socket) (out []where) {
	for _, s := range sockets {
		out = append(out, where{s.Family, s.Local, s.Remote, s.State, s.UID, s.Inode})
	}
	return out
}

func testSameAsProcNetTCP(t *testing.T, ns *kerneltest.NetNS, c *netlinkdiag.Conn) {
	got := wheres(mustDump(t, c, netlinkdiag.Request{
		States: netlinkdiag.AllStates.Without(netlinkdiag.StateBoundInactive),
	}))
	lines, err := ns.TCPSockets()
	if err != nil {
		t.Fatal(err)
	}
	var want []where
	for _, l := range lines {
		family := ipv4
		if l.IPv6 {
			family = ipv6
		}
		want = append(want, where{family, l.Local, l.Remote, netlinkdiag.State(l.State), l.UID, uint32(l.Inode)})
	}
	if len(want) < len(kinds)*len(kerneltest.States()) {
		t.Errorf("only %d sockets to compare", len(want))
	}
	requireSame(t, got, want)
}

// addrOf converts an address of vishvananda/netlink, which can have IPv4 in 16 bytes.
func addrOf(t testing.TB, ip net.IP, port uint16, family uint8) netip.AddrPort {
	t.Helper()
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		t.Fatalf("address %v", ip)
	}
	if family == uint8(ipv4) {
		a = a.Unmap()
	}
	return netip.AddrPortFrom(a, port)
}

func testSameAsVishvananda(t *testing.T, ns *kerneltest.NetNS, c *netlinkdiag.Conn) {
	for _, tt := range []struct {
		protocol netlinkdiag.Protocol
		dump     func(family uint8) ([]*vishvananda.Socket, error)
	}{
		{tcp, vishvananda.SocketDiagTCP},
		{udp, vishvananda.SocketDiagUDP},
	} {
		t.Run(tt.protocol.String(), func(t *testing.T) {
			ns.ListenUDP(t, addr("127.0.0.1:4840"), kerneltest.Options{})
			ns.DialUDP(t, addr("[::1]:4841"), addr("[::1]:53"), kerneltest.Options{})
			var want []netlinkdiag.Socket
			ns.Do(t, func() {
				for _, family := range []netlinkdiag.Family{ipv4, ipv6} {
					sockets, err := tt.dump(uint8(family))
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range sockets {
						want = append(want, netlinkdiag.Socket{
							Family: netlinkdiag.Family(s.Family), State: netlinkdiag.State(s.State),
							Local:   addrOf(t, s.ID.Source, s.ID.SourcePort, s.Family),
							Remote:  addrOf(t, s.ID.Destination, s.ID.DestinationPort, s.Family),
							Ifindex: s.ID.Interface,
							Cookie:  uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]),
							RQueue:  s.RQueue, WQueue: s.WQueue, UID: s.UID, Inode: s.INode,
						})
					}
				}
			})
			if len(want) == 0 {
				t.Error("no socket to compare")
			}
			got := allStill(mustDump(t, c, netlinkdiag.Request{
				Protocol: tt.protocol, States: netlinkdiag.AllStates.Without(netlinkdiag.StateBoundInactive),
			}))
			for i := range got {
				got[i].V6Only = false // vishvananda/netlink does not read it
			}
			requireSame(t, got, want)
		})
	}
}

func testOneWalkIsTheSameAsTwo(t *testing.T, _ *kerneltest.NetNS, c *netlinkdiag.Conn) {
	one := allStill(mustDump(t, c, netlinkdiag.Request{}))
	v4 := allStill(mustDump(t, c, netlinkdiag.Request{Family: ipv4}))
	v6 := allStill(mustDump(t, c, netlinkdiag.Request{Family: ipv6}))
	if len(v4) == 0 || len(v6) == 0 {
		t.Errorf("%d IPv4 and %d IPv6 sockets", len(v4), len(v6))
	}
	requireSame(t, one, slices.Concat(v4, v6))
}

// dice are random numbers that are new in every run. The log has the seed.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func testFilterIsTheSameAsMatch(t *testing.T, _ *kerneltest.NetNS, c *netlinkdiag.Conn) {
	const rounds = 50
	random := dice(t)
	all := allStill(mustDump(t, c, netlinkdiag.Request{}))
	var known []uint16
	for _, s := range all {
		known = append(known, s.Local.Port(), s.Remote.Port())
	}
	ranges := func() (out []netlinkdiag.PortRange) {
		for range random.IntN(6) {
			first := known[random.IntN(len(known))]
			last := first
			switch random.IntN(4) {
			case 0:
				last = known[random.IntN(len(known))]
			case 1:
				first, last = uint16(random.Uint32()), uint16(random.Uint32())
			case 2:
				last = first | uint16(random.IntN(8))
			}
			out = append(out, netlinkdiag.PortRange{First: min(first, last), Last: max(first, last)})
		}
		return out
	}
	partial := 0
	for range rounds {
		filter := netlinkdiag.PortFilter{Local: ranges(), Remote: ranges()}
		family := []netlinkdiag.Family{both, ipv4, ipv6}[random.IntN(3)]
		var want []netlinkdiag.Socket
		for _, s := range all {
			if (family == both || s.Family == family) && filter.Match(s.Local.Port(), s.Remote.Port()) {
				want = append(want, s)
			}
		}
		if 0 < len(want) && len(want) < len(all) {
			partial++
		}
		got := allStill(mustDump(t, c, netlinkdiag.Request{Family: family, Ports: filter}))
		if requireSame(t, got, want); t.Failed() {
			t.Fatalf("%v %+v", family, filter)
		}
	}
	if partial < rounds/4 {
		t.Errorf("only %d dumps that leave something out", partial)
	}
}

// The kernel's audit accepts the largest filter.
func TestKernelTakesTheLargestFilter(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Listen(t, addr("127.0.0.1:4840"), kerneltest.Options{})
	ns.Listen(t, addr("127.0.0.1:4841"), kerneltest.Options{})
	var filter netlinkdiag.PortFilter
	for p := uint16(0); len(filter.Local) < 4680; p += 2 {
		filter.Local = append(filter.Local, netlinkdiag.Port(p))
	}
	for _, family := range []netlinkdiag.Family{both, ipv4} {
		got := ports(mustDump(t, dialNetNS(t, ns), netlinkdiag.Request{Family: family, Ports: filter}))
		if !slices.Equal(got, []uint16{4840}) {
			t.Errorf("%v: ports %v, want 4840", family, got)
		}
	}
}

func testStatesAreThoseAskedFor(t *testing.T, _ *kerneltest.NetNS, c *netlinkdiag.Conn) {
	random := dice(t)
	all := allStill(mustDump(t, c, netlinkdiag.Request{}))
	sets := []netlinkdiag.StateSet{netlinkdiag.States(netlinkdiag.StateBoundInactive)}
	for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
		sets = append(sets, netlinkdiag.States(state))
	}
	for range 10 {
		if set := netlinkdiag.StateSet(random.Uint32()) & netlinkdiag.AllStates; set != 0 {
			sets = append(sets, set)
		}
	}
	for _, set := range sets {
		var want []netlinkdiag.Socket
		for _, s := range all {
			state := s.State
			if state == netlinkdiag.StateClose {
				state = netlinkdiag.StateBoundInactive
			}
			if set.Has(state) {
				want = append(want, s)
			}
		}
		if set != netlinkdiag.States(netlinkdiag.StateClose) && len(want) == 0 && boundInactive(t) {
			t.Errorf("%v: nothing to compare", set)
		}
		if requireSame(t, allStill(mustDump(t, c, netlinkdiag.Request{States: set})), want); t.Failed() {
			t.Fatalf("states %v", set)
		}
	}
}

// The fake kernel, with the sockets of the real one, answers as the real one does.
func testDiagtestIsTheSame(t *testing.T, _ *kerneltest.NetNS, c *netlinkdiag.Conn) {
	random := dice(t)
	all := mustDump(t, c, netlinkdiag.Request{})
	fake := dial(t, &diagtest.Kernel{Sockets: all}, 0)
	for range 20 {
		req := netlinkdiag.Request{
			Family: []netlinkdiag.Family{both, ipv4, ipv6}[random.IntN(3)],
			States: netlinkdiag.StateSet(random.Uint32()) & netlinkdiag.AllStates,
		}
		if some := all[random.IntN(len(all))]; random.IntN(2) == 0 {
			req.Ports.Local = []netlinkdiag.PortRange{netlinkdiag.Port(some.Local.Port())}
			req.Ports.Remote = []netlinkdiag.PortRange{netlinkdiag.Port(some.Remote.Port())}
		}
		if requireSame(t, allStill(mustDump(t, fake, req)), allStill(mustDump(t, c, req))); t.Failed() {
			t.Fatalf("%+v", req)
		}
	}
}
