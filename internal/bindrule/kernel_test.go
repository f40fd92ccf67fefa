package bindrule_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

const (
	casesEnv = "SOCKSTATE_BINDRULE_CASES" // how many binds are compared
	seedEnv  = "SOCKSTATE_BINDRULE_SEED"  // to repeat a run

	casesDefault  = 1000
	bindsPerWorld = 20

	// Ports outside net.ipv4.ip_local_port_range, one for each world.
	firstPort, lastPort = 2000, 32000
)

// TestAgreesWithTheKernel makes random sockets on one port, asks the rule about random
// binds, and then binds. It asks three times: with all that is true of the sockets, with what
// sock_diag and an eBPF iterator report, and with what is in the bind bucket.
func TestAgreesWithTheKernel(t *testing.T) {
	kerneltest.RequireRoot(t) // two users, eBPF
	seed := number(t, seedEnv, rand.Uint64())
	cases := int(number(t, casesEnv, casesDefault))
	t.Logf("%s=%d", seedEnv, seed)

	ns := kerneltest.New(t)
	ns.AddDummy(t, "dummy0", netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"))
	// Without this, an IPv6 address can be bound only on its own device.
	ns.Sysctl(t, "net.ipv6.ip_nonlocal_bind", "1")
	flags, err := sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF})
	if err != nil {
		t.Fatal(err)
	}
	defer flags.Close()
	buckets, err := bindbucket.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer buckets.Close()

	var n tally
	ns.Do(t, func() {
		diag, err := netlinkdiag.Dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer diag.Close()
		c := &comparison{t: t, diag: diag, flags: flags, buckets: buckets, tally: &n, before68: !kerneltest.KernelAtLeast(t, 6, 8)}
		if kerneltest.KernelAtLeast(t, 6, 12) {
			c.mappedMeetsAny = bindrule.Yes
		}
		devices := []device{{}, {"lo", ifindex(t, "lo")}, {"dummy0", ifindex(t, "dummy0")}}
		helpers := openHelpers(t)
		for port := uint16(firstPort); n.cases < cases && !t.Failed(); port++ {
			if port == lastPort {
				t.Fatalf("ports used up after %d cases", n.cases)
			}
			c.world = &world{
				rng: rand.New(rand.NewPCG(seed, uint64(port))), port: port, devices: devices, helpers: helpers, before68: c.before68,
				byCookie: make(map[uint64]settings), byRemote: make(map[netip.AddrPort]settings),
			}
			if err := c.run(); err != nil {
				t.Errorf("port %d: %v", port, err)
			}
			c.world.end()
		}
	})
	t.Logf("%.2f %% unknown by the bind bucket; %+v", 100*float64(n.unknownRead)/float64(n.cases), n)
	n.check(t)
}

// A tally counts cases.
type tally struct {
	cases, free, blocked int
	restarts             int // of the cases, those with listeners aside
	unknownRead          int // by the bind bucket, which a snapshot reads as root
	unknown              int // by sock_diag and the iterator, all of them
	unknownBound         int // for the flags of a bound socket
	unknownBucket        int // for the bucket
	hidden               int // free by these two, and blocked by a bound socket that it lacks
	kernelsDiffer        int // unknown for that
	mutated              int // not compared with these two: flags changed after the bind, bucket not seen
}

func (n *tally) check(t *testing.T) {
	t.Helper()
	if n.free == 0 || n.blocked == 0 || n.restarts == 0 {
		t.Errorf("nothing compared: %+v", *n)
	}
	percent := 1
	if !kerneltest.KernelAtLeast(t, 6, 12) {
		percent = 2 // where a socket is on ::ffff:0.0.0.0; half a percent of very many cases
	}
	if n.unknownRead*100 > n.cases*percent {
		t.Errorf("unknown by the bind bucket in more than %d %%: %+v", percent, *n)
	}
	if n.unknown*5 > n.cases || n.hidden*5 > n.cases || n.mutated*5 > n.cases {
		t.Errorf("too much cannot be compared: %+v", *n)
	}
}

type comparison struct {
	*world
	t        *testing.T
	diag     *netlinkdiag.Conn
	flags    *sockflags.Reader
	buckets  *bindbucket.Reader
	tally    *tally
	before68 bool

	mappedMeetsAny bindrule.Flag
}

func (c *comparison) run() error {
	if err := c.grow(); err != nil {
		return err
	}
	view, err := c.look()
	if err != nil {
		return err
	}
	for range bindsPerWorld {
		if err := c.compare(view, c.randomSpec(), false); err != nil {
			return err
		}
	}
	if len(c.listeners()) == 0 || c.queued > 0 {
		return nil // connections that wait for accept() end with their listener
	}
	for range 3 {
		if err := c.compare(view, c.randomSpec(), true); err != nil {
			return err
		}
	}
	return nil
}

