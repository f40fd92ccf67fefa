package bindrule_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/kerneltest"
)

// TestUDPAgreesWithTheKernel makes random UDP sockets on one port, asks the rule about random binds, and
// then binds. It asks with all that is true of the sockets, without their order, and with what the kernel's
// hash table has.
func TestUDPAgreesWithTheKernel(t *testing.T) {
	kerneltest.RequireRoot(t) // two users
	seed := number(t, seedEnv, rand.Uint64())
	cases := int(number(t, casesEnv, casesDefault))
	t.Logf("%s=%d", seedEnv, seed)

	ns := kerneltest.New(t)
	ns.AddDummy(t, "dummy0", netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"))
	ns.Sysctl(t, "net.ipv6.ip_nonlocal_bind", "1") // see TestAgreesWithTheKernel

	reader, err := udphash.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()

	var n udpTally
	ns.Do(t, func() {
		devices := []device{{}, {"lo", ifindex(t, "lo")}, {"dummy0", ifindex(t, "dummy0")}}
		for port := uint16(firstPort); n.cases < cases && !t.Failed(); port++ {
			if port == lastPort {
				t.Fatalf("ports used up after %d cases", n.cases)
			}
			w := &udpWorld{world: world{rng: rand.New(rand.NewPCG(seed, uint64(port))), port: port, devices: devices}, t: t, tally: &n, reader: reader}
			if err := w.run(); err != nil {
				t.Errorf("port %d: %v", port, err)
			}
			w.end()
		}
	})
	t.Logf("%+v", n)
	if n.free == 0 || n.blocked == 0 || n.connected == 0 || n.shared == 0 || n.crowded == 0 {
		t.Errorf("nothing compared: %+v", n)
	}
	if n.unknown > 0 || n.unknownCrowded*100 > n.cases || n.unknownOrder*20 > n.cases {
		t.Errorf("too much is unknown: %+v", n)
	}
}

type udpTally struct {
	cases, free, blocked int
	connected            int // sockets
	shared               int // free with SO_REUSEPORT, beside a socket of the same owner
	crowded              int
	unknown              int // not crowded
	unknownCrowded       int
	unknownOrder         int // asked without the order of the sockets
}

// A udpWorld has random UDP sockets on one port, in the order of the kernel's chain.
type udpWorld struct {
	world
	t      *testing.T
	tally  *udpTally
	reader *udphash.Reader
}

func (w *udpWorld) run() error {
	if w.chance(10) { // crowded
		flags := w.randomSpec()
		for range 30 {
			s := w.randomSpec()
			s.reuseAddr, s.reusePort, s.uid = flags.reuseAddr, flags.reusePort, flags.uid
			if err := w.bindAs(s); err != nil {
				return err
			}
		}
	}
	for range 1 + w.rng.IntN(7) {
		var err error
		switch n := w.rng.IntN(100); {
		case n < 50:
			err = w.bindAs(w.randomSpec())
		case n < 85:
			err = w.connect()
		case n < 92:
			w.close()
		default:
			err = w.mutateUDP()
		}
		if err != nil {
			return err
		}
	}
	port, err := w.look()
	if err != nil {
		return err
	}
	if err := w.compareRead(port); err != nil {
		return err
	}
	for range bindsPerWorld {
		if err := w.compare(port, w.randomSpec()); err != nil {
			return err
		}
	}
	return nil
}

// bindAs adds a bound socket, if it can.
func (w *udpWorld) bindAs(s spec) error {
	fd, err := w.tryBind(s)
	if err != nil || fd < 0 {
		return err
	}
	h := &held{spec: s.bound(), fd: fd}
	if s.reusePort && s.addr.Is6() { // sk_add_node_rcu
		w.sockets = append(w.sockets, h)
	} else {
		w.sockets = slices.Insert(w.sockets, 0, h)
	}
	return nil
}

// connect connects one of the sockets, which may change its address.
func (w *udpWorld) connect() error {
	if len(w.sockets) == 0 {
		return nil
	}
	h := pick(w.rng, w.sockets)
	peers := []string{"127.0.0.1", "192.0.2.2", "127.0.0.9"}
	if h.addr.Is6() {
		peers = []string{"::1", "2001:db8::2", "::ffff:127.0.0.1", "::ffff:192.0.2.2"}
	}
	err := unix.Connect(h.fd, sockaddr(netip.MustParseAddr(pick(w.rng, peers)), 9))
	if err == nil {
		w.tally.connected++
	}
	return nil // it may have no route from its device or address
}

func (w *udpWorld) close() {
	if len(w.sockets) == 0 {
		return
	}
	i := w.rng.IntN(len(w.sockets))
	_ = unix.Close(w.sockets[i].fd)
	w.sockets = slices.Delete(w.sockets, i, i+1)
}

// mutateUDP changes flags or the owner of a socket, which bind() compares.
func (w *udpWorld) mutateUDP() error {
	if len(w.sockets) == 0 {
		return nil
	}
	h := pick(w.rng, w.sockets)
	h.reuseAddr, h.reusePort, h.uid = w.chance(50), w.chance(50), pick(w.rng, uids)
	return errors.Join(
		unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, boolint(h.reuseAddr)),
		unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, boolint(h.reusePort)),
		unix.Fchown(h.fd, h.uid, -1))
}

