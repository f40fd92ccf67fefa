package snapshot

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports/shown"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// hostile opens sockets of a user on n addresses of a net ("127.1.%d.%d") and a port. They need not
// be addresses of the host.
func hostile(t *testing.T, ns *kerneltest.NetNS, n int, net string, port uint16, uid int, listen bool) {
	t.Helper()
	ns.Do(t, func() {
		for i := range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			addr := netip.MustParseAddrPort(fmt.Sprintf(net+":%d", i/200, i%200+1, port))
			if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fchown(fd, uid, -1); err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fd, kerneltest.Sockaddr(addr)); err != nil {
				t.Fatal(err)
			}
			if !listen {
				continue
			}
			if err := unix.Listen(fd, 1); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Neither another user nor the server's own can hide a server behind addresses that are not the
// host's, and another user cannot behind those that are.
func TestFloodOfListenersDoesNotHideAServer(t *testing.T) {
	kerneltest.RequireRoot(t)
	for _, tt := range []struct {
		name, net string
		uid       int
	}{
		{"not of the host, of another user", "1.0.%d.%d", 65534},
		{"not of the host, of the same user", "1.0.%d.%d", 0},
		{"of the host, of another user", "127.0.%d.%d", 65534},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			const number = 4840
			ns.AddDummy(t, "dummy0", netip.MustParsePrefix("10.9.9.9/32"), netip.MustParsePrefix("fd00::9/128"))
			hostile(t, ns, 80, tt.net, number, tt.uid, true)
			servers := []string{"10.9.9.9", "127.5.5.5", "fd00::9"}
			for _, a := range servers {
				ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr(a), number), kerneltest.Options{})
			}
			s := whole(t, kernelTaker(t, ns, watch.Config{Listeners: true, MaxPorts: 10}))
			got := shownOn(&s, number)
			for _, a := range servers {
				if !slices.Contains(got, a) {
					t.Errorf("%s is not shown", a)
				}
			}
			if len(got) != shown.MaxPerPort || s.GroupsDropped[number] != 80+len(servers)-len(got) {
				t.Errorf("%d groups are shown, %d dropped; want %d, and the rest", len(got), s.GroupsDropped[number], shown.MaxPerPort)
			}
		})
	}
}

// Any user may bind sockets to other addresses of a server's port.
func TestFloodOfBoundSocketsLeavesVerdictsKnown(t *testing.T) {
	if !showsBoundInactive(t) {
		kerneltest.Skip(t, "the kernel does not show bound sockets before Linux 6.8")
	}
	for name, flags := range map[string]probe.FlagReader{"with flags": bpfFlags(t), "without": nil} {
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.New(t)
			const number = 4840
			l := ns.Listen(t, netip.AddrPortFrom(localhost4, number), kerneltest.Options{})
			l.Peers(t, kerneltest.StateTimeWait, 1, localhost4)
			hostile(t, ns, 1100, "127.1.%d.%d", number, 65534, false)
			v := judged(t, verdictTaker(t, ns, flags, number))
			b := v.Binds[0]
			if left, _, ok := b.Remaining(); b.Outcome != bindrule.Blocked || !ok || left == 0 {
				t.Errorf("a bind to %v is %v for %v, known: %v; want blocked for a while", b.Address, b.Outcome, left, ok)
			}
			if b.Blockers[sock.StateTimeWait] != 1 || b.Blockers[sock.StateClose] != 0 {
				t.Errorf("blockers by state %v, want the one in TIME_WAIT", b.Blockers)
			}
			if len(v.Restarts) != 1 || flags != nil && v.Restarts[0].Outcome != bindrule.Blocked {
				t.Errorf("restarts %+v, want the server's, blocked where flags are known", v.Restarts)
			}
		})
	}
}
