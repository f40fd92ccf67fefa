package sockwalk_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

const port = 4840

var (
	v4any = netip.MustParseAddr("0.0.0.0")
	v4lo  = netip.MustParseAddr("127.0.0.1")
	v6any = netip.MustParseAddr("::")
	v6lo  = netip.MustParseAddr("::1")
)

// counts are numbers of sockets, by all that a walk says of them.
type counts map[seen]uint64

// seen is a Group without its flags, or what it has to be for a socket of sock_diag.
type seen struct {
	namespace     int
	family        sock.Family
	state         sock.State
	kind          sock.Kind
	port          uint16 // 0: not watched
	local         netip.Addr
	remote        netip.AddrPort
	ifindex, uid  uint32
	timeLeftOrNot bool // Expires is set
}

func walk(t testing.TB, w *sockwalk.Walker, req sockwalk.Request) (counts, *sockwalk.Result) {
	t.Helper()
	got := make(counts)
	result, err := w.Walk(t.Context(), req, func(g *sockwalk.Group) {
		s := seen{
			namespace: g.Namespace, family: g.Family, state: g.State, kind: g.Kind, local: g.Local.Addr(),
			remote: g.Remote, ifindex: g.Ifindex, uid: g.UID, timeLeftOrNot: g.Expires > 0,
		}
		if slices.Contains(req.Namespaces[g.Namespace].Watched, g.Local.Port()) {
			s.port = g.Local.Port()
		}
		got[s] += g.Count
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, result
}

// dump counts what sock_diag shows as a walk has to.
func dump(t testing.TB, req sockwalk.Request, namespaces ...*kerneltest.NetNS) counts {
	t.Helper()
	want := make(counts)
	for i, ns := range namespaces {
		for _, s := range sockets(t, ns) {
			if as, ok := asked(req, i, s); ok {
				want[as]++
			}
		}
	}
	return want
}

// sockets returns what sock_diag has of the namespace, except listeners and what is only bound.
func sockets(t testing.TB, ns *kerneltest.NetNS) (out []netlinkdiag.Socket) {
	t.Helper()
	conn, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for s, err := range conn.Dump(t.Context(), netlinkdiag.Request{States: netlinkdiag.AllStates.Without(sock.StateListen, netlinkdiag.StateBoundInactive)}) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			out = nil
		case err != nil:
			t.Fatal(err)
		default:
			out = append(out, s)
		}
	}
	return out
}

// asked returns what the request asks for of the socket, and whether that is anything.
func asked(req sockwalk.Request, i int, s netlinkdiag.Socket) (seen, bool) {
	ns := &req.Namespaces[i]
	local, remote := s.Local.Port(), s.Remote.Port()
	watched := slices.Contains(ns.Watched, local)
	toRemote := slices.Contains(req.Remote, remote)
	inRange := ns.LocalPorts.First <= local && local <= ns.LocalPorts.Last
	destination := inRange && remote != 0 && !slices.Contains(ns.Serving, local)
	unspecified := v4any
	if s.Family == sock.FamilyIPv6 {
		unspecified = v6any
	}
	out := seen{
		namespace: i, family: s.Family, state: s.State, local: unspecified,
		remote: netip.AddrPortFrom(unspecified, 0),
	}
	switch {
	case s.Timer == netlinkdiag.TimerTimeWait:
		out.kind = sock.KindTimeWait
	case s.State == sock.StateSynRecv:
		out.kind = sock.KindRequest
	}
	if watched {
		out.port, out.ifindex, out.uid, out.timeLeftOrNot = local, s.Ifindex, s.UID, out.kind == sock.KindTimeWait
	}
	if watched && out.kind != sock.KindRequest || destination {
		out.local = s.Local.Addr()
	}
	if toRemote || destination {
		out.remote = netip.AddrPortFrom(unspecified, remote)
	}
	if destination {
		out.remote = s.Remote
	}
	return out, watched || toRemote || destination
}

func (c counts) total() (n uint64) {
	for _, count := range c {
		n += count
	}
	return n
}

// differs says how the counts differ.
func (c counts) differs(want counts) string {
	var b strings.Builder
	for s, n := range want {
		if c[s] != n {
			fmt.Fprintf(&b, "\n%+v: %d, want %d", s, c[s], n)
		}
	}
	for s, n := range c {
		if _, ok := want[s]; !ok {
			fmt.Fprintf(&b, "\n%+v: %d, want none", s, n)
		}
	}
	return b.String()
}

