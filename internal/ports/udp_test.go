package ports

import (
	"fmt"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

func newTestUDPWatcher(t *testing.T, cfg Config) *UDPWatcher {
	t.Helper()
	cfg.Retention, cfg.MaxPorts = retention, 512
	plan, err := NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return NewUDPWatcher(plan.Own(sock.UDP), retention)
}

func udpSocket(port uint16, cookie uint64, drops uint32) UDPSocket {
	return UDPSocket{Listener: Listener{
		GroupKey: GroupKey{Port: port, Family: netlinkdiag.FamilyIPv4}, Cookie: cookie, Drops: drops, DropsKnown: true,
	}}
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
	w := newTestUDPWatcher(t, Config{Ports: []Spec{{PortRange: netlinkdiag.Port(53), Protocol: sock.UDP}}})
	now := time.Now()
	w.Update(now, []UDPSocket{udpSocket(53, 1, 5)}, sock.PortRange{})
	for _, after := range []time.Duration{retention, 3 * retention, 10 * retention} {
		if n, ok := dropsOf(w.Update(now.Add(after), nil, sock.PortRange{}), 53); !ok || n != 5 {
			t.Errorf("%v without a socket: %d drops, there %v, want 5", after, n, ok)
		}
	}
	if n, _ := dropsOf(w.Update(now.Add(11*retention), []UDPSocket{udpSocket(53, 2, 3)}, sock.PortRange{}), 53); n != 8 {
		t.Errorf("with the next socket: %d drops, want 8", n)
	}
}

func TestUDPPortThatIsWatchedAgainCountsDropsOnce(t *testing.T) {
	w := newTestUDPWatcher(t, Config{Listeners: true})
	now := time.Now()
	socket := udpSocket(53, 1, 5)
	w.Update(now, []UDPSocket{socket}, sock.PortRange{})
	socket.Connected = true // it connected
	for after := time.Duration(0); after <= retention; after += retention / 4 {
		w.Update(now.Add(after), []UDPSocket{socket}, sock.PortRange{})
	}
	if _, ok := dropsOf(w.Update(now.Add(retention), []UDPSocket{socket}, sock.PortRange{}), 53); ok {
		t.Fatal("a connected socket keeps the port watched")
	}
	socket.Connected, socket.Drops = false, 6
	if n, _ := dropsOf(w.Update(now.Add(retention+time.Second), []UDPSocket{socket}, sock.PortRange{}), 53); n != 6 {
		t.Errorf("watched again: %d drops, want 6", n)
	}
}

// Elsewhere a port that was asked for is discovered like others.
func TestAskedUDPPortOfTheEphemeralRangeIsFoundElsewhere(t *testing.T) {
	plan, err := NewPlan(Config{
		Ports: []Spec{{PortRange: netlinkdiag.Port(50000), Protocol: sock.UDP}}, Listeners: true, Retention: retention, MaxPorts: 512,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := NewUDPWatcher(plan.Elsewhere(sock.UDP), retention)
	u := w.Update(time.Now(), []UDPSocket{udpSocket(50000, 1, 0), udpSocket(50001, 2, 0)}, sock.PortRange{First: 50000, Last: 50009})
	if len(u.Ports) != 1 || u.Ports[0].Number != 50000 {
		t.Errorf("found %+v, want 50000 only", u.Ports)
	}
}

// A resolver's sockets come and go on ports of all numbers.
func TestUDPSocketThatAppearsLaterIsAServersOnceItIsOldEnough(t *testing.T) {
	plan, err := NewPlan(Config{Listeners: true, Retention: retention, MaxPorts: 512})
	if err != nil {
		t.Fatal(err)
	}
	u := NewUDPWatcher(plan.Own(sock.UDP), retention)
	at := func(after time.Duration, watched ...uint16) string {
		var sockets []UDPSocket
		for _, port := range watched {
			sockets = append(sockets, UDPSocket{Listener: Listener{GroupKey: GroupKey{Port: port, Family: netlinkdiag.FamilyIPv4}, Cookie: uint64(port)}})
		}
		out := u.Update(time.Unix(1_700_000_000, 0).Add(after), sockets, sock.PortRange{First: 40000, Last: 50000})
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
		{time.Second + serverAge, []uint16{53, 5353, 8125, 9999, 20000}, "[53 5353 8125]"}, // 9999 is another one
		{2 * time.Minute, []uint16{53, 5353, 8125}, "[53 5353 8125]"},
	} {
		if got := at(step.after, step.watched...); got != step.want {
			t.Errorf("after %v: %s, want %s", step.after, got, step.want)
		}
	}
}

func TestUDPSocketWithoutCountersMakesDropsUnknown(t *testing.T) {
	w := newTestUDPWatcher(t, Config{Listeners: true})
	without := udpSocket(53, 2, 0)
	without.DropsKnown = false
	u := w.Update(time.Now(), []UDPSocket{udpSocket(53, 1, 5), without}, sock.PortRange{})
	if p := u.Ports[0]; p.IPv4.DropsKnown || !p.IPv6.DropsKnown || p.IPv4.Sockets != 2 {
		t.Errorf("got %+v, want the drops of ipv4 unknown", p)
	}
}