// look returns all that is true of the port. What the exporter reads is compared with it.
func (w *udpWorld) look() (bindrule.UDPPort, error) {
	port := bindrule.UDPPort{InOrder: true, Crowded: bindrule.FlagOf(len(w.sockets) > bindrule.UDPCrowd)}
	for _, h := range w.sockets {
		addr, err := localAddr(h.fd)
		if err != nil {
			return port, err
		}
		port.Sockets = append(port.Sockets, bindrule.Socket{
			Addr: addr.Addr(), Ifindex: w.devices[h.device].index, V6Only: bindrule.FlagOf(h.v6only), Count: 1,
			ReuseAddr: bindrule.FlagOf(h.reuseAddr), ReusePort: bindrule.FlagOf(h.reusePort), UID: bindrule.UIDOf(uint32(h.uid)),
		})
	}
	return port, nil
}

// compareRead checks that the hash table has the same sockets in the same order. Sockets that are connected
// and the same to bind() are one.
func (w *udpWorld) compareRead(port bindrule.UDPPort) error {
	read, err := w.reader.Read(0, []uint16{w.port})
	if err != nil {
		return err
	}
	var got []bindrule.Socket
	for _, s := range read[w.port].Sockets {
		for range s.Count {
			got = append(got, bindrule.Socket{
				Addr: s.Addr, Ifindex: s.Ifindex, V6Only: bindrule.FlagOf(s.V6Only), Count: 1,
				ReuseAddr: bindrule.FlagOf(s.ReuseAddr), ReusePort: bindrule.FlagOf(s.ReusePort), UID: bindrule.UIDOf(s.UID),
			})
		}
	}
	if !slices.Equal(got, port.Sockets) {
		w.t.Errorf("port %d: read %+v, want %+v", w.port, got, port.Sockets)
	}
	if crowd := read[w.port].Crowd; crowd < len(port.Sockets) {
		w.t.Errorf("port %d: %d sockets in the slot, want %d or more", w.port, crowd, len(port.Sockets))
	}
	return nil
}

func (w *udpWorld) compare(port bindrule.UDPPort, s spec) error {
	r := w.request(s)
	answer := port.Bind(r).Outcome
	unordered := port
	unordered.InOrder = false
	byFlags := unordered.Bind(r).Outcome

	fd, err := w.tryBind(s)
	if err != nil {
		return err
	}
	got := bindrule.Blocked
	if fd >= 0 {
		got = bindrule.Free
		_ = unix.Close(fd)
	}
	w.count(port, r, got, answer)
	if answer != got && answer != bindrule.Unknown {
		w.t.Errorf("kernel says %v, rule %v:\n%s", got, answer, udpLiteral(port, r))
	}
	if byFlags == bindrule.Unknown {
		w.tally.unknownOrder++
	} else if byFlags != got {
		w.t.Errorf("without the order, kernel says %v, rule %v:\n%s", got, byFlags, udpLiteral(port, r))
	}
	return nil
}

