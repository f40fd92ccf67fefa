package snapshot

import (
	"errors"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/seen"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A series publishes one snapshot of a namespace after another. Port 80 is watched.
type series struct {
	set    watch.Set
	memory seen.Memory
}

func newSeries(t *testing.T) *series {
	t.Helper()
	w, err := watch.New(watch.Config{Listeners: true, MaxPorts: 512})
	if err != nil {
		t.Fatal(err)
	}
	return &series{set: w.Update(time.Now(), []watch.Server{{Port: 80}})}
}

// see publishes a whole Namespace at once.
func (s *series) see(change func(*Namespace)) *Namespace {
	ns := new(Namespace)
	ns.Watch.Data = s.set
	ns.TCP.Data = []ports.PortSockets{{Number: 80}}
	noting(&s.memory, func(set func(*Namespace)) { set(ns) })(change)
	return ns
}

func checkSeen(t *testing.T, when string, p seen.Port, ipv4, ipv6 bool, states6 sock.StateSet) {
	t.Helper()
	got4, got6 := p.InUse(sock.FamilyIPv4), p.InUse(sock.FamilyIPv6)
	if got4 != ipv4 || got6 != ipv6 || p.States(sock.FamilyIPv6) != states6 {
		t.Errorf("%s: uses IPv4 %v, IPv6 %v in states %v; want %v, %v, %v", when, got4, got6, p.States(sock.FamilyIPv6), ipv4, ipv6, states6)
	}
}

func TestListenersTellTheFamilyWithoutTheirCollector(t *testing.T) {
	ns := newSeries(t).see(func(ns *Namespace) {
		ns.TCP = Part[[]ports.PortSockets]{Err: ErrOff}
		ns.Listeners = Part[[]ports.Group]{Err: ErrOff, Data: []ports.Group{{GroupKey: groupOn80(), Sockets: 2}}}
	})
	p := ns.Seen.TCP(80)
	checkSeen(t, "collectors off", p, false, true, sock.States(sock.StateListen))
	if !p.Shared(groupOn80()) {
		t.Error("the group had several sockets")
	}
}

func groupOn80() ports.GroupKey {
	return ports.GroupKey{Port: 80, Family: sock.FamilyIPv6, Address: localhost6}
}

// In other namespaces nobody misses the connections.
func TestOnlyTheOwnNamespaceHasRemotePortsBeforeTheyAreUsed(t *testing.T) {
	for name, own := range map[string]bool{"": true, "blue": false} {
		ns := newSeries(t).see(func(ns *Namespace) {
			ns.Name, ns.Remote.Data = name, []ports.RemotePort{{Number: 5432}}
		})
		checkSeen(t, "namespace "+name, ns.Seen.Remote(0), own, own, 0)
	}
}

// A port of the set that is watched while the kernel does not answer keeps what was seen on it.
func TestAFailedLookForgetsNothing(t *testing.T) {
	s := newSeries(t)
	s.see(func(ns *Namespace) {
		ns.TCP.Data[0].IPv6.States[sock.StateTimeWait] = 1
		ns.Listeners.Data = []ports.Group{{GroupKey: groupOn80(), Sockets: 2}}
		ns.Remote.Data = []ports.RemotePort{{Number: 5432}}
		ns.Remote.Data[0].IPv6[sock.StateSynSent] = 1
		ns.Ephemeral.Data.IPv6 = []uint64{5, 3}
	})
	ns := s.see(func(ns *Namespace) {
		for err := range partErrors(ns) {
			*err = errStack
		}
		ns.TCP.Data = nil
	})
	p := ns.Seen.TCP(80)
	checkSeen(t, "after a failure", p, false, true, sock.States(sock.StateTimeWait, sock.StateListen))
	checkSeen(t, "remote", ns.Seen.Remote(0), false, true, sock.States(sock.StateSynSent))
	if !p.Shared(groupOn80()) || ns.Seen.Destinations(sock.FamilyIPv6) != 2 {
		t.Error("the group or the destinations are forgotten")
	}
}

// It has its series in the snapshot that shows the failure.
func TestAFailureIsNotedInItsOwnSnapshot(t *testing.T) {
	s := newSeries(t)
	ns := s.see(func(*Namespace) {})
	w := worker{memory: s.memory}
	w.noteFailures(ns, []bindtrace.Count{{N: 1, Key: bindtrace.Key{Netns: ns.Inode, Port: 80, Family: sock.FamilyIPv6, Protocol: sock.TCP}}})
	checkSeen(t, "after the failure", ns.Seen.TCP(80), false, true, 0)
}

// Of one snapshot, a part is noted when it is there, and what was noted goes out with the part.
func TestPartsAreNotedAsTheyCome(t *testing.T) {
	s := newSeries(t)
	ns := new(Namespace)
	for err := range partErrors(ns) {
		*err = errPending
	}
	publish := noting(&s.memory, func(set func(*Namespace)) { set(ns) })
	publish(func(ns *Namespace) { ns.Watch = Part[watch.Set]{Data: s.set} })
	checkSeen(t, "the set alone", ns.Seen.TCP(80), false, false, 0)
	publish(func(ns *Namespace) {
		ns.TCP = Part[[]ports.PortSockets]{Data: []ports.PortSockets{{Number: 80}}}
		ns.TCP.Data[0].IPv6.States[sock.StateTimeWait] = 1
	})
	checkSeen(t, "with the sockets", ns.Seen.TCP(80), false, true, sock.States(sock.StateTimeWait))
	if !errors.Is(ns.Verdicts.Err, errPending) {
		t.Error("another part is not pending any more")
	}
}
