//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// A randomSocket is a socket with random address, options and user.
type randomSocket struct {
	fd                           int
	inode                        uint64
	addr                         netip.Addr
	v6only, reuseAddr, reusePort bool
	uid                          uint32
	state                        sock.State
}

// openRandom makes a socket that is not bound yet.
func openRandom(t *testing.T, rng *rand.Rand) *randomSocket {
	t.Helper()
	addrs := []netip.Addr{v4any, v4lo, v4lo2, v6any, v6any, v6lo, mapped}
	s := &randomSocket{
		addr: addrs[rng.IntN(len(addrs))], v6only: rng.IntN(2) == 0, reuseAddr: rng.IntN(2) == 0, reusePort: rng.IntN(2) == 0,
		uid: uint32(rng.IntN(2)), state: sock.StateClose,
	}
	s.v6only = s.v6only && s.addr.Is6() && !s.addr.Is4In6()
	tg := target{domain: kerneltest.Family(s.addr), typ: unix.SOCK_STREAM}
	s.fd = tg.open(t)
	number := func(on bool) int {
		if on {
			return 1
		}
		return 0
	}
	var st unix.Stat_t
	err := errors.Join(
		unix.Fchown(s.fd, int(s.uid), 0),
		unix.Fstat(s.fd, &st),
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, number(s.reuseAddr)),
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, number(s.reusePort)),
	)
	if s.addr.Is6() {
		err = errors.Join(err, unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, number(s.v6only)))
	}
	if err != nil {
		t.Fatal(err)
	}
	s.inode = st.Ino
	return s
}

func (s *randomSocket) held() bindrule.Socket {
	return bindrule.Socket{
		Addr: s.addr, V6Only: bindrule.FlagOf(s.v6only), ReuseAddr: bindrule.FlagOf(s.reuseAddr),
		ReusePort: bindrule.FlagOf(s.reusePort), UID: bindrule.UIDOf(s.uid), State: s.state, Count: 1,
	}
}

func (s *randomSocket) request() bindrule.Request {
	h := s.held()
	return bindrule.Request{Addr: h.Addr, V6Only: h.V6Only, ReuseAddr: h.ReuseAddr, ReusePort: h.ReusePort, UID: h.UID}
}

// Among random sockets, those are captured that conflict with the bind by the rules of package
// bindrule, and no others.
func TestCaptureAmongRandomSockets(t *testing.T) {
	const cases, binds = 60, 12
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		failed := 0
		for i := range cases {
			t.Run(fmt.Sprintf("%d of seed %d", i, seed), func(t *testing.T) {
				ns := kerneltest.New(t)
				netns := uint32(ns.Inode())
				watchOnly(t, tr, ns) // a user of its own
				ns.Do(t, func() {
					var held []*randomSocket
					for range binds {
						s := openRandom(t, rng)
						switch err := bindRaw(s.fd, sockaddrOf(s.addr, testPort)); {
						case errors.Is(err, unix.EADDRINUSE):
							failed++
							checkByRules(t, nextEvent(t, tr, netns), s, held)
						case err != nil:
							t.Fatal(err)
						default:
							s.v6only = s.v6only || s.addr == v6lo // as __inet6_bind sets it
							if rng.IntN(2) == 0 {
								switch err := unix.Listen(s.fd, 1); {
								case errors.Is(err, unix.EADDRINUSE):
									failed++
									checkByRules(t, nextEvent(t, tr, netns), s, held)
								case err != nil:
									t.Fatal(err)
								default:
									s.state = sock.StateListen
								}
							}
							held = append(held, s)
						}
					}
				})
			})
		}
		t.Logf("%d binds failed", failed)
	})
}

// checkByRules compares the captured sockets with the verdict of bindrule. The port has no memory of
// earlier binds: a bind that failed was not admitted by it.
func checkByRules(t *testing.T, e Event, binder *randomSocket, held []*randomSocket) {
	t.Helper()
	port := bindrule.Port{Bucket: bindrule.Bucket{Known: true}}
	for _, s := range held {
		port.Sockets = append(port.Sockets, s.held())
	}
	verdict := port.Bind(binder.request())
	may := make(map[uint64]bool)
	var must []uint64
	for _, i := range verdict.Blockers {
		may[held[i].inode] = true
		must = append(must, held[i].inode)
	}
	for _, i := range verdict.Doubtful {
		may[held[i].inode] = true
	}
	var got []uint64
	for _, b := range e.Blockers {
		got = append(got, b.Inode)
	}
	wrong := slices.ContainsFunc(got, func(inode uint64) bool { return !may[inode] })
	lacks := slices.ContainsFunc(must, func(inode uint64) bool { return !slices.Contains(got, inode) })
	if many := len(may) > bhash.MaxBlockers; wrong || lacks && !many || (e.Captured == CaptureAll) == many || e.Captured == CaptureNone {
		t.Errorf("bind of %+v among %+v: captured %d, %+v, want sockets %v", *binder, port.Sockets, e.Captured, e.Blockers, must)
	}
}
