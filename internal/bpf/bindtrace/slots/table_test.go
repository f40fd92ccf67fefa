//go:build linux

package slots

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/sock"
)

// fakeSlots are the kernel's slots.
type fakeSlots struct {
	counts [][SlotCounts]uint64
	opened []bool
}

func newFakeSlots(n int) *fakeSlots {
	return &fakeSlots{counts: make([][SlotCounts]uint64, n), opened: make([]bool, n)}
}

func (f *fakeSlots) Open(slot int) error {
	f.opened[slot] = true
	return nil
}

func (f *fakeSlots) Read(slot int, to *Sums) bool {
	if !f.opened[slot] {
		panic("slot read before it was opened")
	}
	*to = f.counts[slot]
	return f.counts[slot] != [SlotCounts]uint64{}
}

// slotTest has slots, and fails binds as the programs do.
type slotTest struct {
	*Table
	kernel *fakeSlots
}

func newSlotTest(t *testing.T, limit, maxDetails int) *slotTest {
	t.Helper()
	kernel := newFakeSlots(limit)
	s, err := New(kernel, limit, maxDetails, rand.Uint64())
	if err != nil {
		t.Fatal(err)
	}
	return &slotTest{Table: s, kernel: kernel}
}

// tcpInUse is the count of failed TCP binds with EADDRINUSE.
const tcpInUse = 1*errnoClassCount + 1 // PROTO_TCP

// find returns the slot in which the programs count.
func (s *slotTest) find(netns uint32, port uint16) int {
	if s.Index.find(Place{Netns: netns, Other: true}) == 0 {
		netns = 0
	}
	if slot := s.Index.find(Place{Netns: netns, Port: port}); slot != 0 {
		return slot
	}
	return s.Index.find(Place{Netns: netns, Other: true})
}

func (s *slotTest) fail(netns uint32, port uint16, n uint64) {
	s.kernel.counts[s.find(netns, port)][tcpInUse] += n
}

// watch watches port 80 and others of some namespaces.
func (s *slotTest) watch(t *testing.T, namespaces []uint32, ports ...uint16) {
	t.Helper()
	places := []Place{{}}
	for _, n := range namespaces {
		places = append(places, Place{Netns: n, Other: true}, Place{Netns: n})
		for _, p := range ports {
			places = append(places, Place{Netns: n, Port: p})
		}
	}
	if err := s.Assign(places); err != nil {
		t.Fatal(err)
	}
}

func (s *slotTest) counted() map[Place]uint64 {
	got := make(map[Place]uint64)
	for _, c := range s.AppendTo(nil, false) {
		got[Place{c.Netns, c.Port, c.OtherPort}] += c.N
	}
	return got
}

func total(counts map[Key]uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

func TestCountsOfWhatIsNotWatchedAnyMoreAreOfOthers(t *testing.T) {
	const x, y = 4026533000, 4026533001
	rest := Place{Other: true}
	on := func(netns uint32) Place { return Place{Netns: netns, Port: 80} }
	off := func(netns uint32) Place { return Place{Netns: netns, Other: true} }
	none := []uint16{}
	web := []uint16{80}
	for _, pause := range []time.Duration{0, LeavingTime} { // slots are given away, or wait
		synctest.Test(t, func(t *testing.T) {
			s := newSlotTest(t, 32, DefaultMaxDetails)
			for _, step := range []struct {
				what    string
				watched []uint32
				ports   []uint16
				fails   map[uint32]uint64 // binds to port 80
				want    map[Place]uint64
			}{
				{"none", nil, web, map[uint32]uint64{x: 2}, map[Place]uint64{rest: 2}},
				{"two come", []uint32{x, y}, web, map[uint32]uint64{x: 5, y: 7}, map[Place]uint64{rest: 2, on(x): 5, on(y): 7}},
				{"the port leaves", []uint32{x, y}, none, map[uint32]uint64{x: 1}, map[Place]uint64{rest: 2, off(x): 6, off(y): 7}},
				{"and comes back", []uint32{x, y}, web, map[uint32]uint64{x: 3}, map[Place]uint64{rest: 2, off(x): 6, on(x): 3, off(y): 7}},
				{"a namespace goes", []uint32{y}, web, nil, map[Place]uint64{rest: 11, off(y): 7}},
				{"another of its number comes", []uint32{x, y}, web, nil, map[Place]uint64{rest: 11, off(y): 7}},
				{"and fails", []uint32{x, y}, web, map[uint32]uint64{x: 4, y: 1}, map[Place]uint64{rest: 11, on(x): 4, off(y): 7, on(y): 1}},
				{"all go", nil, web, map[uint32]uint64{x: 1}, map[Place]uint64{rest: 24}},
			} {
				s.watch(t, step.watched, step.ports...)
				for netns, n := range step.fails {
					s.fail(netns, 80, n)
				}
				if got := s.counted(); !maps.Equal(got, step.want) {
					t.Errorf("%s: got %v, want %v", step.what, got, step.want)
				}
				time.Sleep(pause)
			}
		})
	}
}

// A program may have found a slot just before its place was given up.
func TestCountInALeavingSlotIsOfTheHeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlotTest(t, 8, DefaultMaxDetails)
		s.watch(t, []uint32{1}, 80)
		slot := s.find(1, 80)
		s.watch(t, []uint32{1}, 81)
		s.kernel.counts[slot][tcpInUse]++
		want := map[Place]uint64{{Netns: 1, Other: true}: 1}
		if got := s.counted(); !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if s.find(1, 81) == slot {
			t.Error("the slot has another place at once")
		}
		time.Sleep(LeavingTime)
		s.watch(t, []uint32{1}, 81, 82)
		if got := s.find(1, 82); got != slot {
			t.Errorf("the next port has slot %d, want %d", got, slot)
		}
		if got := s.counted(); !maps.Equal(got, want) {
			t.Errorf("with the slot used again: got %v, want %v", got, want)
		}
	})
}

