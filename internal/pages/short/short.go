// Package short has the one line that /ports shows of a port that is fine. It is pure.
package short

import (
	"slices"
	"strings"
)

// A Line is what is on a port.
type Line struct {
	Queue string  // of the fullest socket
	Drops *uint64 // of all; nil: not known

	places, by []string
}

// New returns a line without sockets.
func New() *Line { return &Line{Drops: new(uint64)} }

// Add adds a socket. Most servers open a port twice, for IPv4 and for IPv6, so texts are shown once.
func (l *Line) Add(place, by string) {
	add(&l.places, place)
	add(&l.by, by)
}

func add(list *[]string, text string) {
	if text != "" && !slices.Contains(*list, text) {
		*list = append(*list, text)
	}
}

// Count adds to the drops.
func (l *Line) Count(drops *uint64) {
	if l.Drops == nil || drops == nil {
		l.Drops = nil
		return
	}
	*l.Drops += *drops
}

// Where are the addresses.
func (l *Line) Where() string { return strings.Join(l.places, ", ") }

// Who are the processes.
func (l *Line) Who() string { return strings.Join(l.by, "; ") }
