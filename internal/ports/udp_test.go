package ports

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

func newTestUDPWatcher(t *testing.T, cfg watch.Config) *UDPWatcher {
	t.Helper()
	cfg.Retention, cfg.MaxPorts = retention, 512
	plan, err := watch.NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return NewUDPWatcher(plan.Own(sock.UDP), retention)
}

func udpSocket(port uint16, cookie uint64, drops uint32) netlinkdiag.Socket {
	return netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: sock.StateClose, Cookie: cookie,
		Local:  netip.AddrPortFrom(netip.IPv4Unspecified(), port),
		HasMem: true, Mem: netlinkdiag.MemInfo{Drops: drops},
	}
}

// dump is an Update with these sockets.
func (u *UDPWatcher) dump(now time.Time, chosen sock.PortRange, sockets ...netlinkdiag.Socket) UDP {
	l := u.Begin(now)
	for i := range sockets {
		l.Add(&sockets[i])
	}
	return u.Update(now, l, chosen)
}

func dropsOf(u UDP, port uint16) (uint64, bool) {
	for i := range u.Ports {
		if u.Ports[i].Number == port {
			return u.Ports[i].IPv4.Drops, true
		}
	}
	return 0, false
}

func TestDropsOfAnAskedUDPPortOutliveTheRetention(t *testing.T) {
	w := newTestUDPWatcher(t, watch.Config{Ports: []watch.Spec{{PortRange: netlinkdiag.Port(53), Protocol: sock.UDP}}})
	now := time.Now()
	w.dump(now, sock.PortRange{}, udpSocket(53, 1, 5))
	for _, after := range []time.Duration{retention, 3 * retention, 10 * retention} {
		if n, ok := dropsOf(w.dump(now.Add(after), sock.PortRange{}), 53); !ok || n != 5 {
			t.Errorf("%v without a socket: %d drops, there %v, want 5", after, n, ok)
		}
	}
	if n, _ := dropsOf(w.dump(now.Add(11*retention), sock.PortRange{}, udpSocket(53, 2, 3)), 53); n != 8 {
		t.Errorf("with the next socket: %d drops, want 8", n)
	}
}

func TestUDPPortThatIsWatchedAgainCountsDropsOnce(t *testing.T) {
	w := newTestUDPWatcher(t, watch.Config{Listeners: true})
	now := time.Now()
	socket := udpSocket(53, 1, 5)
	w.dump(now, sock.PortRange{}, socket)
	socket.State = sock.StateEstablished
	for after := time.Duration(0); after <= retention; after += retention / 4 {
		w.dump(now.Add(after), sock.PortRange{}, socket)
	}
	if _, ok := dropsOf(w.dump(now.Add(retention), sock.PortRange{}, socket), 53); ok {
		t.Fatal("a connected socket keeps the port watched")
	}
	socket.State, socket.Mem.Drops = sock.StateClose, 6
	if n, _ := dropsOf(w.dump(now.Add(retention+time.Second), sock.PortRange{}, socket), 53); n != 6 {
		t.Errorf("watched again: %d drops, want 6", n)
	}
}

// Elsewhere a port that was asked for is discovered like others.
func TestAskedUDPPortOfTheEphemeralRangeIsFoundElsewhere(t *testing.T) {
	plan, err := watch.NewPlan(watch.Config{
		Ports: []watch.Spec{{PortRange: netlinkdiag.Port(50000), Protocol: sock.UDP}}, Listeners: true, Retention: retention, MaxPorts: 512,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := NewUDPWatcher(plan.Elsewhere(sock.UDP, 7), retention)
	u := w.dump(time.Now(), sock.PortRange{First: 50000, Last: 50009}, udpSocket(50000, 1, 0), udpSocket(50001, 2, 0))
	if len(u.Ports) != 1 || u.Ports[0].Number != 50000 {
		t.Errorf("found %+v, want 50000 only", u.Ports)
	}
}

// A resolver's sockets come and go on ports of all numbers.
func TestUDPSocketThatAppearsLaterIsAServersOnceItIsOldEnough(t *testing.T) {
	plan, err := watch.NewPlan(watch.Config{Listeners: true, Retention: retention, MaxPorts: 512})
	if err != nil {
		t.Fatal(err)
	}
	u := NewUDPWatcher(plan.Own(sock.UDP), retention)
	at := func(after time.Duration, watched ...uint16) string {
		var sockets []netlinkdiag.Socket
		for _, port := range watched {
			sockets = append(sockets, udpSocket(port, uint64(port), 0))
		}
		out := u.dump(time.Unix(1_700_000_000, 0).Add(after), sock.PortRange{First: 40000, Last: 50000}, sockets...)
		return fmt.Sprint(out.Watch.Numbers())
	}
	for _, step := range []struct {
		after   time.Duration
		watched []uint16
		want    string
	}{
		{0, []uint16{5353, 45000}, "[5353]"},
		{time.Second, []uint16{53, 5353, 8125, 9999}, "[53 5353]"},
		{time.Minute, []uint16{53, 5353, 8125, 20000}, "[53 5353]"},
		{time.Second + time.Minute, []uint16{53, 5353, 8125, 9999, 20000}, "[53 5353 8125]"}, // 9999 is another one
		{2 * time.Minute, []uint16{53, 5353, 8125}, "[53 5353 8125]"},
	} {
		if got := at(step.after, step.watched...); got != step.want {
			t.Errorf("after %v: %s, want %s", step.after, got, step.want)
		}
	}
}

func TestUDPSocketWithoutCountersMakesDropsUnknown(t *testing.T) {
	w := newTestUDPWatcher(t, watch.Config{Listeners: true})
	without := udpSocket(53, 2, 0)
	without.HasMem = false
	u := w.dump(time.Now(), sock.PortRange{}, udpSocket(53, 1, 5), without)
	if p := u.Ports[0]; p.IPv4.DropsKnown || !p.IPv6.DropsKnown || p.IPv4.Sockets != 2 {
		t.Errorf("got %+v, want the drops of ipv4 unknown", p)
	}
}