// Whoever comes later cannot take the slot of a port that is watched.
func TestWatchedPortsKeepTheirSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 16
		s := newSlotTest(t, limit, DefaultMaxDetails)
		s.watch(t, []uint32{1}, 9000)
		before := s.find(1, 9000)
		flood := make([]uint16, 0, 1000)
		for port := range uint16(1000) {
			flood = append(flood, 1000+port)
		}
		for range 5 {
			s.watch(t, []uint32{1}, append(slices.Clone(flood), 9000)...)
			if got := s.find(1, 9000); got != before {
				t.Fatalf("slot %d, want %d as before", got, before)
			}
			if s.Used() != limit || s.Lacking != 1000-(limit-5) {
				t.Fatalf("%d slots used and %d lacking, want %d and %d", s.Used(), s.Lacking, limit, 1000-(limit-5))
			}
			time.Sleep(LeavingTime)
		}
		s.watch(t, []uint32{1}, 9000)
		time.Sleep(LeavingTime)
		s.watch(t, []uint32{1}, 9000)
		if s.Used() != 5 || s.Lacking != 0 {
			t.Errorf("%d slots used and %d lacking after the flood, want 5 and 0", s.Used(), s.Lacking)
		}
	})
}

// A process fails in every way that there is.
func TestNamespacesOfOthersLeaveThePortsOfTheFirstOneTheirSlots(t *testing.T) {
	s := newSlotTest(t, 16, DefaultMaxDetails)
	namespaces := []uint32{7}
	watch := []Port{{Netns: 7, Number: 80}, {Netns: 7, Number: 443}, {Number: 80}, {Number: 443}}
	for n := uint32(100); n < 200; n++ {
		namespaces = append(namespaces, n)
	}
	if err := s.Assign(PlacesOf(namespaces, watch)); err != nil {
		t.Fatal(err)
	}
	for _, p := range watch[:2] {
		if s.accounts[Place{Netns: p.Netns, Port: p.Number}] == nil {
			t.Errorf("port %d of the first namespace has no slot", p.Number)
		}
	}
	if want := 1 + 2*len(namespaces) + len(watch) - 15; s.Lacking != want {
		t.Errorf("%d places lack a slot, want %d", s.Lacking, want)
	}
}

// They are counted by namespace, apart from all others.
func TestCountsOfUnixSocketsAreOfTheirNamespace(t *testing.T) {
	s := newSlotTest(t, 8, DefaultMaxDetails)
	s.watch(t, []uint32{1}, 80)
	s.kernel.counts[s.Index.find(Place{Netns: 1, Other: true})][InetCounts+1] += 3
	want := func(netns uint32) {
		t.Helper()
		got := s.AppendTo(nil, true)
		if len(got) != 1 || got[0] != (Count{Key{Netns: netns, OtherPort: true, Op: OpUnixBind, Errno: unix.EADDRINUSE}, 3}) {
			t.Errorf("counted %+v, want 3 of namespace %d", got, netns)
		}
		if others := s.AppendTo(nil, false); len(others) != 0 {
			t.Errorf("other calls: %+v", others)
		}
	}
	want(1)
	s.watch(t, nil)
	want(0)
}

