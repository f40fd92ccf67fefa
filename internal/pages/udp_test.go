package pages

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/watch"
)

// watchUDP adds a watched UDP port.
func watchUDP(ns *snapshot.Namespace, port watch.Port, v4, v6 ports.UDPSockets) {
	ns.UDP.Data.Watch.Ports = append(ns.UDP.Data.Watch.Ports, port)
	ns.UDP.Data.Ports = append(ns.UDP.Data.Ports, ports.UDPPort{Number: port.Number, IPv4: v4, IPv6: v6})
}

// datagrams are the sockets of a family. Their drops are known.
func datagrams(sockets, queue, drops uint64) ports.UDPSockets {
	return ports.UDPSockets{Sockets: sockets, Queue: queue, Drops: drops, DropsKnown: true}
}

// addUDPPorts adds UDP ports, some with problems.
func addUDPPorts(s *snapshot.Snapshot) {
	nobody, found := datagrams(0, 0, 0), watch.SourceListener
	watchUDP(&s.Namespace, watch.Port{Number: 53, Name: "dns <&>", Source: watch.SourceFlag}, datagrams(2, 212992, 4711), datagrams(1, 0, 0))
	watchUDP(&s.Namespace, watch.Port{Number: 54, Source: watch.SourceFlag}, nobody, nobody)
	watchUDP(&s.Namespace, watch.Port{Number: 69, Source: found}, nobody, datagrams(0, 0, 3))   // the port of a client
	watchUDP(&s.Namespace, watch.Port{Number: 123, Source: found}, datagrams(1, 0, 12), nobody) // dropped long ago
	watchUDP(&s.Namespace, watch.Port{Number: 4840, Source: found}, datagrams(1, 768, 0), ports.UDPSockets{Sockets: 1, Queue: 768, Drops: 1})
	s.UDPPorts.Data = make([]udp.Port, len(s.UDP.Data.Watch.Ports))
	for i, p := range s.UDP.Data.Watch.Ports {
		s.UDPPorts.Data[i] = udp.Port{Number: p.Number, InOrder: true, Crowded: bindrule.No}
	}
	s.UDPPorts.Data[0].Sockets = []udp.Socket{
		udpServer("0.0.0.0", "dnsmasq <&>"), udpServer("0.0.0.0", "unbound"), udpServer("::", "named"),
	}
	helper := udpServer("127.0.0.1", "helper")
	helper.State = sock.StateEstablished
	chronyd := udpServer("0.0.0.0", "chronyd")
	chronyd.ReuseAddr = bindrule.No
	s.UDPPorts.Data[3].Sockets = []udp.Socket{chronyd, helper}
	tunnel := udpServer("0.0.0.0", "")
	tunnel.Kernel, tunnel.Handler, tunnel.Owner = true, "vxlan_rcv", owner.Owner{}
	s.UDPPorts.Data[4].Sockets = []udp.Socket{tunnel}
	nearLimits(s)
}

// udpServer is a socket with SO_REUSEADDR.
func udpServer(addr, process string) udp.Socket {
	return udp.Socket{
		Socket: bindrule.Socket{
			Addr: netip.MustParseAddr(addr), State: sock.StateClose, Count: 1, UID: bindrule.UIDOf(0),
			V6Only: bindrule.FlagOf(addr == "::"), ReuseAddr: bindrule.Yes, ReusePort: bindrule.No,
		},
		Owner: owner.Owner{Process: process, PID: 1, Unit: "dns.service"},
	}
}