// A view has the sockets of the port with all that the world knows, and with what the sources
// report.
type view struct {
	truth, seen []bindrule.Socket
	read        []bindrule.Socket // out of the bind bucket

	mappedMeetsAny bool // also
	hidden         int  // at the end of truth, those that the kernel does not show
}

// compare asks about a bind and does it. With restart it first closes the listeners. The
// bind changes only the bucket.
func (c *comparison) compare(view view, s spec, restart bool) error {
	truth, seen := bindrule.Port{Sockets: view.truth, Bucket: c.bucket, MappedMeetsAny: c.mappedMeetsAny}, bindrule.Port{Sockets: view.seen}
	var err error
	if seen.Bucket, err = c.readBucket(); err != nil {
		return err
	}
	read := bindrule.Port{Sockets: view.read, MappedMeetsAny: c.mappedMeetsAny}
	if read.Bucket, err = c.readBindBucket(view); err != nil {
		return err
	}
	if seen.Bucket.Known && len(c.sockets)+c.unowned > 0 {
		c.compareBucket(seen.Bucket)
	}
	r := c.request(s)
	r.ListenersAside = restart
	byTruth, bySeen, byRead := truth.Bind(r), seen.Bind(r), read.Bind(r)

	if restart {
		c.closeListeners()
	}
	fd, err := c.tryBind(s)
	if err != nil {
		return err
	}
	got := bindrule.Blocked
	if fd >= 0 {
		got = bindrule.Free
		c.unbind(fd)
	}

	c.count(got, restart)
	switch {
	case byTruth.Outcome == got:
	case byTruth.Outcome == bindrule.Unknown && kernelsDiffer(truth, r):
		c.tally.kernelsDiffer++
	default:
		c.t.Errorf("with all that is known, kernel says %v, rule %v:\n%s", got, byTruth.Outcome, literal(truth, r, got))
	}
	switch byRead.Outcome {
	case got:
	case bindrule.Unknown:
		c.tally.unknownRead++
	default:
		c.t.Errorf("by the bind bucket, kernel says %v, rule %v:\n%s", got, byRead.Outcome, literal(read, r, got))
	}
	shown := truth
	shown.Sockets = truth.Sockets[:len(truth.Sockets)-view.hidden]
	excused := view.hidden > 0 && got == bindrule.Blocked && shown.Bind(r).Outcome == bindrule.Free
	c.compareSeen(seen, r, got, bySeen, excused)
	return nil
}

// kernelsDiffer says whether kernels answer differently: see overlap.
func kernelsDiffer(p bindrule.Port, r bindrule.Request) bool {
	return r.Addr.Is4In6() && slices.ContainsFunc(p.Sockets, func(s bindrule.Socket) bool {
		return s.Addr == netip.IPv4Unspecified() || s.Addr == netip.MustParseAddr("::ffff:0.0.0.0")
	})
}

// compareBucket checks that the world's bucket is the same as the kernel's.
func (c *comparison) compareBucket(got bindrule.Bucket) {
	want := c.bucket
	if want.FastReusePort == bindrule.FastReusePortNone {
		want.UID, want.Addr, want.V6Only = got.UID, got.Addr, got.V6Only
	}
	if got != want {
		c.t.Errorf("port %d: bucket is %+v, want %+v", c.port, got, want)
	}
}

func (c *comparison) readBucket() (bindrule.Bucket, error) {
	result, err := c.flags.Read(c.t.Context(), sockflags.Request{Ports: []uint16{c.port}})
	if err != nil {
		return bindrule.Bucket{}, err
	}
	b, ok := result.Buckets[c.port]
	return bindrule.Bucket{
		Known: ok, FastReuse: b.FastReuse > 0, FastReusePort: bindrule.FastReusePort(max(b.FastReusePort, 0)),
		UID: b.UID, Addr: b.Addr, V6Only: b.V6Only,
	}, nil
}

// readBindBucket reads it anew, since binds change it.
func (c *comparison) readBindBucket(view view) (bindrule.Bucket, error) {
	found, err := c.buckets.ReadBuckets(0, []uint16{c.port})
	if err != nil {
		return bindrule.Bucket{}, err
	}
	b, ok := found[c.port]
	return bindrule.Bucket{
		Known: ok, FastReuse: b.FastReuse > 0, FastReusePort: bindrule.FastReusePort(max(b.FastReusePort, 0)),
		UID: b.UID, Addr: b.Addr, V6Only: b.V6Only,
		MappedMeetsAny: view.mappedMeetsAny,
	}, nil
}

