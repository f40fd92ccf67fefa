package bindrule_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
)

// A spec says how to open a socket.
type spec struct {
	addr                         netip.Addr
	device                       int // index in world.devices, 0 for none
	v6only, reuseAddr, reusePort bool
	uid                          int
}

// bound returns the spec after the bind: __inet6_bind sets sk_ipv6only for an address that
// is no wildcard.
func (s spec) bound() spec {
	s.v6only = s.v6only || s.addr.Is6() && !s.addr.Is4In6() && !s.addr.IsUnspecified()
	return s
}

// A held socket is a socket with a descriptor in the world.
type held struct {
	spec
	fd        int
	listening bool
}

// settings are what a snapshot does not report for every socket.
type settings struct {
	v6only, reuseAddr, reusePort bool
}

// A world has random sockets on one port. Everything happens on one thread in the network
// namespace.
type world struct {
	rng      *rand.Rand
	port     uint16
	devices  []device
	helpers  helpers
	before68 bool

	sockets []*held // on the port, with a descriptor
	others  []int   // descriptors of anything else
	unowned int     // on the port, without a descriptor
	queued  int     // in accept queues
	mutated bool    // flags or owners were changed after the bind

	byCookie map[uint64]settings
	byRemote map[netip.AddrPort]settings // in accept queues

	bucket bindrule.Bucket // what the kernel's must be
}

// The indexes in world.devices. 0 means no device.
const (
	lo     = 1
	dummy0 = 2
)

type device struct {
	name  string
	index uint32
}

// helpers are listeners on other ports, for each family one that accepts and one that drops
// all packets.
type helpers struct {
	accepts, deaf map[bool]int // by Is4
}

const (
	acceptsPort = 1001
	deafPort    = 1002
)

var (
	bindAddrs = []netip.Addr{
		netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.0.0.0"),
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1"),
		netip.MustParseAddr("192.0.2.1"),
		netip.MustParseAddr("127.0.0.6"), // LOOPBACK4_IPV6
		netip.MustParseAddr("::"), netip.MustParseAddr("::"), netip.MustParseAddr("::"),
		netip.MustParseAddr("::1"), netip.MustParseAddr("::1"),
		netip.MustParseAddr("2001:db8::1"),
		netip.MustParseAddr("::ffff:0.0.0.0"),
		netip.MustParseAddr("::ffff:127.0.0.1"),
		netip.MustParseAddr("::ffff:192.0.2.1"),
	}
	uids = []int{0, 1000}
)

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) randomSpec() spec {
	s := spec{
		addr:      pick(w.rng, bindAddrs),
		reuseAddr: w.chance(50),
		reusePort: w.chance(40),
		uid:       pick(w.rng, uids),
	}
	if len(w.sockets) > 0 && w.chance(30) {
		s.addr = pick(w.rng, w.sockets).addr
	}
	// Binding a v4-mapped address with IPV6_V6ONLY is EINVAL.
	if s.addr.Is6() && !s.addr.Is4In6() {
		s.v6only = w.chance(50)
	}
	if w.chance(30) {
		s.device = 1 + w.rng.IntN(len(w.devices)-1)
	}
	return s
}

// open makes a socket that is not bound.
func (w *world) open(s spec) (int, error) { return w.openAs(unix.SOCK_STREAM, s) }

func (w *world) openAs(typ int, s spec) (int, error) {
	family := unix.AF_INET6
	if s.addr.Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, boolint(s.reuseAddr)),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, boolint(s.reusePort)),
	)
	if family == unix.AF_INET6 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, boolint(s.v6only)))
	}
	if s.device != 0 {
		err = errors.Join(err, unix.BindToDevice(fd, w.devices[s.device].name))
	}
	// sockfs_setattr: the owner of the descriptor is the owner of the socket.
	if err = errors.Join(err, unix.Fchown(fd, s.uid, -1)); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set up socket %+v: %w", s, err)
	}
	return fd, nil
}

// tryBind binds a new socket to the port. fd is -1 where that failed with EADDRINUSE.
func (w *world) tryBind(s spec) (fd int, err error) {
	fd, err = w.open(s)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, sockaddr(s.addr, w.port))
	if err == nil {
		w.updateBucket(s.bound(), false, len(w.sockets)+w.unowned == 0)
		return fd, nil
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EADDRINUSE) {
		return -1, nil
	}
	return -1, fmt.Errorf("bind %+v: %w", s, err)
}

// unbind closes a socket that tryBind returned.
func (w *world) unbind(fd int) { _ = unix.Close(fd) }

