package watch

import (
	"math/rand/v2"
	"slices"
	"testing"

	"sockstate_exporter/internal/sock"
)

const hostile = 65534

// portsFrom are n ports from the first on.
func portsFrom(first uint16, n int) []uint16 {
	var out []uint16
	for i := range n {
		out = append(out, first+uint16(i))
	}
	return out
}

func checkHas(t *testing.T, s Set, ports ...uint16) {
	t.Helper()
	for _, p := range ports {
		if _, ok := s.Find(p); !ok {
			t.Errorf("port %d is not watched", p)
		}
	}
}

func checkCounts(t *testing.T, s Set, watched, dropped int) {
	t.Helper()
	if len(s.Ports) != watched || s.Dropped != dropped {
		t.Errorf("%d ports are watched, %d dropped; want %d and %d", len(s.Ports), s.Dropped, watched, dropped)
	}
}

func TestWatchedPortsKeepTheirPlaceAgainstNewcomers(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true})
	own := servers(8080, 5432)
	w.Update(at(0), own)
	for s := 1; s < 4; s++ {
		set := w.Update(at(s), append(serversOf(hostile, portsFrom(1024, 600)...), own...))
		checkCounts(t, set, 512, 90)
		checkHas(t, set, 8080, 5432)
	}
}

func TestOneUserCannotPushOutTheirOwnPortsByLowerOnes(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 2})
	check(t, w.Update(at(0), servers(90, 91)), 0, "90?", "91?")
	check(t, w.Update(at(1), servers(80, 90, 91)), 1, "90?", "91?")
}

func TestUserWithFewPortsTakesTheNewestOfTheUserWithMost(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 4})
	crowd := serversOf(hostile, 1024, 1025, 1026, 1027)
	w.Update(at(0), crowd)
	check(t, w.Update(at(1), append(servers(8080), crowd...)), 1, "1024?", "1025?", "1026?", "8080?")
	// Each has a half then.
	check(t, w.Update(at(2), append(servers(8080, 8081, 8082), crowd...)), 3, "1024?", "1025?", "8080?", "8081?")
	check(t, w.Update(at(3), append(servers(80, 8080, 8081), crowd...)), 3, "1024?", "1025?", "8080?", "8081?")
}

func TestServerOfAFullHostHasItsPlaceFromTheFirstLook(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true})
	checkHas(t, w.Update(at(0), append(serversOf(hostile, portsFrom(1024, 6000)...), servers(8080)...)), 8080)
}

func TestUserIsAlsoTheNamespace(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 4})
	noisy, quiet := p.Elsewhere(sock.TCP, 1), p.Elsewhere(sock.TCP, 2)
	crowd := servers(portsFrom(1024, 100)...)
	checkCounts(t, noisy.Update(at(0), crowd), 4, 96)
	// The place is given up first: there are never more than the limit.
	check(t, quiet.Update(at(0), servers(80)), 1)
	check(t, noisy.Update(at(1), crowd), 97, "1024?", "1025?", "1026?")
	check(t, quiet.Update(at(1), servers(80)), 0, "80?")
	check(t, noisy.Update(at(2), crowd), 97, "1024?", "1025?", "1026?")
}

// A pod has as many users as it likes.
func TestAPodWithManyUsersCannotTakeTheBudgetOfTheNode(t *testing.T) {
	const pods, ofPod = 110, 5
	p := newPlan(t, Config{Listeners: true, MaxPorts: 1024})
	var quiet []*Watcher
	for i := range pods {
		w := p.Elsewhere(sock.TCP, uint32(i+1))
		checkCounts(t, w.Update(at(0), servers(portsFrom(8000, ofPod)...)), ofPod, 0)
		quiet = append(quiet, w)
	}
	noisy, late := p.Elsewhere(sock.TCP, 1000), p.Elsewhere(sock.TCP, 1001)
	var crowd []Server
	for i := range 2000 {
		crowd = append(crowd, serversOf(uint32(i), uint16(10_000+i))...)
	}
	checkCounts(t, noisy.Update(at(1), crowd), 1024-pods*ofPod, 2000-1024+pods*ofPod)
	late.Update(at(1), servers(portsFrom(8000, ofPod)...))
	for s := range 3 {
		noisy.Update(at(2+s), crowd)
		for _, w := range quiet {
			checkCounts(t, w.Update(at(2+s), servers(portsFrom(8000, ofPod)...)), ofPod, 0)
		}
	}
	checkCounts(t, late.Update(at(5), servers(portsFrom(8000, ofPod)...)), ofPod, 0)
}

func TestPlaceThatNobodyWantsAnyMoreStaysWhereItWas(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 3})
	noisy, quiet := p.Elsewhere(sock.TCP, 1), p.Elsewhere(sock.TCP, 2)
	noisy.Update(at(0), servers(1, 2, 3))
	quiet.Update(at(0), servers(80))
	quiet.Update(at(1), nil)
	check(t, noisy.Update(at(1), servers(1, 2, 3)), 0, "1?", "2?", "3?")
	quiet.Update(at(2), servers(80))
	quiet.Close()
	check(t, noisy.Update(at(2), servers(1, 2, 3)), 0, "1?", "2?", "3?")
}

func TestNamespaceThatIsGoneLeavesItsPlaceToWhoWaits(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 3})
	noisy, quiet := p.Elsewhere(sock.TCP, 1), p.Elsewhere(sock.TCP, 2)
	noisy.Update(at(0), servers(1, 2, 3))
	check(t, quiet.Update(at(0), servers(80)), 1)
	noisy.Close()
	check(t, quiet.Update(at(1), servers(80)), 0, "80?")
}