// check compares a walk with sock_diag. Sockets may be on their way into another state, and timers run.
func check(t *testing.T, w *sockwalk.Walker, req sockwalk.Request, namespaces ...*kerneltest.NetNS) counts {
	t.Helper()
	var difference string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		before := dump(t, req, namespaces...)
		got, _ := walk(t, w, req)
		if difference = got.differs(before); difference == "" {
			return got
		}
	}
	t.Fatalf("a walk does not show what sock_diag shows: %s", difference)
	return nil
}

// families are ways to connect.
func families() map[string]struct{ listen, from netip.Addr } {
	return map[string]struct{ listen, from netip.Addr }{
		"ipv4":   {v4any, v4lo},
		"ipv6":   {v6any, v6lo},
		"mapped": {v6any, v4lo},
	}
}

// connected are the states that are in the table of connections.
func connected() []kerneltest.State {
	return slices.DeleteFunc(kerneltest.States(), func(s kerneltest.State) bool {
		return s == kerneltest.StateListen || s == kerneltest.StateClose
	})
}

func TestEveryStateIsAsSockDiagShowsIt(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	for name, family := range families() {
		for _, state := range connected() {
			t.Run(name+"/"+state.String(), func(t *testing.T) {
				ns := kerneltest.New(t)
				l := ns.Listen(t, netip.AddrPortFrom(family.listen, port), kerneltest.Options{})
				l.Peers(t, state, 2, family.from)
				for what, req := range map[string]sockwalk.Namespace{
					"watched":      {Watched: []uint16{port}},
					"destinations": {LocalPorts: sock.PortRange{First: 1, Last: 65535}, Serving: []uint16{port}},
					"both":         {Watched: []uint16{port}, LocalPorts: sock.PortRange{First: port, Last: 65535}},
					"remote only":  {},
				} {
					id := of(t, ns)
					req.Inode, req.Cookie = id.Inode, id.Cookie
					request := sockwalk.Request{Namespaces: []sockwalk.Namespace{req}, Remote: []uint16{port}}
					if got := check(t, w, request, ns); what == "watched" && got.total() < 2 {
						t.Errorf("%d sockets, want 2", got.total())
					}
				}
			})
		}
	}
}

// An orphan in FIN_WAIT2 has the struct of TIME_WAIT, later on. Until then it has no process.
func TestOrphansAreAsSockDiagShowsThem(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{ReuseAddr: true})
	for _, state := range []kerneltest.State{kerneltest.StateEstablished, kerneltest.StateFinWait1, kerneltest.StateLastAck, kerneltest.StateCloseWait} {
		for _, p := range l.Peers(t, state, 2, v4lo) {
			if err := unix.Fchown(p.Local.FD(), 1234, 1234); err != nil {
				t.Fatal(err)
			}
			if state != kerneltest.StateEstablished {
				if err := p.Local.Orphan(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	got := check(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}, ns)
	found := false
	for s := range got {
		found = found || s.uid == 1234
	}
	if !found {
		t.Errorf("no socket of user 1234: %+v", got)
	}
}

func TestManyNamespacesInOneWalk(t *testing.T) {
	w := newWalker(t, sockwalk.Options{Steps: 1}) // the least that it allows
	var req sockwalk.Request
	var namespaces []*kerneltest.NetNS
	req.Remote = []uint16{port + 1}
	for i := range 20 {
		ns := kerneltest.New(t)
		if i%4 == 3 {
			// A table of its own. The child has it, and the child's children share the host's.
			ns.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", "1024")
			ns = ns.NewChild(t)
		}
		for n, addrs := range [][2]netip.Addr{{v4any, v4lo}, {v6any, v6lo}, {v6any, v4lo}} {
			l := ns.Listen(t, netip.AddrPortFrom(addrs[0], port+uint16(n)), kerneltest.Options{})
			for _, state := range []kerneltest.State{kerneltest.StateEstablished, kerneltest.StateTimeWait, kerneltest.StateSynRecv} {
				l.Peers(t, state, 1+i%3, addrs[1])
			}
		}
		id := of(t, ns, port)
		if i%2 == 0 {
			id.LocalPorts, id.Serving = sock.PortRange{First: 32768, Last: 60999}, []uint16{port}
		}
		namespaces, req.Namespaces = append(namespaces, ns), append(req.Namespaces, id)
	}
	got := check(t, w, req, namespaces...)
	for i := range namespaces {
		n := 0
		for s := range got {
			if s.namespace == i {
				n++
			}
		}
		if n < 4 {
			t.Errorf("%d kinds of sockets in namespace %d, want 3 on the port, and the clients", n, i)
		}
	}
	// Fewer, in another order, and with other ports.
	slices.Reverse(namespaces)
	slices.Reverse(req.Namespaces)
	req.Namespaces, namespaces = req.Namespaces[3:], namespaces[3:]
	req.Namespaces[0].Watched, req.Remote = []uint16{port, port + 1}, nil
	check(t, w, req, namespaces...)
}

// The sysctl says so of the namespace's own table: a positive number.
func TestTablesOfTheirOwn(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	parent := kerneltest.New(t)
	for _, entries := range []string{"16", "64", "4096"} {
		parent.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", entries)
		ns := parent.NewChild(t)
		if got, err := ns.GetSysctl("net.ipv4.tcp_ehash_entries"); err != nil || got != entries {
			t.Fatalf("the child has %s entries, %v; want %s", got, err, entries)
		}
		const some = 300
		timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port, port + 1}, Count: some})
		req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port, port+1), of(t, parent, port)}}
		if got := check(t, w, req, ns, parent); got.total() != some {
			t.Errorf("%d sockets, want %d", got.total(), some)
		}
	}
}

