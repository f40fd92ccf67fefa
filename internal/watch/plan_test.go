package watch

import (
	"testing"
	"time"
)

func newPlan(t *testing.T, cfg Config, ports ...string) *Plan {
	t.Helper()
	return newWatcher(t, cfg, ports...).plan
}

func TestProtocolsAreApart(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Exclude: []Exclusion{{Range{22, 22}, TCP}, {Range{5353, 5353}, UDP}}}, "53/udp:dns", "53:dns over tcp", "123/udp")
	check(t, p.Own(TCP).Update(at(0), []uint16{22, 5353}), 0, "53:dns over tcp", "5353?")
	check(t, p.Own(UDP).Update(at(0), []uint16{22, 5353}), 0, "22?", "53:dns", "123")
}

func TestElsewhereAskedPortsAreDiscoveredUnderTheirName(t *testing.T) {
	p := newPlan(t, Config{Exclude: []Exclusion{{Range: Range{80, 80}}}, Retention: time.Second}, "80:web", "443")
	w := p.Elsewhere(TCP)
	check(t, w.Update(at(0), nil), 0)
	check(t, w.Update(at(1), []uint16{22, 80}), 0, "80:web?")
	check(t, w.Update(at(2), nil), 0)
}

func TestElsewhereListenersAreDiscovered(t *testing.T) {
	w := newPlan(t, Config{Listeners: true, Exclude: []Exclusion{{Range: Range{22, 22}}}}, "80:web").Elsewhere(TCP)
	check(t, w.Update(at(0), []uint16{22, 80, 443}), 0, "80:web?", "443?")
}

func TestBudgetIsShared(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 4}, "80", "53/udp")
	own, other := p.Own(TCP), p.Elsewhere(TCP)
	check(t, own.Update(at(0), []uint16{22}), 0, "22?", "80")
	check(t, other.Update(at(0), []uint16{1, 2, 3}), 2, "1?")
	check(t, p.Own(UDP).Update(at(0), []uint16{1, 2}), 2, "53")
}

func TestBudgetTakesAskedPortsOfTCPFirst(t *testing.T) {
	p := newPlan(t, Config{MaxPorts: 2}, "53/udp", "54/udp", "80")
	check(t, p.Own(TCP).Update(at(0), nil), 0, "80")
	check(t, p.Own(UDP).Update(at(0), nil), 1, "53")
}

func TestClosedWatcherMakesRoom(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 2})
	a, b := p.Elsewhere(TCP), p.Elsewhere(TCP)
	check(t, a.Update(at(0), []uint16{1, 2, 3}), 1, "1?", "2?")
	check(t, b.Update(at(0), []uint16{4}), 1)
	a.Close()
	check(t, b.Update(at(1), []uint16{4, 5}), 0, "4?", "5?")
}
