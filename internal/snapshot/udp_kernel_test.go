package snapshot

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// clientTaker takes what a namespace has beside TCP listeners.
func clientTaker(t *testing.T, ns *kerneltest.NetNS, watched watch.Config, remote ...sock.PortRange) *Taker {
	t.Helper()
	cfg := Config{
		Host: &probe.Host{Config: probe.Config{
			NetNS: ns.FD(),
			LocalPorts: func() (first, last uint16, err error) {
				text, err := ns.GetSysctl("net.ipv4.ip_local_port_range")
				if err == nil {
					_, err = fmt.Sscan(text, &first, &last)
				}
				return first, last, err
			},
		}},
		Retention: retention,
		Parts:     Parts{UDP: true, Ephemeral: true},
	}
	if len(remote) > 0 {
		cfg.Parts.Remote = watch.NewFixed(remote)
	}
	return newTaker(t, cfg, watched)
}

func udpPort(t *testing.T, taker *Taker, number uint16) (ports.UDPPort, bool) {
	t.Helper()
	s := taker.Take(t.Context())
	if s.UDP.Err != nil {
		t.Fatal(s.UDP.Err)
	}
	for i, p := range s.UDP.Data.Ports {
		if p.Number != s.UDP.Data.Watch.Ports[i].Number {
			t.Fatalf("port %d at the place of %v", p.Number, s.UDP.Data.Watch.Ports[i])
		}
		if p.Number == number {
			return p, true
		}
	}
	return ports.UDPPort{}, false
}

// flood sends datagrams, more than a receive queue takes, and says how many.
func flood(t *testing.T, client *kerneltest.Socket) uint64 {
	t.Helper()
	const datagrams = 2000
	payload := make([]byte, 1000)
	for range datagrams {
		// On loopback it is queued, or dropped, once write returns.
		for {
			_, err := unix.Write(client.FD(), payload)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOBUFS) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return datagrams
}

// received reads all that waits.
func received(t *testing.T, server *kerneltest.Socket) uint64 {
	t.Helper()
	buf := make([]byte, 2000)
	for n := uint64(0); ; n++ {
		_, _, err := unix.Recvfrom(server.FD(), buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestKernelDatagramsThatAreDropped(t *testing.T) {
	for _, tt := range []struct {
		name, listen, from string
		family             netlinkdiag.Family
	}{
		{"ipv4", "127.0.0.1", "127.0.0.2", netlinkdiag.FamilyIPv4},
		{"ipv6", "::1", "::1", netlinkdiag.FamilyIPv6},
		{"dual-stack", "::", "127.0.0.2", netlinkdiag.FamilyIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			watched := discovering()
			watched.Ports = []watch.Spec{{PortRange: one(53), Protocol: sock.UDP, Name: "dns"}}
			taker := clientTaker(t, ns, watched)
			addr := netip.AddrPortFrom(netip.MustParseAddr(tt.listen), 53)
			before, _ := udpPort(t, taker, 53)
			if want := (ports.UDPPort{Number: 53, IPv4: ports.UDPSockets{DropsKnown: true}, IPv6: ports.UDPSockets{DropsKnown: true}}); before != want {
				t.Errorf("without a socket: %+v, want %+v", before, want)
			}
			var total uint64
			for round := range 2 {
				server := ns.ListenUDP(t, addr, kerneltest.Options{})
				to := netip.AddrPortFrom(addr.Addr(), 53)
				if to.Addr().IsUnspecified() {
					to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 53)
				}
				client := ns.DialUDP(t, netip.AddrPortFrom(netip.MustParseAddr(tt.from), 0), to, kerneltest.Options{})
				sent := flood(t, client)
				p, _ := udpPort(t, taker, 53)
				full := *p.Of(tt.family)
				queued := received(t, server)
				if queued == 0 || queued == sent {
					t.Fatalf("%d of %d datagrams were queued", queued, sent)
				}
				if full.Queue < queued*1000 {
					t.Errorf("%d bytes are queued, want those of %d datagrams of 1000 at least", full.Queue, queued)
				}
				total += sent - queued
				if full.Drops != total || !full.DropsKnown || full.Sockets != 1 {
					t.Errorf("round %d: %+v, want 1 socket and %d drops", round, full, total)
				}
				p, _ = udpPort(t, taker, 53)
				if got := *p.Of(tt.family); got.Queue != 0 || got.Drops != total {
					t.Errorf("round %d, read empty: %+v, want %d drops", round, got, total)
				}
				_, _ = server.Close(), client.Close()
				p, _ = udpPort(t, taker, 53)
				if got, want := *p.Of(tt.family), (ports.UDPSockets{Drops: total, DropsKnown: true}); got != want {
					t.Errorf("round %d, closed: %+v, want %+v", round, got, want)
				}
			}
		})
	}
}

func TestKernelUDPPortsThatAreDiscovered(t *testing.T) {
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.ip_local_port_range", "40000 40999")
	watched := discovering()
	watched.Ports = []watch.Spec{{PortRange: one(40001), Protocol: sock.UDP}}
	watched.Exclude = []watch.Exclusion{{PortRange: one(68), Protocol: sock.UDP}, {PortRange: one(123)}}
	taker := clientTaker(t, ns, watched)
	any4 := netip.IPv4Unspecified()
	for _, port := range []uint16{68, 123, 5353, 40001, 40002} {
		ns.ListenUDP(t, netip.AddrPortFrom(any4, port), kerneltest.Options{ReuseAddr: true})
	}
	ns.DialUDP(t, netip.AddrPortFrom(localhost4, 39999), netip.AddrPortFrom(localhost4, 5353), kerneltest.Options{})
	ns.DialUDP(t, netip.AddrPortFrom(localhost4, 5353), netip.AddrPortFrom(localhost4, 9), kerneltest.Options{ReuseAddr: true})
	ns.Listen(t, netip.AddrPortFrom(any4, 80), kerneltest.Options{})

	s := taker.Take(t.Context())
	var got []watch.Port
	got = append(got, s.UDP.Data.Watch.Ports...)
	want := fmt.Sprint([]watch.Port{
		{Number: 123, Source: watch.SourceListener}, // the exclusion is of TCP
		{Number: 5353, Source: watch.SourceListener},
		{Number: 40001, Source: watch.SourceFlag},
	})
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	checkWatched(t, &s, 80)
	if p, _ := udpPort(t, taker, 5353); p.IPv4.Sockets != 2 || p.IPv6.Sockets != 0 {
		t.Errorf("%+v, want the connected socket counted too", p)
	}
}