func (w *udpWorld) count(port bindrule.UDPPort, r bindrule.Request, got, answer bindrule.Outcome) {
	n := w.tally
	n.cases++
	if got == bindrule.Free {
		n.free++
	} else {
		n.blocked++
	}
	crowded := port.Crowded == bindrule.Yes
	if crowded {
		n.crowded++
	}
	switch {
	case answer == bindrule.Unknown && crowded:
		n.unknownCrowded++
	case answer == bindrule.Unknown:
		n.unknown++
	}
	r.ReusePort = bindrule.No
	if got == bindrule.Free && port.Bind(r).Outcome == bindrule.Blocked {
		n.shared++
	}
}

// tryBind is that of the world, with UDP.
func (w *udpWorld) tryBind(s spec) (fd int, err error) {
	fd, err = w.openAs(unix.SOCK_DGRAM, s)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, sockaddr(s.addr, w.port))
	if err == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		return -1, nil
	}
	return -1, fmt.Errorf("bind %+v: %w", s, err)
}

func udpLiteral(p bindrule.UDPPort, r bindrule.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "in order %v, crowded %v\n", p.InOrder, p.Crowded)
	for _, s := range p.Sockets {
		fmt.Fprintf(&b, "%s dev %d v6only %v reuseaddr %v reuseport %v uid %d\n", s.Addr, s.Ifindex, s.V6Only, s.ReuseAddr, s.ReusePort, s.UID.ID)
	}
	fmt.Fprintf(&b, "request: %s dev %d v6only %v reuseaddr %v reuseport %v uid %d\n", r.Addr, r.Ifindex, r.V6Only, r.ReuseAddr, r.ReusePort, r.UID.ID)
	return b.String()
}

// Where many sockets share a slot, some kernels look at the sockets on wildcards only when a wildcard is bound.
func TestUDPWildcardBesideACrowd(t *testing.T) {
	ns := kerneltest.New(t)
	var p bindrule.UDPPort
	p.InOrder = true
	for i := range byte(bindrule.UDPCrowd + 1) {
		addr := netip.AddrFrom4([4]byte{127, 0, 0, i + 1})
		ns.ListenUDP(t, netip.AddrPortFrom(addr, 5300), kerneltest.Options{})
		p.Sockets = append(p.Sockets, bindrule.Socket{Addr: addr, ReuseAddr: bindrule.No, ReusePort: bindrule.No, Count: 1})
	}
	var err error
	ns.Do(t, func() {
		w := &udpWorld{world: world{port: 5300, devices: []device{{}}}}
		var fd int
		if fd, err = w.tryBind(spec{addr: netip.IPv4Unspecified()}); fd >= 0 {
			_ = unix.Close(fd)
			t.Log("the kernel lets a wildcard bind beside other addresses")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r := bindrule.Request{Addr: netip.IPv4Unspecified(), ReuseAddr: bindrule.No, ReusePort: bindrule.No}
	for crowded, want := range map[bindrule.Flag]bindrule.Outcome{
		bindrule.Yes: bindrule.Unknown, bindrule.FlagUnknown: bindrule.Unknown, bindrule.No: bindrule.Blocked,
	} {
		p.Crowded = crowded
		if got := p.Bind(r).Outcome; got != want {
			t.Errorf("crowded %v: %v, want %v", crowded, got, want)
		}
	}
	// An address of its own meets the sockets on it in any case.
	p.Crowded, r.Addr = bindrule.Yes, p.Sockets[0].Addr
	if got := p.Bind(r).Outcome; got != bindrule.Blocked {
		t.Errorf("%v: %v, want blocked", r.Addr, got)
	}
}