// Rows of UDP have who has the port, whether a restart would work, and what is wrong.
func TestUDPPortsAreJudged(t *testing.T) {
	s := new(snapshot.Snapshot)
	watchUDP(&s.Namespace, watch.Port{Number: 123, Source: watch.SourceListener}, datagrams(2, 0, 0), datagrams(0, 0, 0))
	server, other, child := udpServer("0.0.0.0", "chronyd"), udpServer("0.0.0.0", "ntpd"), udpServer("127.0.0.1", "helper")
	server.Owner.Unit, other.Owner.Unit, child.Owner.Unit = "chrony.service", "ntp.service", ""
	s.UDPPorts.Data = []udp.Port{{Number: 123, InOrder: true, Crowded: bindrule.No, Sockets: []udp.Socket{server}}}
	row := portsPage(t, s, "").Ports[0]
	if row.Outcome != report.Free || len(row.Problems) != 0 || len(row.UDP.Servers) != 1 || row.UDP.Servers[0].Owner.Unit != "chrony.service" || row.Verdict[0].What != "restart" {
		t.Errorf("alone: %+v, %+v", row, row.UDP)
	}
	s.UDPPorts.Data[0].Sockets = []udp.Socket{server, other}
	row = portsPage(t, s, "").Ports[0]
	if !slices.Equal(row.Problems, []Problem{SharedPort}) || row.UDP.Shared == nil || !strings.Contains(row.UDP.Shared.Sentence, "chronyd") || !strings.Contains(row.UDP.Shared.Sentence, "ntpd") {
		t.Errorf("shared: %+v, %+v", row, row.UDP)
	}
	child.ReuseAddr = bindrule.No
	s.UDPPorts.Data[0].Sockets = []udp.Socket{server, child}
	row = portsPage(t, s, "").Ports[0]
	if !slices.Equal(row.Problems, []Problem{RestartBlocked}) || row.Outcome != report.Blocked || row.Diagnosis == nil || row.Diagnosis.Holder.Process != "helper" {
		t.Errorf("blocked: %+v, %+v", row, row.Diagnosis)
	}
	half := udpServer("::", "ntpd")
	half.Owner.Unit, half.Owner.PID = "ntp.service", 2
	s.UDPPorts.Data[0].Sockets = []udp.Socket{server, half}
	s.SplitUDP = []split.Port{{Number: 123, Now: true, IPv4: []owner.Owner{server.Owner}, IPv6: []owner.Owner{half.Owner}}}
	row = portsPage(t, s, "").Ports[0]
	if !slices.Equal(row.Problems, []Problem{SplitPort}) || row.Split == nil || !strings.Contains(row.Split.Sentence, ", and IPv6 by ntpd") {
		t.Errorf("split: %+v, %+v", row, row.Split)
	}
	s.UDPPorts.Data[0].Sockets = []udp.Socket{half}
	s.SplitUDP = []split.Port{{Number: 123, Now: true, Missing: sock.FamilyIPv4, IPv6: []owner.Owner{half.Owner}}}
	row = portsPage(t, s, "").Ports[0]
	if !slices.Equal(row.Problems, []Problem{SplitPort}) || row.Split == nil || !strings.Contains(row.Split.Sentence, "a bind for IPv4 failed") {
		t.Errorf("half: %+v, %+v", row, row.Split)
	}
	s.SplitUDP = nil
	s.UDPPorts.Data[0].Sockets = []udp.Socket{server, child}
	body := get(t, newPages(t, s).Ports(), "/ports")
	for _, want := range []string{"0.0.0.0", "chronyd", "chrony.service", "restart blocked"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestUDPPortThatCouldNotBeSeenIsNotKnown(t *testing.T) {
	s := new(snapshot.Snapshot)
	watchUDP(&s.Namespace, watch.Port{Number: 53, Source: watch.SourceFlag}, datagrams(0, 0, 0), datagrams(0, 0, 0))
	s.UDP.Err = errors.New("dump udp sockets: <broken>")
	page := portsPage(t, s, "")
	if want := []missing.Part{{Part: "udp", State: missing.Failed, Error: s.UDP.Err.Error()}}; !slices.Equal(page.Parts, want) {
		t.Errorf("parts %+v, want %+v", page.Parts, want)
	}
	if row := page.Ports[0]; !slices.Equal(row.Problems, []Problem{NotKnown}) || row.UDP != nil {
		t.Errorf("problems %v and %+v, want unknown and nothing", row.Problems, row.UDP)
	}
	body := get(t, newPages(t, s).Ports(), "/ports")
	for _, want := range []string{"<li>udp: dump udp sockets: &lt;broken&gt;</li>", `class="soft">not known</td>`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestUDPThatIsOffIsSaidOnce(t *testing.T) {
	s := new(snapshot.Snapshot)
	s.UDP.Err = snapshot.ErrOff
	s.Others = []snapshot.Namespace{{Name: "blue", UDP: s.UDP}}
	body := get(t, newPages(t, s).Ports(), "/ports")
	if !strings.Contains(body, "Switched off, and so not on this page: udp.") || strings.Contains(body, "could be seen") {
		t.Errorf("/ports:\n%s", body)
	}
}

func TestUDPPortsBeyondTheBudgetAreCounted(t *testing.T) {
	s := new(snapshot.Snapshot)
	s.Watch.Data.Dropped, s.UDP.Data.Watch.Dropped = 3, 4
	if got := portsPage(t, s, "").PortsNotWatched; got != 7 {
		t.Errorf("%d ports are not watched, want 7", got)
	}
}
