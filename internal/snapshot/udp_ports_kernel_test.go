package snapshot

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/watch"
)

// A snapshot has the sockets of each watched UDP port, with flags and owner, and without eBPF the owner.
func TestUDPPortsHaveFlagsAndOwner(t *testing.T) {
	kerneltest.RequireRoot(t)
	reader := opener.OrSkip(t, func() (*udphash.Reader, error) { return udphash.New(nil) })
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer finder.Close()
	for name, flags := range map[string]probe.UDPReader{"flags": reader, "no flags": nil} {
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.ListenUDP(t, netip.MustParseAddrPort("0.0.0.0:53"), kerneltest.Options{ReuseAddr: true})
			ns.DialUDP(t, netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("127.0.0.9:9"), kerneltest.Options{ReuseAddr: true})
			taker := newTaker(t, Config{
				Host:      &probe.Host{Config: probe.Config{NetNS: ns.FD(), UDP: flags}},
				Retention: retention, Parts: Parts{UDP: true}, Owners: finder,
			}, watch.Config{Listeners: true, MaxPorts: 8})
			s := taker.Take(t.Context())
			if s.UDPPorts.Err != nil || len(s.UDPPorts.Data) != 1 || len(s.UDPPorts.Data[0].Sockets) != 2 {
				t.Fatalf("got %+v", s.UDPPorts)
			}
			p := &s.UDPPorts.Data[0]
			want := bindrule.FlagUnknown
			if flags != nil {
				want = bindrule.Yes
			}
			for i := range p.Sockets {
				if x := &p.Sockets[i]; x.Owner.PID != os.Getpid() || x.ReuseAddr != want {
					t.Errorf("got %+v", x)
				}
			}
			groups := p.Groups()
			if len(groups) != 1 || groups[0].Connected != 1 || !groups[0].Serves() || groups[0].Addr != netip.IPv4Unspecified() {
				t.Errorf("groups %+v", groups)
			}
			request := bindrule.Request{Addr: netip.IPv4Unspecified(), ReuseAddr: bindrule.Yes, ReusePort: bindrule.No}
			rule, _ := p.Rule(nil)
			outcome := map[bindrule.Flag]bindrule.Outcome{bindrule.Yes: bindrule.Free, bindrule.FlagUnknown: bindrule.Unknown}[want]
			if got := rule.Bind(request).Outcome; got != outcome {
				t.Errorf("bind: %v, want %v", got, outcome)
			}
		})
	}
}

// Another user opens thousands of sockets on other addresses of the port.
func TestCrowdOnAUDPPortDoesNotHideItsServer(t *testing.T) {
	kerneltest.RequireRoot(t)
	reader, err := udphash.New(nil)
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	defer reader.Close()
	finder, err := owner.New(owner.Options{Wait: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer finder.Close()
	server := netip.MustParseAddrPort("127.0.0.53:53")
	for name, flags := range map[string]probe.UDPReader{"flags": reader, "no flags": nil} {
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.ListenUDP(t, server, kerneltest.Options{})
			taker := newTaker(t, Config{
				Host:      &probe.Host{Config: probe.Config{NetNS: ns.FD(), UDP: flags}},
				Retention: retention, Parts: Parts{UDP: true}, Owners: finder,
			}, watch.Config{Listeners: true, MaxPorts: 8})
			for i := range 3000 {
				at := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
				fd := ns.ListenUDP(t, netip.AddrPortFrom(at, server.Port()), kerneltest.Options{}).FD()
				if err := unix.Fchown(fd, 65534, -1); err != nil {
					t.Fatal(err)
				}
			}
			s := taker.Take(t.Context())
			if s.UDPPorts.Err != nil || len(s.UDPPorts.Data) != 1 {
				t.Fatalf("%d ports, %v", len(s.UDPPorts.Data), s.UDPPorts.Err)
			}
			p := &s.UDPPorts.Data[0]
			if !p.Incomplete || len(p.Sockets) > 256 {
				t.Errorf("%d sockets, incomplete %v", len(p.Sockets), p.Incomplete)
			}
			groups, _ := udp.Bounded(p.Groups(), 16)
			found := false
			for _, g := range groups {
				found = found || g.Addr == server.Addr() && g.Owner.PID == os.Getpid()
			}
			if !found {
				t.Errorf("the server is not among %d groups of %d sockets, or its owner is not known", len(groups), len(p.Sockets))
			}
			if half := s.UDP.Data.Ports[0].Of(sock.FamilyIPv4); half.Sockets != 3001 {
				t.Errorf("%d sockets are counted, want 3001", half.Sockets)
			}
		})
	}
}

var _ udp.SocketFinder = (*owner.Finder)(nil)