func TestPortWithAFlagTakesThePlaceOfADiscoveredOne(t *testing.T) {
	p := newPlan(t, Config{Listeners: true, MaxPorts: 3}, "80:web")
	own, pod := p.Own(sock.TCP), p.Elsewhere(sock.TCP, 1)
	check(t, own.Update(at(0), servers(22)), 0, "22?", "80:web")
	check(t, pod.Update(at(0), servers(7000)), 0, "7000?")
	// The same user may have no more, and asked for it all the same.
	check(t, pod.Update(at(1), servers(80, 7000)), 1, "80:web?")
	// What is not asked for takes the place of no port that is.
	check(t, pod.Update(at(2), append(servers(80), serversOf(hostile, 7001, 7002)...)), 2, "80:web?")
	check(t, own.Update(at(3), servers(22)), 0, "22?", "80:web")
}

func TestPortBelongsToWhoListensThere(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 3})
	w.Update(at(0), append(serversOf(7, 1000), servers(1001, 1002)...))
	// 1001 and 1002 are of uid 7 now, who has most.
	check(t, w.Update(at(1), append(serversOf(7, 1000, 1001, 1002), servers(80)...)), 1, "80?", "1000?", "1001?")
}

func TestSubordinateUsersAreOne(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, MaxPorts: 8})
	mine := servers(80, 81, 82, 83)
	w.Update(at(0), mine)
	crowd := mine
	for i := range 1000 {
		crowd = append(crowd, serversOf(uint32(100_000+i), uint16(1024+i))...)
	}
	set := w.Update(at(1), crowd)
	checkCounts(t, set, 8, 996)
	checkHas(t, set, 80, 81, 82, 83)
}

// Whatever comes and goes, the places add up, and in the end everybody has a fair share.
func TestPlacesAddUp(t *testing.T) {
	const limit, watchers = 40, 6
	r := rand.New(rand.NewPCG(1, 2))
	p := newPlan(t, Config{Listeners: true, MaxPorts: limit}, "1000-1003")
	all := make([]*Watcher, watchers)
	sets := make([]Set, watchers)
	for i := range all {
		all[i] = p.Elsewhere(sock.TCP, uint32(i+1))
	}
	for round := range 3000 {
		i := r.IntN(watchers)
		if r.IntN(50) == 0 {
			all[i].Close()
			all[i], sets[i] = p.Elsewhere(sock.TCP, uint32(i+1)), Set{}
			continue
		}
		var there []Server
		for range r.IntN(20) {
			there = append(there, serversOf(uint32(r.IntN(3)), uint16(1000+r.IntN(30)))...)
		}
		sets[i] = all[i].Update(at(round), there)
		total := 4 // asked for in the own namespace
		for _, s := range sets {
			total += len(s.Ports)
		}
		if total > limit {
			t.Fatalf("round %d: %d ports are watched, limit %d", round, total, limit)
		}
	}
	crowd := slices.Concat(serversOf(1, portsFrom(2000, 100)...))
	for round := range 3 {
		for i, w := range all {
			sets[i] = w.Update(at(5000+round), crowd)
		}
	}
	for i, s := range sets {
		checkCounts(t, s, (limit-4)/watchers, 100-(limit-4)/watchers)
		if t.Failed() {
			t.Fatalf("watcher %d has an unfair share", i)
		}
	}
	for _, w := range all {
		w.Close()
	}
	b := p.budget
	if b.used != 4 || len(b.users) != 0 {
		t.Errorf("once all are closed %d places are used by %d users, want 4 and none", b.used, len(b.users))
	}
}

func TestTCPListenerInTheRangeCountsOnceItIsAMinuteOld(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Exclude: []Exclusion{{PortRange: sock.PortRange{First: 45003, Last: 45003}}}}, "45002")
	chosen := sock.PortRange{First: 40000, Last: 50000}
	update := func(s int, listening ...Server) Set { return w.Discover(at(s), listening, chosen) }
	there := servers(80, 45000)
	check(t, update(0, there...), 0, "80?", "45000?", "45002") // those that are there at the first look
	data := Server{Port: 45001, Cookie: 9}
	there = append(there, servers(81, 45003)...)
	check(t, update(1, append(there, data)...), 0, "80?", "81?", "45000?", "45002")
	check(t, update(60, append(there, data)...), 0, "80?", "81?", "45000?", "45002")
	check(t, update(61, append(there, data)...), 0, "80?", "81?", "45000?", "45001?", "45002")
	// Another socket on the same port starts anew.
	check(t, update(62, append(there, Server{Port: 45009, Cookie: 10})...), 0, "80?", "81?", "45000?", "45002")
	check(t, update(122, append(there, Server{Port: 45009, Cookie: 11})...), 0, "80?", "81?", "45000?", "45002")
	check(t, update(182, append(there, Server{Port: 45009, Cookie: 11})...), 0, "80?", "81?", "45000?", "45002", "45009?")
}

func TestServerInTheRangeThatRestartsStaysWatched(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: retention})
	chosen := sock.PortRange{First: 40000, Last: 50000}
	w.Discover(at(0), servers(45000), chosen)
	w.Discover(at(1), nil, chosen)
	check(t, w.Discover(at(599), []Server{{Port: 45000, Cookie: 2}}, chosen), 0, "45000?")
	check(t, w.Discover(at(1198), nil, chosen), 0, "45000?")
}

func TestFTPDataPortsAreNotWatched(t *testing.T) {
	w := newWatcher(t, Config{Listeners: true, Retention: retention})
	for s := range 600 {
		data := Server{Port: uint16(40000 + s*7%10000), Cookie: uint64(s)}
		check(t, w.Discover(at(s), []Server{{Port: 21, Cookie: 1 << 40}, data}[:1+min(s, 1)], sock.PortRange{First: 32768, Last: 60999}), 0, "21?")
	}
}
