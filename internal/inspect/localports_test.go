package inspect

import (
	"net/netip"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

func TestSampleIsBoundedAndFromTheWholeDump(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 1000, 28_232} {
		v := sampler{of: sock.PortRange{First: 1, Last: 65535}}
		local, remote := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:443")
		for i := range n {
			v.Add(&netlinkdiag.Socket{Local: local, Remote: remote, Inode: uint32(i + 1)})
		}
		got := len(v.inodes)
		if got > sampleSize || got < min(n, sampleSize/2) {
			t.Errorf("%d sockets: a sample of %d", n, got)
		}
		late := 0
		for _, inode := range v.inodes {
			if int(inode) > n/2 {
				late++
			}
		}
		if n > sampleSize && (late < got/3 || late > got-got/3) {
			t.Errorf("%d sockets: %d of %d in the sample are of the second half", n, late, got)
		}
	}
}

func TestLocalPortsOfADestination(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "40000 40999")
	lo := netip.MustParseAddr("127.0.0.1")
	a := ns.Listen(t, netip.AddrPortFrom(lo, 4000), kerneltest.Options{Backlog: 8})
	b := ns.Listen(t, netip.AddrPortFrom(lo, 4001), kerneltest.Options{Backlog: 8})
	for _, to := range []*kerneltest.Listener{a, a, b} {
		conn, err := ns.DialContext(t.Context(), "tcp", to.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	config := probe.Config{NetNS: ns.FD()}
	own := config.Own()
	defer own.Close()
	clients := sock.PortRange{First: 40000, Last: 40999}
	for to, want := range map[netip.AddrPort]int{{}: 3, a.Addr(): 2, b.Addr(): 1} {
		got, err := LocalPorts(t.Context(), own, clients, to)
		if err != nil || got.Looked != want || len(got.Inodes) != want {
			t.Errorf("%v: %+v, %v; want %d sockets", to, got, err, want)
		}
	}
}
