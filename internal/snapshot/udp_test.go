package snapshot

import (
	"fmt"
	"testing"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

func udpWorkerOf(t *testing.T, cfg ports.Config) *udpWorker {
	t.Helper()
	cfg.Retention, cfg.MaxPorts = retention, 512
	plan, err := ports.NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return newUDPWorker(plan.Own(sock.UDP), retention)
}

func datagrams(port uint16, cookie uint64, drops uint32) datagramSocket {
	return datagramSocket{serves: true, listener: listener{
		key: GroupKey{Port: port, Family: netlinkdiag.FamilyIPv4}, cookie: cookie, drops: drops, hasMem: true,
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
	w := udpWorkerOf(t, ports.Config{Ports: []ports.Spec{{PortRange: one(53), Protocol: sock.UDP}}})
	now := time.Now()
	w.fold(now, []datagramSocket{datagrams(53, 1, 5)}, sock.PortRange{})
	for _, after := range []time.Duration{retention, 3 * retention, 10 * retention} {
		if n, ok := dropsOf(w.fold(now.Add(after), nil, sock.PortRange{}), 53); !ok || n != 5 {
			t.Errorf("%v without a socket: %d drops, there %v, want 5", after, n, ok)
		}
	}
	if n, _ := dropsOf(w.fold(now.Add(11*retention), []datagramSocket{datagrams(53, 2, 3)}, sock.PortRange{}), 53); n != 8 {
		t.Errorf("with the next socket: %d drops, want 8", n)
	}
}

func TestUDPPortThatIsWatchedAgainCountsDropsOnce(t *testing.T) {
	w := udpWorkerOf(t, ports.Config{Listeners: true})
	now := time.Now()
	socket := datagrams(53, 1, 5)
	w.fold(now, []datagramSocket{socket}, sock.PortRange{})
	socket.serves = false // it connected
	for after := time.Duration(0); after <= retention; after += retention / 4 {
		w.fold(now.Add(after), []datagramSocket{socket}, sock.PortRange{})
	}
	if _, ok := dropsOf(w.fold(now.Add(retention), []datagramSocket{socket}, sock.PortRange{}), 53); ok {
		t.Fatal("a connected socket keeps the port watched")
	}
	socket.serves, socket.drops = true, 6
	if n, _ := dropsOf(w.fold(now.Add(retention+time.Second), []datagramSocket{socket}, sock.PortRange{}), 53); n != 6 {
		t.Errorf("watched again: %d drops, want 6", n)
	}
}

// Elsewhere a port that was asked for is discovered like others.
func TestAskedUDPPortOfTheEphemeralRangeIsFoundElsewhere(t *testing.T) {
	plan, err := ports.NewPlan(ports.Config{
		Ports: []ports.Spec{{PortRange: one(50000), Protocol: sock.UDP}}, Listeners: true, Retention: retention, MaxPorts: 512,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := newUDPWorker(plan.Elsewhere(sock.UDP), retention)
	u := w.fold(time.Now(), []datagramSocket{datagrams(50000, 1, 0), datagrams(50001, 2, 0)}, sock.PortRange{First: 50000, Last: 50009})
	if len(u.Ports) != 1 || u.Ports[0].Number != 50000 {
		t.Errorf("found %+v, want 50000 only", u.Ports)
	}
}

// A resolver's sockets come and go on ports of all numbers.
func TestUDPSocketThatAppearsLaterIsAServersOnceItIsOldEnough(t *testing.T) {
	plan, err := ports.NewPlan(discovering())
	if err != nil {
		t.Fatal(err)
	}
	u := newUDPWorker(plan.Own(sock.UDP), retention)
	at := func(after time.Duration, watched ...uint16) string {
		var sockets []datagramSocket
		for _, port := range watched {
			sockets = append(sockets, datagramSocket{serves: true, listener: listener{key: GroupKey{Port: port, Family: netlinkdiag.FamilyIPv4}, cookie: uint64(port)}})
		}
		out := u.fold(time.Unix(1_700_000_000, 0).Add(after), sockets, sock.PortRange{First: 40000, Last: 50000})
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
		{time.Second + grownUp, []uint16{53, 5353, 8125, 9999, 20000}, "[53 5353 8125]"}, // 9999 is another one
		{2 * time.Minute, []uint16{53, 5353, 8125}, "[53 5353 8125]"},
	} {
		if got := at(step.after, step.watched...); got != step.want {
			t.Errorf("after %v: %s, want %s", step.after, got, step.want)
		}
	}
}

func TestUDPSocketWithoutCountersMakesDropsUnknown(t *testing.T) {
	w := udpWorkerOf(t, ports.Config{Listeners: true})
	without := datagrams(53, 2, 0)
	without.hasMem = false
	u := w.fold(time.Now(), []datagramSocket{datagrams(53, 1, 5), without}, sock.PortRange{})
	if p := u.Ports[0]; p.IPv4.DropsKnown || !p.IPv6.DropsKnown || p.IPv4.Sockets != 2 {
		t.Errorf("got %+v, want the drops of ipv4 unknown", p)
	}
}
