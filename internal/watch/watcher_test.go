package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

const retention = 10 * time.Minute

// at is a moment s seconds into a test.
func at(s int) time.Time { return time.Unix(1_000_000+int64(s), 0) }

// servers are listeners of root.
func servers(ports ...uint16) []Server { return serversOf(0, ports...) }

func serversOf(uid uint32, ports ...uint16) []Server {
	var out []Server
	for _, p := range ports {
		out = append(out, Server{Port: p, UID: uid, Cookie: uint64(p)})
	}
	return out
}

func newWatcher(t testing.TB, cfg Config, ports ...string) *Watcher {
	t.Helper()
	for _, p := range ports {
		s, err := ParseSpec(p)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Ports = append(cfg.Ports, s)
	}
	if cfg.MaxPorts == 0 {
		cfg.MaxPorts = 512
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// check compares a set with its ports written as "80", "80:web" for explicit
// and "80?" for discovered ones.
func check(t *testing.T, s Set, dropped int, want ...string) {
	t.Helper()
	var got []string
	for _, p := range s.Ports {
		text := Spec{PortRange: netlinkdiag.Port(p.Number), Name: p.Name}.String()
		if p.Source == SourceListener {
			text += "?"
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got ports %q, want %q", got, want)
	}
	if s.Dropped != dropped {
		t.Errorf("got %d dropped, want %d", s.Dropped, dropped)
	}
}

func TestExplicitPortsNeedNoListener(t *testing.T) {
	w := newWatcher(t, Config{}, "8002:web", "80", "8000-8001")
	check(t, w.Update(at(0), nil), 0, "80", "8000", "8001", "8002:web")
}

func TestNoDiscoveryUnlessAsked(t *testing.T) {
	w := newWatcher(t, Config{Listeners: false}, "80")
	check(t, w.Update(at(0), servers(22, 80)), 0, "80")
}

func TestListenersAreDiscoveredOnceAndSorted(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true})
	check(t, w.Update(at(0), servers(443, 65535, 22, 443, 1, 22, 0)), 0, "1?", "22?", "443?", "65535?")
}

func TestExplicitWinsOverDiscovered(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true}, "443:web")
	check(t, w.Update(at(0), servers(22, 443)), 0, "22?", "443:web")
	check(t, w.Update(at(0), nil), 0, "22?", "443:web")
}

func TestExcludeAffectsDiscoveryOnly(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Exclude: []Exclusion{{PortRange: sock.PortRange{First: 22, Last: 22}}, {PortRange: sock.PortRange{First: 65000, Last: 65535}}}}, "65100")
	check(t, w.Update(at(0), servers(21, 22, 23, 64999, 65000, 65100, 65535)), 0, "21?", "23?", "64999?", "65100")
}

func TestDiscoveredPortStaysForRetentionAfterLastSeen(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 60 * time.Second})
	check(t, w.Update(at(0), servers(80)), 0, "80?")
	check(t, w.Update(at(30), servers(80)), 0, "80?")
	check(t, w.Update(at(89), nil), 0, "80?")
	check(t, w.Update(at(90), nil), 0)
}

func TestDiscoveredPortStaysWhileItListens(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: time.Second})
	for s := range 3 {
		check(t, w.Update(at(3600*s), servers(80)), 0, "80?")
	}
}

func TestZeroRetentionForgetsAtNextUpdate(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true})
	check(t, w.Update(at(0), servers(80, 81)), 0, "80?", "81?")
	check(t, w.Update(at(1), servers(81)), 0, "81?")
}

func TestListenerThatComesBackIsKeptAgain(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 10 * time.Second})
	w.Update(at(0), servers(80))
	check(t, w.Update(at(10), nil), 0)
	check(t, w.Update(at(20), servers(80)), 0, "80?")
	check(t, w.Update(at(29), nil), 0, "80?")
	check(t, w.Update(at(30), nil), 0)
}

func TestLingeringSocketsKeepThePort(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 10 * time.Second})
	w.Update(at(0), servers(80, 81))
	w.Lingering([]uint16{80})
	check(t, w.Update(at(3600), nil), 0, "80?")
	w.Lingering(nil)
	check(t, w.Update(at(3601), nil), 0)
}

func TestLingeringHoldsUntilTheNextCompleteDump(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 10 * time.Second})
	w.Update(at(0), servers(80))
	w.Lingering([]uint16{80})
	for s := 3600; s < 3603; s++ {
		check(t, w.Update(at(s), nil), 0, "80?")
	}
}

func TestLingeringDoesNotShortenRetention(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 10 * time.Second})
	w.Update(at(0), servers(80))
	w.Lingering(nil)
	check(t, w.Update(at(9), nil), 0, "80?")
}

func TestLingeringAddsNoPort(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 10 * time.Second})
	w.Update(at(0), servers(80))
	check(t, w.Update(at(10), nil), 0)
	w.Lingering([]uint16{80, 443})
	check(t, w.Update(at(11), nil), 0)
}

func TestBudgetTakesExplicitThenDiscoveredByNumber(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 4}, "9000", "8000")
	s := w.Update(at(0), servers(443, 80, 22, 9000))
	check(t, s, 1, "22?", "80?", "8000", "9000")
	if s.Limit != 4 {
		t.Errorf("got limit %d, want 4", s.Limit)
	}
}

func TestBudgetDropsExplicitPortsByNumber(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 2}, "9000", "8000-8002")
	check(t, w.Update(at(0), servers(22, 9000)), 3, "8000", "8001")
}