func (c *comparison) count(got bindrule.Outcome, restart bool) {
	c.tally.cases++
	if got == bindrule.Free {
		c.tally.free++
	} else {
		c.tally.blocked++
	}
	if restart {
		c.tally.restarts++
	}
}

func (c *comparison) compareSeen(seen bindrule.Port, r bindrule.Request, got bindrule.Outcome, v bindrule.Verdict, excused bool) {
	switch {
	case c.mutated && !seen.Bucket.Known:
		c.tally.mutated++
	case v.Outcome == bindrule.Unknown:
		c.tally.unknown++
		bound := false
		for _, i := range v.Doubtful {
			bound = bound || seen.Sockets[i].ReuseAddr == bindrule.FlagUnknown
		}
		switch {
		case bound:
			c.tally.unknownBound++
		case r.ReusePort == bindrule.Yes && !seen.Bucket.Known:
			c.tally.unknownBucket++
		case kernelsDiffer(seen, r):
			c.tally.kernelsDiffer++
		default:
			c.t.Errorf("unknown without a reason: %+v\n%s", v, literal(seen, r, got))
		}
	case v.Outcome == got:
	case excused && v.Outcome == bindrule.Free:
		c.tally.hidden++
	default:
		c.t.Errorf("by a snapshot, kernel says %v, rule %v:\n%s", got, v.Outcome, literal(seen, r, got))
	}
}

// look takes a snapshot.
func (c *comparison) look() (v view, err error) {
	result, err := c.flags.Read(c.t.Context(), sockflags.Request{Ports: []uint16{c.port}})
	if err != nil {
		return v, err
	}
	shown := make(map[uint64]bool)
	local := netlinkdiag.PortFilter{Local: []netlinkdiag.PortRange{netlinkdiag.Port(c.port)}}
	for s, err := range c.diag.Dump(c.t.Context(), netlinkdiag.Request{Ports: local}) {
		if err != nil {
			return v, err
		}
		shown[s.Cookie] = true
		x := socket(s)
		if known, ok := result.Listeners[s.Cookie]; s.State == netlinkdiag.StateListen && ok {
			x.ReuseAddr, x.ReusePort = bindrule.FlagOf(known.ReuseAddr), bindrule.FlagOf(known.ReusePort)
		}
		if s.State == netlinkdiag.StateListen || s.State == netlinkdiag.StateClose {
			v.seen = append(v.seen, x)
		}
		v.truth = append(v.truth, c.tell(x, s))
	}
	for _, g := range result.Groups {
		v.seen = append(v.seen, group(g))
	}
	read, err := c.buckets.Read(0, []uint16{c.port})
	if err != nil || read.Missed[c.port] {
		return v, fmt.Errorf("read bind bucket: missed %v, %w", read.Missed, err)
	}
	v.mappedMeetsAny = read.Buckets[c.port].MappedMeetsAny
	for i := range read.Sockets {
		v.read = append(v.read, bucketSocket(&read.Sockets[i]))
	}
	for _, h := range c.sockets {
		cookie, err := unix.GetsockoptUint64(h.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return v, fmt.Errorf("getsockopt SO_COOKIE: %w", err)
		}
		if !shown[cookie] {
			v.hidden++
			v.truth = append(v.truth, c.hiddenSocket(h))
		}
	}
	return v, nil
}

// socket converts what sock_diag reports.
func socket(s netlinkdiag.Socket) bindrule.Socket {
	x := bindrule.Socket{
		Addr: s.Local.Addr(), Ifindex: s.Ifindex, V6Only: bindrule.FlagOf(s.V6Only),
		UID: bindrule.UIDOf(s.UID), State: s.State, Count: 1,
	}
	switch {
	case s.Timer == netlinkdiag.TimerTimeWait:
		x.Kind, x.Expires = sock.KindTimeWait, s.Expires
	case s.State == netlinkdiag.StateSynRecv:
		x.Kind = sock.KindRequest
	}
	return x
}

// bucketSocket converts what is in a bind bucket.
func bucketSocket(s *bindbucket.Socket) bindrule.Socket {
	x := bindrule.Socket{
		Addr: s.Addr, Ifindex: s.Ifindex, V6Only: bindrule.FlagOf(s.V6Only),
		ReuseAddr: bindrule.FlagOf(s.ReuseAddr), ReusePort: bindrule.FlagOf(s.ReusePort),
		State: s.State, Kind: s.Kind, Count: 1, Expires: s.Expires,
	}
	if x.Kind == sock.KindFull {
		x.UID = bindrule.UIDOf(s.UID)
	}
	return x
}

