package opener

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// EachNamedPort runs a test for each way in which a listener gets the port, the only one that the kernel may
// choose in the namespace. named says that the program chose it.
func EachNamedPort(t *testing.T, port uint16, test func(t *testing.T, ns *kerneltest.NetNS, named bool)) {
	t.Helper()
	v6only := true
	for _, tt := range []struct {
		name  string
		addr  netip.Addr
		port  uint16
		opts  kerneltest.Options
		named bool
	}{
		{"ipv4", netip.AddrFrom4([4]byte{127, 0, 0, 1}), port, kerneltest.Options{}, true},
		{"ipv6", netip.IPv6Unspecified(), port, kerneltest.Options{V6Only: &v6only}, true},
		{"mptcp", netip.IPv4Unspecified(), port, kerneltest.Options{MPTCP: true}, true},
		{"port 0", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0, kerneltest.Options{}, false},
		{"port 0 of ipv6", netip.IPv6Unspecified(), 0, kerneltest.Options{}, false},
		{"no bind", netip.Addr{}, 0, kerneltest.Options{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", fmt.Sprintf("%d %d", port, port))
			if tt.addr.IsValid() {
				ns.Listen(t, netip.AddrPortFrom(tt.addr, tt.port), tt.opts)
			} else {
				listenUnbound(t, ns)
			}
			test(t, ns, tt.named)
		})
	}
}

// listenUnbound listens without bind().
func listenUnbound(t testing.TB, ns *kerneltest.NetNS) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
	})
}