func TestFlagsAreThoseOfTheListener(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	for name, family := range families() {
		for _, flags := range []sock.ReuseFlags{{}, {ReuseAddr: true}, {ReusePort: true}, {ReuseAddr: true, ReusePort: true}} {
			t.Run(fmt.Sprintf("%s/%+v", name, flags), func(t *testing.T) {
				ns := kerneltest.New(t)
				l := ns.Listen(t, netip.AddrPortFrom(family.listen, port), kerneltest.Options{ReuseAddr: flags.ReuseAddr, ReusePort: flags.ReusePort})
				for _, state := range []kerneltest.State{kerneltest.StateEstablished, kerneltest.StateTimeWait, kerneltest.StateCloseWait, kerneltest.StateSynRecv} {
					l.Peers(t, state, 1, family.from)
				}
				n := uint64(0)
				_, err := w.Walk(t.Context(), sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}, func(g *sockwalk.Group) {
					n += g.Count
					if !g.FlagsKnown || g.Flags != flags {
						t.Errorf("%+v, want flags %+v", *g, flags)
					}
					if g.Kind == sock.KindTimeWait && (g.Expires < 50*time.Second || g.Expires > time.Minute+time.Second) {
						t.Errorf("%+v goes in %v, want a minute", *g, g.Expires)
					}
				})
				if err != nil || n != 4 {
					t.Errorf("%d sockets, %v; want 4", n, err)
				}
			})
		}
	}
}

func TestV6Only(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns := kerneltest.New(t)
	for p, only := range map[uint16]bool{port: true, port + 1: false} {
		ns.Listen(t, netip.AddrPortFrom(v6any, p), kerneltest.Options{V6Only: &only}).Peers(t, kerneltest.StateTimeWait, 1, v6lo)
	}
	_, err := w.Walk(t.Context(), sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port, port+1)}}, func(g *sockwalk.Group) {
		if g.V6Only != (g.Local.Port() == port) {
			t.Errorf("%+v", *g)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDevice(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	for _, p := range l.Peers(t, kerneltest.StateEstablished, 2, v4lo) {
		if err := unix.BindToDevice(p.Local.FD(), "lo"); err != nil {
			t.Fatal(err)
		}
	}
	got := check(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}, ns)
	for s := range got {
		if s.ifindex != 1 {
			t.Errorf("device %d, want lo: %+v", s.ifindex, s)
		}
	}
}

// More groups than there is room for are taken in several parts.
func TestMoreGroupsThanThereIsRoomFor(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns, beside := kerneltest.New(t), kerneltest.New(t)
	const many = 10_000
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: many})
	beside.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 3, v4lo)
	id := of(t, ns)
	id.LocalPorts = sock.PortRange{First: port, Last: port} // each has a destination of its own
	got := check(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{id, of(t, beside, port)}}, ns, beside)
	if len(got) != many+1 || got.total() != many+3 {
		t.Errorf("%d groups of %d sockets, want %d of %d", len(got), got.total(), many+1, many+3)
	}
}

func TestEqualSocketsAreFewGroups(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns := kerneltest.New(t)
	const many = 20_000
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: many})
	groups, n := 0, uint64(0)
	result, err := w.Walk(t.Context(), sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}, func(g *sockwalk.Group) {
		groups++
		n += g.Count
	})
	if err != nil || groups != 1 || n != many || result.Sockets < many {
		t.Errorf("%d groups of %d sockets, %+v, %v; want 1 of %d", groups, n, result, err, many)
	}
}