// updateBucket does what inet_csk_update_fastreuse does. Since Linux 6.8 that never finds a
// bucket empty: it checks tb->bhash2, to which inet_bind2_bucket_create has just added.
func (w *world) updateBucket(s spec, listening, empty bool) {
	b := &w.bucket
	if empty {
		*b = bindrule.Bucket{}
	}
	empty = empty && w.before68
	if empty {
		*b = bindrule.Bucket{FastReuse: s.reuseAddr && !listening}
	} else if !s.reuseAddr || listening {
		b.FastReuse = false
	}
	strict := bindrule.FastReusePortStrict
	switch {
	case !s.reusePort:
		b.FastReusePort = bindrule.FastReusePortNone
	case empty:
		strict = bindrule.FastReusePortAny
		fallthrough
	case !w.reusePortMatch(s):
		b.FastReusePort = strict
		b.UID, b.Addr, b.V6Only = uint32(s.uid), s.addr, s.v6only
	}
	b.Known = true
}

// reusePortMatch does what sk_reuseport_match does.
func (w *world) reusePortMatch(s spec) bool {
	b := w.bucket
	b.FastReuse = false
	p := bindrule.Port{Bucket: b, Sockets: []bindrule.Socket{{ // conflicts with all
		Addr: s.addr, V6Only: bindrule.FlagOf(s.v6only),
		ReuseAddr: bindrule.No, ReusePort: bindrule.No,
	}}}
	return p.Bind(w.request(s)).Outcome == bindrule.Free
}

func (w *world) request(s spec) bindrule.Request {
	return bindrule.Request{
		Addr: s.addr, Ifindex: w.devices[s.device].index,
		V6Only: bindrule.FlagOf(s.v6only), ReuseAddr: bindrule.FlagOf(s.reuseAddr), ReusePort: bindrule.FlagOf(s.reusePort),
		UID: bindrule.UIDOf(uint32(s.uid)),
	}
}

// grow adds sockets to the port by some random steps.
func (w *world) grow() error {
	for range 1 + w.rng.IntN(7) {
		var err error
		switch n := w.rng.IntN(100); {
		case n < 10:
			_, err = w.bind()
		case n < 35:
			_, err = w.listen()
		case n < 45:
			err = w.connectOut()
		case n < 80:
			err = w.connectIn()
		case n < 95:
			w.close()
		default:
			err = w.mutate()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bind adds a bound socket, if it can.
func (w *world) bind() (*held, error) {
	s := w.randomSpec()
	fd, err := w.tryBind(s)
	if err != nil || fd < 0 {
		return nil, err
	}
	h := &held{spec: s.bound(), fd: fd}
	w.sockets = append(w.sockets, h)
	return h, w.remember(fd, h.spec)
}

func (w *world) remember(fd int, s spec) error {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return fmt.Errorf("getsockopt SO_COOKIE: %w", err)
	}
	w.byCookie[cookie] = settings{v6only: s.v6only, reuseAddr: s.reuseAddr, reusePort: s.reusePort}
	return nil
}

// listen adds a listener, if it can.
func (w *world) listen() (*held, error) {
	h, err := w.bind()
	if h == nil || err != nil {
		return nil, err
	}
	switch err := unix.Listen(h.fd, 64); {
	case err == nil:
		h.listening = true
		w.updateBucket(h.spec, true, false)
	case !errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("listen: %w", err)
	}
	return h, nil
}

// close closes a bound socket or a listener.
func (w *world) close() {
	for i, h := range w.sockets {
		if state, err := stateOf(h.fd); err == nil && (state == kerneltest.StateListen || state == kerneltest.StateClose) && w.queued == 0 {
			_ = unix.Close(h.fd)
			w.sockets = append(w.sockets[:i:i], w.sockets[i+1:]...)
			return
		}
	}
}

// mutate changes flags or the owner of a bound socket, which bind() compares.
func (w *world) mutate() error {
	if len(w.sockets) == 0 {
		return nil
	}
	h := pick(w.rng, w.sockets)
	h.reuseAddr, h.reusePort, h.uid = w.chance(50), w.chance(50), pick(w.rng, uids)
	w.mutated = true
	return errors.Join(
		unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, boolint(h.reuseAddr)),
		unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, boolint(h.reusePort)),
		unix.Fchown(h.fd, h.uid, -1),
		w.remember(h.fd, h.spec))
}

func (w *world) listeners() []*held {
	var ls []*held
	for _, h := range w.sockets {
		if h.listening {
			ls = append(ls, h)
		}
	}
	return ls
}

// closeListeners does what a restart does.
func (w *world) closeListeners() {
	var rest []*held
	for _, h := range w.sockets {
		if h.listening {
			_ = unix.Close(h.fd)
		} else {
			rest = append(rest, h)
		}
	}
	w.sockets = rest
}

func (w *world) end() {
	for _, fd := range w.others {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(fd)
	}
	for _, h := range w.sockets {
		_ = unix.SetsockoptLinger(h.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(h.fd)
	}
}
