package check

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
)

// outgoing connects to a server of another port. Port 0 lets the kernel choose.
func outgoing(t *testing.T, ns *kerneltest.NetNS, from uint16) {
	t.Helper()
	to := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4850"), kerneltest.Options{}).Addr()
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if from != 0 {
			err = unix.Bind(fd, kerneltest.Sockaddr(netip.AddrPortFrom(lo4, from)))
		}
		if err == nil {
			err = unix.Connect(fd, kerneltest.Sockaddr(to))
		}
		if err != nil {
			t.Fatal(err)
		}
		local, err := unix.Getsockname(fd)
		if got := kerneltest.AddrPort(local); err != nil || got.Port() != port {
			t.Fatalf("the connection is from %v, %v", got, err)
		}
	})
}

func requireBuckets(t *testing.T) {
	t.Helper()
	kerneltest.RequireRoot(t)
	opener.OrSkip(t, func() (*bindbucket.Reader, error) { return bindbucket.New(nil) })
}

// Whether a server lived here before is not known to a program that has just begun. The kernel knows who
// opened the connection.
func TestOutgoingConnectionsAreKnownByTheirPort(t *testing.T) {
	requireBuckets(t)
	const usual, these = "32768 60999", "4840 4841"
	for _, tt := range []struct {
		name string
		make func(t *testing.T, ns *kerneltest.NetNS)
		want codes.Code
	}{
		{"the client has bound to it", func(t *testing.T, ns *kerneltest.NetNS) { outgoing(t, ns, port) }, codes.OutgoingConnection},
		{"the kernel chose it", func(t *testing.T, ns *kerneltest.NetNS) {
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", these)
			outgoing(t, ns, 0)
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", usual)
		}, codes.OutgoingConnection},
		{"the kernel chose it, and the client has closed it", func(t *testing.T, ns *kerneltest.NetNS) {
			l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4850"), kerneltest.Options{})
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", these)
			timeWaitOfClient(t, ns, l)
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", usual)
		}, codes.OutgoingConnection},
		{"a server has accepted it", func(t *testing.T, ns *kerneltest.NetNS) {
			l := ns.Listen(t, at(any4), kerneltest.Options{})
			l.Peers(t, kerneltest.StateEstablished, 1, lo4)
			_ = l.Close()
		}, codes.Unknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.Sysctl(t, "net.ipv4.ip_local_port_range", usual)
			tt.make(t, ns)
			_, p := answers(t, ns, ExitBlocked, "4840")
			if p.Diagnosis == nil || p.Diagnosis.Code != tt.want {
				t.Errorf("diagnosis %+v, want %s", p.Diagnosis, tt.want)
			}
		})
	}
}

// timeWaitOfClient has a client connect and close first.
func timeWaitOfClient(t *testing.T, ns *kerneltest.NetNS, l *kerneltest.Listener) {
	t.Helper()
	ns.Do(t, func() {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(client, kerneltest.Sockaddr(l.Addr())); err != nil {
			t.Fatal(err)
		}
		conn, from, err := unix.Accept4(l.FD(), unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if got := kerneltest.AddrPort(from); got.Port() != port {
			t.Fatalf("the connection is from %v", got)
		}
		if err := unix.Close(client); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Read(conn, make([]byte, 1)); n != 0 || err != nil {
			t.Fatalf("want the end of what is read: %d, %v", n, err)
		}
		if err := unix.Close(conn); err != nil {
			t.Fatal(err)
		}
	})
}