func TestSeriesThatAProcessCanMakeOfAPortAreBounded(t *testing.T) {
	s := newSlotTest(t, 8, DefaultMaxDetails)
	s.watch(t, []uint32{1}, 80)
	slot := s.find(1, 80)
	last := make(map[Key]uint64)
	for round := range 3 {
		for _, i := range rand.Perm(InetCounts) {
			s.kernel.counts[slot][i]++
			for _, c := range s.AppendTo(nil, false) {
				if c.N < last[c.Key] {
					t.Fatalf("%+v fell from %d to %d", c.Key, last[c.Key], c.N)
				}
				last[c.Key] = c.N
			}
		}
		if got := total(last); got != uint64((round+1)*InetCounts) {
			t.Errorf("counted %d failures, want %d", got, (round+1)*InetCounts)
		}
	}
	details := 0
	for k := range last {
		if !k.common() {
			details++
		}
	}
	if details != DefaultMaxDetails {
		t.Errorf("%d keys that are not common, want %d", details, DefaultMaxDetails)
	}
	if got, want := last[Key{Netns: 1, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRINUSE}], uint64(3); got != want {
		t.Errorf("EADDRINUSE of TCP counted %d times, want %d", got, want)
	}
}

// Places come and go at random: no sum falls, and nothing is lost.
func TestSlotsAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlotTest(t, 40, DefaultMaxDetails)
		rng := rand.New(rand.NewPCG(1, 2))
		var sent uint64
		var last map[Place]uint64
		for range 3000 {
			var ports []uint16
			for p := range uint16(40) {
				if rng.IntN(3) == 0 {
					ports = append(ports, p)
				}
			}
			rng.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
			s.watch(t, []uint32{1, 2, 3}[:rng.IntN(4)], ports...)
			if s.Used() > 40 {
				t.Fatalf("%d slots are used, there are 40", s.Used())
			}
			for range 20 {
				s.fail(rng.Uint32N(4), uint16(rng.IntN(40)), 1)
				sent++
			}
			got := s.counted()
			var sum uint64
			for p, n := range got {
				sum += n
				if _, watched := s.accounts[p]; !watched {
					t.Fatalf("%d failures of %+v, which is not watched", n, p)
				}
			}
			if sum != sent {
				t.Fatalf("%d failures are counted, want %d", sum, sent)
			}
			if rest := (Place{Other: true}); got[rest] < last[rest] {
				t.Fatalf("the rest fell from %d to %d", last[rest], got[rest])
			}
			last = got
			time.Sleep(time.Duration(rng.Int64N(int64(LeavingTime))))
		}
	})
}

// The index holds as many places as there can be, and does not fill up with what was removed.
func TestIndexWithAllSlots(t *testing.T) {
	for range 50 {
		factor := rand.Uint64() | 1
		t.Run(strconv.FormatUint(factor, 16), func(t *testing.T) { testIndexWithAllSlots(t, factor) })
	}
}

func testIndexWithAllSlots(t *testing.T, factor uint64) {
	x := &Index{factor: factor}
	at := func(i int) Place {
		return Place{Netns: 4026531840 + uint32(i%97), Port: uint16(i / 97), Other: i/97 == 0}
	}
	refused := 0
	for i := range Max {
		if !x.put(at(i), 1+i) {
			refused++
		}
	}
	for i := range Max {
		if got := x.find(at(i)); got != 1+i && got != 0 {
			t.Fatalf("place %d has slot %d, want %d", i, got, 1+i)
		}
	}
	if refused > Max/1000 {
		t.Errorf("%d of %d places had no room", refused, Max)
	}
	for i := range Max {
		x.remove(at(i))
	}
	for range 100 { // places come and go
		for i := range 1000 {
			p := Place{Netns: rand.Uint32(), Port: uint16(i)}
			if !x.put(p, 7) || x.find(p) != 7 {
				t.Fatalf("no room for %+v", p)
			}
			x.remove(p)
		}
	}
	left := 0
	for _, word := range x.Words {
		if word != 0 && word != removed {
			left++
		}
	}
	if left != 0 {
		t.Errorf("%d words are in use, want none", left)
	}
}

// find returns the slot of a place, or 0, as find_slot of bindtrace.c.
func (x *Index) find(p Place) int {
	start := x.start(p)
	for i := range indexProbes {
		word := x.Words[(start+i)%indexSize]
		if word == 0 {
			return 0
		}
		if word>>numberBits == p.word() {
			return int(word & (1<<numberBits - 1))
		}
	}
	return 0
}