func TestNothingAsked(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns, other := kerneltest.New(t), kerneltest.New(t)
	for _, n := range []*kerneltest.NetNS{ns, other} {
		n.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 3, v4lo)
	}
	for name, req := range map[string]sockwalk.Request{
		"no namespace":  {},
		"no port":       {Namespaces: []sockwalk.Namespace{of(t, ns)}},
		"another port":  {Namespaces: []sockwalk.Namespace{of(t, ns, port+1)}, Remote: []uint16{port + 1}},
		"another again": {Namespaces: []sockwalk.Namespace{of(t, ns, port+1), of(t, kerneltest.New(t), port)}},
	} {
		if got, _ := walk(t, w, req); len(got) > 0 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	// A table that has none of the namespace's sockets.
	if got, result := walk(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}); got.total() != 3 || !result.Found[0] {
		t.Errorf("got %+v, %+v", got, result)
	}
}

func TestNamespacesThatAreGone(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns, gone := kerneltest.New(t), kerneltest.New(t)
	ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 3, v4lo)
	there, missing, wrong := of(t, ns, port), of(t, gone, port), of(t, ns, port)
	wrong.Cookie = missing.Cookie + 1<<40
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	inode := there
	inode.Inode++
	req := sockwalk.Request{Namespaces: []sockwalk.Namespace{missing, wrong, there}}
	// The kernel removes a namespace in the background.
	var result *sockwalk.Result
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var got counts
		if got, result = walk(t, w, req); got.total() != 3 {
			t.Fatalf("got %+v, want 3 sockets", got)
		}
		if !result.Found[0] {
			break
		}
	}
	if want := []bool{false, false, true}; !slices.Equal(result.Found, want) {
		t.Errorf("found %v, want %v", result.Found, want)
	}
	if got, result := walk(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{inode}}); len(got) > 0 || result.Found[0] {
		t.Errorf("found %+v, by another inode number", got)
	}
}

// A chain that is longer than the walk has room for is not counted in part.
func TestChainsThatAreTooLong(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	parent := kerneltest.New(t)
	parent.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", "16")
	ns := parent.NewChild(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: 16 * 700})
	req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}
	if _, err := w.Walk(t.Context(), req, func(*sockwalk.Group) {}); !errors.Is(err, sockwalk.ErrIncomplete) {
		t.Errorf("error %v, want %v", err, sockwalk.ErrIncomplete)
	}
	// The next walk has nothing of this one.
	if got, _ := walk(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, parent, port)}}); len(got) > 0 {
		t.Errorf("got %+v", got)
	}
}

// Any user can make a namespace with a table that is too small. That does not keep the others from being
// walked.
func TestChainsThatAreTooLongOfOneNamespace(t *testing.T) {
	w := newWalker(t, sockwalk.Options{Steps: 1}) // as few as there can be: 4,112
	beside, parent := kerneltest.New(t), kerneltest.New(t)
	parent.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", "1")
	ns := parent.NewChild(t)
	// Two sockets for each connection, in one chain. They stay open: of thousands that close in one
	// chain, one may stay in FIN_WAIT2 although its peer is gone.
	l := ns.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), port), kerneltest.Options{Backlog: 2300})
	l.Queue(t, 2250, netip.MustParseAddr("127.0.0.1"))
	timewait.MustMake(t, beside, timewait.Options{Ports: []uint16{port}, Count: 3})
	for name, tiny := range map[string]sockwalk.Namespace{"asked for": of(t, ns, port), "not asked for": of(t, ns)} {
		n := uint64(0)
		req := sockwalk.Request{Namespaces: []sockwalk.Namespace{tiny, of(t, beside, port), of(t, parent, port)}}
		result, err := w.Walk(t.Context(), req, func(g *sockwalk.Group) {
			if g.Namespace == 1 {
				n += g.Count
			}
		})
		if err != nil || !slices.Equal(result.Found, []bool{false, true, true}) || n != 3 {
			t.Errorf("%s: %d sockets, %+v, %v; want 3 of the second namespace", name, n, result, err)
		}
	}
}

// Nor does one with a table that takes long.
func TestLargeTableOfOneNamespace(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	beside, parent := kerneltest.New(t), kerneltest.New(t)
	parent.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", "1048576")
	ns := parent.NewChild(t)
	for _, n := range []*kerneltest.NetNS{ns, beside} {
		timewait.MustMake(t, n, timewait.Options{Ports: []uint16{port}, Count: 3})
	}
	got, result := walk(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port), of(t, beside, port), of(t, parent, port)}})
	if want := []bool{false, true, true}; !slices.Equal(result.Found, want) || got.total() != 3 {
		t.Errorf("found %v, and %d sockets; want %v, and 3", result.Found, got.total(), want)
	}
	if got, result := walk(t, w, sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}); !result.Found[0] || got.total() != 3 {
		t.Errorf("alone: %d sockets, %+v; want 3", got.total(), result)
	}
}
