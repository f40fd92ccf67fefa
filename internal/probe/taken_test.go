package probe

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/sock"
)

// A port that bind() took serves one socket. One that connect() chose serves other destinations, too.
func TestTakenPortsTellBindFromConnect(t *testing.T) {
	kerneltest.RequireRoot(t)
	buckets := opener.OrSkip(t, func() (*bindbucket.Reader, error) { return bindbucket.New(nil) })
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "40000 40003")
	lo := netip.MustParseAddr("127.0.0.1")
	server := ns.Listen(t, netip.AddrPortFrom(lo, 4000), kerneltest.Options{Backlog: 8})
	ns.Bind(t, netip.AddrPortFrom(lo, 0), kerneltest.Options{})
	for range 2 {
		conn, err := ns.DialContext(t.Context(), "tcp", server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	config := Config{NetNS: ns.FD(), Buckets: buckets}
	own := config.Own()
	defer own.Close()
	bound, chosen := own.TakenPorts(sock.PortRange{First: 40000, Last: 40003})
	if bound != 1 || chosen != 2 {
		t.Errorf("%d ports by bind() and %d by connect(), want 1 and 2", bound, chosen)
	}
	// Of a large range it looks at some, of both parities.
	var fds []int
	ns.Do(t, func() {
		for port := 20_000; port < 21_000; port++ {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: lo.As4(), Port: port}); err != nil {
				t.Fatal(err)
			}
		}
	})
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	if bound, chosen = own.TakenPorts(sock.PortRange{First: 20_000, Last: 20_999}); bound < maxTaken/2 || bound > maxTaken || chosen != 0 {
		t.Errorf("%d ports by bind() and %d by connect(), want %d at most, and 0", bound, chosen, maxTaken)
	}
	config.Buckets = nil
	without := config.Own()
	defer without.Close()
	if bound, chosen = without.TakenPorts(sock.PortRange{First: 20_000, Last: 20_999}); bound+chosen != 0 {
		t.Errorf("%d ports by bind() and %d by connect() without the buckets", bound, chosen)
	}
}