func TestEveryPortAtOnce(t *testing.T) {
	w := newWatcher(t, Config{MaxPorts: 1 << 20}, "1-65535")
	s := w.Update(at(0), nil)
	if len(s.Ports) != 65535 || s.Dropped != 0 {
		t.Fatalf("got %d ports, %d dropped, want 65535 and 0", len(s.Ports), s.Dropped)
	}
	if i, ok := s.Find(65535); i != 65534 || !ok {
		t.Errorf("Find(65535) is %d, %v, want 65534, true", i, ok)
	}
}

func TestDroppedPortsComeInWhenThereIsRoom(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 2, Retention: 10 * time.Second})
	check(t, w.Update(at(0), servers(22, 80)), 0, "22?", "80?")
	check(t, w.Update(at(5), servers(443)), 1, "22?", "80?")
	check(t, w.Update(at(10), nil), 0, "443?")
}

func TestClockGoingBackKeepsPorts(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: 10 * time.Second})
	w.Update(at(100), servers(80))
	check(t, w.Update(at(50), servers(81)), 0, "80?", "81?")
	check(t, w.Update(at(100), nil), 0, "80?", "81?")
	check(t, w.Update(at(109), nil), 0, "80?", "81?")
	check(t, w.Update(at(110), nil), 0)
}

func TestSetDoesNotChangeAfterReturn(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true}, "8000")
	first := w.Update(at(0), servers(22, 80))
	w.Update(at(1), servers(443, 23))
	w.Lingering([]uint16{23})
	w.Update(at(2), servers(1))
	check(t, first, 0, "22?", "80?", "8000")
	if _, ok := first.Find(443); ok {
		t.Error("Find sees a port of a later set")
	}
}

func TestFindAgreesWithPorts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var listening []uint16
	for range 3000 {
		listening = append(listening, uint16(r.Uint32()))
	}
	listening = append(listening, 1, 63, 64, 65, 127, 128, 65535)
	s := newWatcher(t, Config{Listeners: true, MaxPorts: 2000}, "5000-5200").Update(at(0), servers(listening...))

	places := make(map[uint16]int)
	for i, p := range s.Ports {
		places[p.Number] = i
	}
	for p := range 1 << 16 {
		want, wantOK := places[uint16(p)]
		if got, ok := s.Find(uint16(p)); got != want || ok != wantOK {
			t.Fatalf("Find(%d) is %d, %v, want %d, %v", p, got, ok, want, wantOK)
		}
	}
}

func TestFindInZeroSet(t *testing.T) {
	if i, ok := (Set{}).Find(80); i != 0 || ok {
		t.Errorf("got %d, %v, want 0, false", i, ok)
	}
}

func TestSamePortTwiceIsOnePort(t *testing.T) {
	w := newWatcher(t, Config{}, "80", "80", "443:web", "443:web")
	check(t, w.Update(at(0), nil), 0, "80", "443:web")
}

func TestNameWinsOverNoName(t *testing.T) {
	w := newWatcher(t, Config{}, "80:web", "79-81", "8080", "8080:alt")
	check(t, w.Update(at(0), nil), 0, "79", "80:web", "81", "8080:alt")
}

func TestNewErrors(t *testing.T) {
	ports := func(first, last uint16, name string) Spec {
		return Spec{PortRange: sock.PortRange{First: first, Last: last}, Name: name}
	}
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{MaxPorts: 0}, `limit of 0 watched ports is too low, want 1 or more`},
		{Config{MaxPorts: -5}, `limit of -5 watched ports is too low, want 1 or more`},
		{Config{MaxPorts: 1, Retention: -time.Second}, `retention -1s is negative, want 0s or more`},
		{Config{MaxPorts: 1, Ports: []Spec{ports(80, 80, "web"), ports(80, 80, "proxy")}},
			`port 80 has two names, "web" (from "80:web") and "proxy" (from "80:proxy"), want one`},
		{Config{MaxPorts: 1, Ports: []Spec{ports(80, 80, "web"), ports(70, 65535, "all")}},
			`port 80 has two names, "web" (from "80:web") and "all" (from "70-65535:all"), want one`},
		{Config{MaxPorts: 1, Ports: []Spec{{}}}, `range "0" holds port 0, want 1 to 65535`},
		{Config{MaxPorts: 1, Ports: []Spec{ports(9, 8, "")}}, `range "9-8" is reversed, want "8-9"`},
		{Config{MaxPorts: 1, Ports: []Spec{ports(9, 9, "a\n")}}, `name "a\n" begins or ends with a space, want "a"`},
		{Config{MaxPorts: 1, Exclude: []Exclusion{{PortRange: sock.PortRange{First: 0, Last: 80}}}}, `range "0-80" holds port 0, want 1 to 65535`},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			_, err := New(tt.cfg)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
		})
	}
}

func manyListeners(n int) []uint16 {
	var ports []uint16
	for i := range n {
		ports = append(ports, uint16(1024+i*97))
	}
	return ports
}

func TestUpdateOfAnUnchangedSetAllocatesNothing(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true}, "80")
	listening := manyListeners(512)
	there := servers(listening...)
	s := 0
	allocs := testing.AllocsPerRun(100, func() {
		w.Update(at(s), there)
		w.Lingering(listening)
		s++
	})
	if allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1, 512} {
		listening := servers(manyListeners(n)...)
		b.Run(fmt.Sprintf("unchanged/%d", n), func(b *testing.B) {
			w := newWatcher(b, Config{Listeners: true})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.Update(at(i), listening)
			}
		})
		b.Run(fmt.Sprintf("changed/%d", n), func(b *testing.B) {
			w := newWatcher(b, Config{Listeners: true})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.Update(at(i), listening[i%2:])
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	s := newWatcher(b, Config{Listeners: true}).Update(at(0), servers(manyListeners(512)...))
	port := uint16(0)
	for b.Loop() {
		s.Find(port)
		port += 97
	}
}
