package sockflags_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/sock"
)

const port = 4840

var (
	v4any    = netip.MustParseAddr("0.0.0.0")
	v4lo     = netip.MustParseAddr("127.0.0.1")
	v6any    = netip.MustParseAddr("::")
	v6lo     = netip.MustParseAddr("::1")
	noFlags  = sockflags.Flags{}
	allFlags = []sockflags.Flags{{}, {ReuseAddr: true}, {ReusePort: true}, {ReuseAddr: true, ReusePort: true}}
	yes, no  = true, false
)

func newReader(t testing.TB, opts sockflags.Options) *sockflags.Reader {
	t.Helper()
	return opener.AsRoot(t, func() (*sockflags.Reader, error) { return sockflags.New(opts) })
}

func read(t testing.TB, r *sockflags.Reader, req sockflags.Request) *sockflags.Result {
	t.Helper()
	result, err := r.Read(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// options turns flags into those of a test socket.
func options(f sockflags.Flags) kerneltest.Options {
	return kerneltest.Options{ReuseAddr: f.ReuseAddr, ReusePort: f.ReusePort}
}

// flagsOf returns the flags by getsockopt.
func flagsOf(t testing.TB, fd int) sockflags.Flags {
	t.Helper()
	return sockflags.Flags{
		ReuseAddr: getsockopt(t, fd, unix.SO_REUSEADDR) != 0,
		ReusePort: getsockopt(t, fd, unix.SO_REUSEPORT) != 0,
	}
}

func getsockopt(t testing.TB, fd, option int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func setsockopt(t testing.TB, fd, option, value int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, value); err != nil {
		t.Fatal(err)
	}
}

func inodeOf(t testing.TB, fd int) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

// cookieOf asks for the cookie. The kernel makes one if the socket has none.
func cookieOf(t testing.TB, fd int) uint64 {
	t.Helper()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

func idOf(t testing.TB, fd int) sockflags.ListenerID {
	t.Helper()
	return sockflags.ListenerID{Cookie: cookieOf(t, fd), Inode: inodeOf(t, fd)}
}

// total counts the sockets of all groups.
func total(r *sockflags.Result) (n uint64) {
	for _, g := range r.Groups {
		n += g.Count
	}
	return n
}

// tally sums groups with equal keys. The caller decides what is in a key.
func tally[K comparable](r *sockflags.Result, key func(sockflags.Group) K) map[K]uint64 {
	sums := make(map[K]uint64)
	for _, g := range r.Groups {
		sums[key(g)] += g.Count
	}
	return sums
}

const soReuseAddr = unix.SO_REUSEADDR

func bindToDevice(t testing.TB, fd int, device string) {
	t.Helper()
	if err := unix.BindToDevice(fd, device); err != nil {
		t.Fatal(err)
	}
}

func fchown(fd, uid int) error { return unix.Fchown(fd, uid, -1) }

// sockDiagExpires returns the longest timer of the TIME_WAIT sockets on port, by sock_diag.
func sockDiagExpires(t testing.TB, ns *kerneltest.NetNS) (expires time.Duration) {
	t.Helper()
	ns.Do(t, func() {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sockets {
			if s.ID.SourcePort == port && s.State == uint8(sock.StateTimeWait) {
				expires = max(expires, time.Duration(s.Expires)*time.Millisecond)
			}
		}
	})
	return expires
}
