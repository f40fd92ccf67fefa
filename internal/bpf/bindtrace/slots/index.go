//go:build linux

package slots

// A Place is what has a slot: a port of a network namespace, or all other ports of it.
type Place struct {
	Netns uint32 // inode number; 0: all namespaces that are not watched
	Port  uint16
	Other bool // the other ports; Port is 0
}

// A Port is a port of a network namespace.
type Port struct {
	Netns  uint32 // inode number; 0: all namespaces that are not watched
	Number uint16
}

// PlacesOf returns the places that are watched, those that need a slot most first.
func PlacesOf(namespaces []uint32, ports []Port) []Place {
	of := make(map[uint32][]Place, len(namespaces)+1)
	for _, p := range ports {
		of[p.Netns] = append(of[p.Netns], Place{Netns: p.Netns, Port: p.Number})
	}
	places := []Place{{}} // port 0 of other namespaces
	for _, n := range namespaces {
		places = append(places, Place{Netns: n, Other: true}, Place{Netns: n})
		places = append(places, of[n]...)
	}
	return append(places, of[0]...)
}

// heir returns the place that the counts go to when this one is given up.
func (p Place) heir() Place {
	switch {
	case p.Other || p.Netns == 0:
		return Place{Other: true}
	case p.Port == 0:
		return Place{}
	}
	return Place{Netns: p.Netns, Other: true}
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

// Max is how many slots there can be. The index is a quarter full then.
const Max = indexSize / 4

// An Index is the hash table in which the programs find the slot of a place: slot_index of
// bindtrace.c. Each change is a change of words that the programs read in one piece.
type Index struct {
	Words   [indexSize]uint64
	factor  uint64 // random and odd
	Changed bool   // since the programs got it
}

func (p Place) word() uint64 {
	word := uint64(p.Netns)<<17 | uint64(p.Port)<<1
	if p.Other {
		word |= 1
	}
	return word
}

func (x *Index) start(p Place) int {
	hash := p.word() * x.factor
	return int((hash ^ hash>>32) * x.factor >> (64 - indexBits))
}

// put adds a place that is not there yet. It returns false where there is no room.
func (x *Index) put(p Place, slot int) bool {
	start := x.start(p)
	for i := range indexProbes {
		if at := (start + i) % indexSize; x.Words[at] == 0 || x.Words[at] == removed {
			x.Words[at], x.Changed = p.word()<<numberBits|uint64(slot), true
			return true
		}
	}
	return false
}

// remove removes a place. Where nothing follows, it removes the traces of earlier ones too, so that
// they do not use up the table.
func (x *Index) remove(p Place) {
	start := x.start(p)
	for i := range indexProbes {
		at := (start + i) % indexSize
		if x.Words[at]>>numberBits != p.word() || x.Words[at] == 0 {
			continue
		}
		x.Words[at], x.Changed = removed, true
		for x.Words[(at+1)%indexSize] == 0 && x.Words[at] == removed {
			x.Words[at] = 0
			at = (at + indexSize - 1) % indexSize
		}
		return
	}
}
