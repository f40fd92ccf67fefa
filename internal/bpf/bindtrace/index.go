//go:build linux

package bindtrace

// A place is what has a slot: a port of a network namespace, or all other ports of it.
type place struct {
	netns uint32 // inode number; 0: all namespaces that are not watched
	port  uint16
	other bool // the other ports; port is 0
}

// heir returns the place that the counts go to when this one is given up.
func (p place) heir() place {
	switch {
	case p.other || p.netns == 0:
		return place{other: true}
	case p.port == 0:
		return place{}
	}
	return place{netns: p.netns, other: true}
}

// Constants of slot_index in bindtrace.c.
const (
	indexBits   = 15
	indexSize   = 1 << indexBits
	indexProbes = 16
	numberBits  = 15

	// removed is a word that was in use: no namespace has this number.
	removed = ^uint64(0) >> numberBits << numberBits
)

// An index is the hash table in which the programs find the slot of a place: slot_index of
// bindtrace.c. Each change is a change of words that the programs read in one piece.
type index struct {
	words   [indexSize]uint64
	factor  uint64 // random and odd
	changed bool   // since the programs got it
}

func (p place) word() uint64 {
	word := uint64(p.netns)<<17 | uint64(p.port)<<1
	if p.other {
		word |= 1
	}
	return word
}

func (x *index) start(p place) int {
	hash := p.word() * x.factor
	return int((hash ^ hash>>32) * x.factor >> (64 - indexBits))
}

// put adds a place that is not there yet. It returns false where there is no room.
func (x *index) put(p place, slot int) bool {
	start := x.start(p)
	for i := range indexProbes {
		if at := (start + i) % indexSize; x.words[at] == 0 || x.words[at] == removed {
			x.words[at], x.changed = p.word()<<numberBits|uint64(slot), true
			return true
		}
	}
	return false
}

// remove removes a place. Where nothing follows, it removes the traces of earlier ones too, so that
// they do not use up the table.
func (x *index) remove(p place) {
	start := x.start(p)
	for i := range indexProbes {
		at := (start + i) % indexSize
		if x.words[at]>>numberBits != p.word() || x.words[at] == 0 {
			continue
		}
		x.words[at], x.changed = removed, true
		for x.words[(at+1)%indexSize] == 0 && x.words[at] == removed {
			x.words[at] = 0
			at = (at + indexSize - 1) % indexSize
		}
		return
	}
}
