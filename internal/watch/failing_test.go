package watch

import (
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
)

func TestFailedBindIsWatchedWhileItFailsAndForTheRetention(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Retention: 10 * time.Minute})
	w := p.Own(sock.TCP)
	w.Update(at(0), nil)
	for s := 0; s < 3600; s += 3 {
		p.BindFailed(at(s), 0, sock.TCP, 8080, 1000)
		if set := w.Update(at(s), nil); !slices.Equal(set.Ports, []Port{{Number: 8080, Source: SourceFailure}}) {
			t.Fatalf("after %d s %+v is watched", s, set.Ports)
		}
	}
	if set := w.Update(at(3597+599), nil); len(set.Ports) != 1 {
		t.Error("the port is not watched for the retention")
	}
	if set := w.Update(at(3597+600), nil); len(set.Ports) != 0 {
		t.Errorf("after the retention %+v is watched", set.Ports)
	}
}

func TestFailureIsTheLeastOfTheReasonsToWatch(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Retention: time.Minute}, "443:web")
	w := p.Own(sock.TCP)
	for _, port := range []uint16{80, 443} {
		p.BindFailed(at(0), 0, sock.TCP, port, 0)
	}
	check(t, w.Update(at(0), servers(80)), 0, "80?", "443:web")
	p.BindFailed(at(59), 0, sock.TCP, 80, 0)
	if set := w.Update(at(100), nil); set.Ports[0] != (Port{Number: 80, Source: SourceFailure}) {
		t.Errorf("without a listener %+v, want source failure", set.Ports[0])
	}
}

func TestFailedBindsAreApartByNamespaceAndProtocol(t *testing.T) {
	p := newPlan(t, Config{Listeners: true}, "99:asked")
	p.BindFailed(at(0), 0, sock.UDP, 53, 0)
	p.BindFailed(at(0), 7, sock.TCP, 99, 0)
	p.BindFailed(at(0), 7, sock.TCP, 0, 0) // the kernel chooses
	for _, tt := range []struct {
		w    *Watcher
		want []Port
	}{
		{p.Own(sock.TCP), []Port{{99, "asked", SourceFlag}}},
		{p.Own(sock.UDP), []Port{{53, "", SourceFailure}}},
		{p.Elsewhere(sock.TCP, 7), []Port{{99, "asked", SourceFailure}}},
		{p.Elsewhere(sock.UDP, 7), nil},
		{p.Elsewhere(sock.TCP, 8), nil},
	} {
		if set := tt.w.Update(at(1), nil); !slices.Equal(set.Ports, tt.want) {
			t.Errorf("%+v, want %+v", set.Ports, tt.want)
		}
	}
}

func TestFailedBindsRespectWhatIsNotDiscovered(t *testing.T) {
	excluded := newPlan(t, Config{Listeners: true, Exclude: []Exclusion{{PortRange: sock.PortRange{First: 80, Last: 80}}}})
	off := newPlan(t, Config{}, "443")
	for _, p := range []*Plan{excluded, off} {
		p.BindFailed(at(0), 0, sock.TCP, 80, 0)
	}
	check(t, excluded.Own(sock.TCP).Update(at(0), nil), 0)
	check(t, off.Own(sock.TCP).Update(at(0), nil), 0, "443")
}

func TestUserWhoFailsOnManyPortsDoesNotHideAFailingServer(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Retention: 10 * time.Minute, MaxPorts: 1})
	w := p.Own(sock.TCP)
	check(t, w.Update(at(0), servers(22)), 0, "22?") // the budget of listeners is another one
	flood := func(s int) {
		for port := 1024; port < 1024+16*maxFailing; port++ {
			p.BindFailed(at(s), 0, sock.TCP, uint16(port), hostile)
		}
	}
	flood(1)
	p.BindFailed(at(2), 0, sock.TCP, 8080, 1000)
	for s := 3; s < 30; s += 3 {
		flood(s)
		set := w.Update(at(s), servers(22))
		checkHas(t, set, 8080)
		if len(set.Ports) != 1+maxFailing {
			t.Fatalf("%d ports are watched, want %d", len(set.Ports), 1+maxFailing)
		}
	}
	if n := len(p.failing.ports); n != maxFailing {
		t.Errorf("%d failing ports are kept, want %d", n, maxFailing)
	}
}

func TestPortThatFailedOnceGivesWayToTheNextOfTheSameUser(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Retention: 10 * time.Minute})
	w := p.Own(sock.TCP)
	for i := range maxFailing {
		p.BindFailed(at(i), 0, sock.TCP, uint16(1000+i), 0)
	}
	p.BindFailed(at(50), 0, sock.TCP, 1000, 0)
	p.BindFailed(at(60), 0, sock.TCP, 8080, 0) // each failed less than a minute ago
	if _, ok := w.Update(at(60), nil).Find(8080); ok {
		t.Error("takes the place of a port that still fails")
	}
	p.BindFailed(at(62), 0, sock.TCP, 8080, 0)
	set := w.Update(at(62), nil)
	checkHas(t, set, 8080, 1000)
	if _, ok := set.Find(1001); ok {
		t.Error("1001, which has not failed for longest, is still watched")
	}
}

func TestNamespaceThatIsGoneGivesItsFailuresBack(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Retention: time.Hour})
	w := p.Elsewhere(sock.TCP, 7)
	p.BindFailed(at(0), 7, sock.TCP, 80, 0)
	w.Close()
	if set := p.Elsewhere(sock.TCP, 7).Update(at(1), nil); len(set.Ports) != 0 || len(p.failing.users) != 0 {
		t.Errorf("the next namespace with the number has %+v, want nothing", set.Ports)
	}
}

func TestAPodWithManyUsersCannotTakeTheFailingPortsOfOthers(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, Retention: time.Minute})
	for uid := range uint32(2 * maxFailing) {
		p.BindFailed(at(0), 7, sock.TCP, uint16(1000+uid), uid)
	}
	p.BindFailed(at(1), 8, sock.TCP, 80, 0)
	if set := p.Elsewhere(sock.TCP, 8).Update(at(1), nil); !slices.Equal(set.Ports, []Port{{Number: 80, Source: SourceFailure}}) {
		t.Errorf("another pod has %+v, want port 80", set.Ports)
	}
	if set := p.Elsewhere(sock.TCP, 7).Update(at(1), nil); len(set.Ports) != maxFailing-1 {
		t.Errorf("the pod has %d ports, want %d", len(set.Ports), maxFailing-1)
	}
}
