package watch

import (
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
)

func newPlan(t *testing.T, cfg Config, ports ...string) *Plan {
	t.Helper()
	return newWatcher(t, cfg, ports...).plan
}

func TestProtocolsAreApart(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Exclude: []Exclusion{{sock.PortRange{First: 22, Last: 22}, sock.TCP}, {sock.PortRange{First: 5353, Last: 5353}, sock.UDP}}}, "53/udp:dns", "53:dns over tcp", "123/udp")
	check(t, p.Own(sock.TCP).Update(at(0), servers(22, 5353)), 0, "53:dns over tcp", "5353?")
	check(t, p.Own(sock.UDP).Update(at(0), servers(22, 5353)), 0, "22?", "53:dns", "123")
}

func TestElsewhereAskedPortsAreDiscoveredUnderTheirName(t *testing.T) {
	p := newPlan(t, Config{Exclude: []Exclusion{{PortRange: sock.PortRange{First: 80, Last: 80}}}, Retention: time.Second}, "80:web", "443")
	w := p.Elsewhere(sock.TCP, 7)
	check(t, w.Update(at(0), nil), 0)
	check(t, w.Update(at(1), servers(22, 80)), 0, "80:web?")
	check(t, w.Update(at(2), nil), 0)
}

func TestElsewhereListenersAreDiscovered(t *testing.T) {
	w := newPlan(t, Config{Listeners: true, Exclude: []Exclusion{{PortRange: sock.PortRange{First: 22, Last: 22}}}}, "80:web").Elsewhere(sock.TCP, 7)
	check(t, w.Update(at(0), servers(22, 80, 443)), 0, "80:web?", "443?")
}

func TestBudgetIsShared(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 4}, "80", "53/udp")
	own, other := p.Own(sock.TCP), p.Elsewhere(sock.TCP, 7)
	check(t, own.Update(at(0), servers(22)), 0, "22?", "80")
	check(t, other.Update(at(0), servers(1, 2, 3)), 2, "1?")
	check(t, p.Own(sock.UDP).Update(at(0), servers(1, 2)), 2, "53")
}

func TestBudgetTakesAskedPortsOfTCPFirst(t *testing.T) {
	p := newPlan(t, Config{MaxPorts: 2}, "53/udp", "54/udp", "80")
	check(t, p.Own(sock.TCP).Update(at(0), nil), 0, "80")
	check(t, p.Own(sock.UDP).Update(at(0), nil), 1, "53")
}

// Each is told its own share; together they never have more than there is.
func TestBudgetIsSharedAtTheSameTime(t *testing.T) {
	const limit, watchers, wanted = 100, 16, 20
	p := newPlan(t, Config{Listeners: true, MaxPorts: limit})
	var all [watchers]*Watcher
	for i := range all {
		all[i] = p.Elsewhere(sock.TCP, 7)
	}
	for round := range 50 {
		var sets [watchers]Set
		var running sync.WaitGroup
		for i, w := range all {
			running.Go(func() {
				var ports []uint16
				for n := range wanted * (1 + (i+round)%2) / 2 {
					ports = append(ports, uint16(1+n))
				}
				sets[i] = w.Update(at(3600*round), servers(ports...))
			})
		}
		running.Wait()
		total := 0
		for i, set := range sets {
			total += len(set.Ports)
			if got, want := len(set.Ports)+set.Dropped, wanted*(1+(i+round)%2)/2; got != want {
				t.Fatalf("round %d, watcher %d: %d ports and %d dropped, want %d together", round, i, len(set.Ports), set.Dropped, want)
			}
		}
		if total > limit || round == 0 && total != limit {
			t.Fatalf("round %d: %d ports are watched, limit %d", round, total, limit)
		}
	}
	for _, w := range all {
		w.Close()
	}
	w := p.Elsewhere(sock.TCP, 7)
	ports := make([]uint16, limit)
	for n := range ports {
		ports[n] = uint16(1 + n)
	}
	if set := w.Update(at(0), servers(ports...)); len(set.Ports) != limit {
		t.Errorf("once all are closed %d ports are watched, want %d", len(set.Ports), limit)
	}
}

func TestClosedWatcherMakesRoom(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 2})
	a, b := p.Elsewhere(sock.TCP, 7), p.Elsewhere(sock.TCP, 7)
	check(t, a.Update(at(0), servers(1, 2, 3)), 1, "1?", "2?")
	check(t, b.Update(at(0), servers(4)), 1)
	a.Close()
	check(t, b.Update(at(1), servers(4, 5)), 0, "4?", "5?")
}
