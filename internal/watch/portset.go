package watch

import (
	"iter"
	"math/bits"

	"sockstate_exporter/internal/sock"
)

// A portSet is one bit per port: 8 KiB however many are in it, and it yields
// them sorted.
type portSet [1 << 16 / 64]uint64

func (s *portSet) add(p uint16)      { s[p/64] |= 1 << (p % 64) }
func (s *portSet) has(p uint16) bool { return s[p/64]&(1<<(p%64)) != 0 }

func (s *portSet) len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

func (s *portSet) addRange(r sock.PortRange) {
	// An int, since a uint16 would wrap at 65535 and never end.
	for p := int(r.First); p <= int(r.Last); p++ {
		s.add(uint16(p))
	}
}

func (s *portSet) all() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(uint16(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// A portIndex gives a port's place among the sorted ports it was built from:
// the ports in the words before it, plus the bits below it in its own. It is
// asked once per socket, a million times a scrape, so it is two loads and a
// population count in 10 KiB, where a map or a binary search would be felt.
type portIndex struct {
	set    portSet
	before [len(portSet{})]uint16
}

func newPortIndex(ports []Port) *portIndex {
	var x portIndex
	for _, p := range ports {
		x.set.add(p.Number)
	}
	n := 0
	for i, word := range x.set {
		x.before[i] = uint16(n)
		n += bits.OnesCount64(word)
	}
	return &x
}

func (x *portIndex) find(p uint16) (int, bool) {
	word, bit := x.set[p/64], uint64(1)<<(p%64)
	if word&bit == 0 {
		return 0, false
	}
	return int(x.before[p/64]) + bits.OnesCount64(word&(bit-1)), true
}

// Fixed is a fixed set of ports. A nil one is empty.
type Fixed struct {
	ranges  []sock.PortRange
	numbers []uint16
	index   *portIndex
}

// NewFixed makes a set of ranges, which may overlap.
func NewFixed(ranges []sock.PortRange) *Fixed {
	var set portSet
	for _, r := range ranges {
		set.addRange(r)
	}
	p := &Fixed{ranges: ranges}
	var ports []Port
	for n := range set.all() {
		p.numbers = append(p.numbers, n)
		ports = append(ports, Port{Number: n})
	}
	p.index = newPortIndex(ports)
	return p
}

// Find returns the position of a port in Numbers, and whether it is there.
func (p *Fixed) Find(port uint16) (int, bool) {
	if p == nil {
		return 0, false
	}
	return p.index.find(port)
}

// Numbers are the ports, sorted. They must not be changed.
func (p *Fixed) Numbers() []uint16 {
	if p == nil {
		return nil
	}
	return p.numbers
}

// Ranges are what the set was made of. They must not be changed.
func (p *Fixed) Ranges() []sock.PortRange {
	if p == nil {
		return nil
	}
	return p.ranges
}