// tell adds what sock_diag does not report.
func (c *comparison) tell(x bindrule.Socket, s netlinkdiag.Socket) bindrule.Socket {
	known, ok := c.byCookie[s.Cookie]
	if !ok {
		known, ok = c.byRemote[netip.AddrPortFrom(s.Remote.Addr().Unmap(), s.Remote.Port())]
	}
	if !ok && x.Kind != sock.KindRequest {
		c.t.Errorf("port %d: a socket that nobody made: %+v", c.port, s)
	}
	x.V6Only, x.ReuseAddr, x.ReusePort = bindrule.FlagOf(known.v6only), bindrule.FlagOf(known.reuseAddr), bindrule.FlagOf(known.reusePort)
	return x
}

func (c *comparison) hiddenSocket(h *held) bindrule.Socket {
	return bindrule.Socket{
		Addr: h.addr, Ifindex: c.devices[h.device].index, V6Only: bindrule.FlagOf(h.v6only),
		ReuseAddr: bindrule.FlagOf(h.reuseAddr), ReusePort: bindrule.FlagOf(h.reusePort),
		UID: bindrule.UIDOf(uint32(h.uid)), State: sock.State(kerneltest.StateClose), Count: 1,
	}
}

func group(g sockflags.Group) bindrule.Socket {
	return bindrule.Socket{
		Addr: g.Addr, Ifindex: g.Ifindex, V6Only: bindrule.FlagOf(g.V6Only),
		ReuseAddr: bindrule.FlagOf(g.ReuseAddr), ReusePort: bindrule.FlagOf(g.ReusePort),
		UID: bindrule.UIDOf(g.UID), State: g.State, Kind: g.Kind,
		Count: g.Count, Expires: g.Expires,
	}
}

func openHelpers(t *testing.T) helpers {
	t.Helper()
	h := helpers{accepts: make(map[bool]int), deaf: make(map[bool]int)}
	for _, addr := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		h.accepts[addr.Is4()] = helper(t, addr, acceptsPort)
		h.deaf[addr.Is4()] = helper(t, addr, deafPort)
		if err := deafen(h.deaf[addr.Is4()]); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func helper(t *testing.T, addr netip.Addr, port uint16) int {
	t.Helper()
	fd, err := (&world{}).open(spec{addr: addr, v6only: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, sockaddr(addr, port)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		t.Fatal(err)
	}
	return fd
}

func ifindex(t *testing.T, name string) uint32 {
	t.Helper()
	// net.InterfaceByName looks in the namespace of the calling thread: this one.
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(i.Index)
}

func number(t *testing.T, env string, otherwise uint64) uint64 {
	t.Helper()
	v := os.Getenv(env)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// literal returns a case for the table of TestBind.
func literal(p bindrule.Port, r bindrule.Request, want bindrule.Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{\n\tport: Port{\n\t\tSockets: []Socket{\n")
	for _, s := range p.Sockets {
		fmt.Fprintf(&b, "\t\t\t{Addr: addr(%q), Ifindex: %d, V6Only: %s, ReuseAddr: %s, ReusePort: %s, UID: %s, State: %d, Kind: %d, Count: %d, Expires: %d},\n",
			s.Addr, s.Ifindex, flag(s.V6Only), flag(s.ReuseAddr), flag(s.ReusePort), uid(s.UID), s.State, s.Kind, s.Count, s.Expires)
	}
	k := p.Bucket
	fmt.Fprintf(&b, "\t\t},\n\t\tBucket: Bucket{Known: %v, FastReuse: %v, FastReusePort: %d, UID: %d, Addr: addr(%q), V6Only: %v},\n\t},\n",
		k.Known, k.FastReuse, k.FastReusePort, k.UID, k.Addr, k.V6Only)
	fmt.Fprintf(&b, "\trequest: Request{Addr: addr(%q), Ifindex: %d, V6Only: %s, ReuseAddr: %s, ReusePort: %s, UID: %s, ListenersAside: %v},\n",
		r.Addr, r.Ifindex, flag(r.V6Only), flag(r.ReuseAddr), flag(r.ReusePort), uid(r.UID), r.ListenersAside)
	fmt.Fprintf(&b, "\twant: %s,\n},", map[bindrule.Outcome]string{bindrule.Free: "Free", bindrule.Blocked: "Blocked"}[want])
	return b.String()
}

func flag(f bindrule.Flag) string {
	return map[bindrule.Flag]string{bindrule.FlagUnknown: "FlagUnknown", bindrule.No: "No", bindrule.Yes: "Yes"}[f]
}

func uid(u bindrule.UID) string {
	if !u.Known {
		return "UID{}"
	}
	return fmt.Sprintf("UIDOf(%d)", u.ID)
}
