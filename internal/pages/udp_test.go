package pages

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
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
	nearLimits(s)
}

func TestUDPPortThatCouldNotBeSeenIsNotKnown(t *testing.T) {
	s := new(snapshot.Snapshot)
	watchUDP(&s.Namespace, watch.Port{Number: 53, Source: watch.SourceFlag}, datagrams(0, 0, 0), datagrams(0, 0, 0))
	s.UDP.Err = errors.New("dump udp sockets: <broken>")
	page := portsPage(t, s, "")
	if want := []PartReport{{Part: "udp", State: partFailed, Error: s.UDP.Err.Error()}}; !slices.Equal(page.Parts, want) {
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
