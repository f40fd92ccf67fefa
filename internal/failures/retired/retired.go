// Package retired finds the network namespaces that are gone. It is pure.
package retired

import "sockstate_exporter/internal/netns"

// Namespaces are those that are watched. The tracer counts by inode number, and the kernel gives the number
// to the next namespace.
type Namespaces struct {
	ids map[uint32]netns.ID // by number
}

// New returns none.
func New() *Namespaces { return &Namespaces{ids: make(map[uint32]netns.ID)} }

// Replace takes the namespaces that are watched from now on, and returns the inode numbers of those that no
// longer are.
func (r *Namespaces) Replace(others []netns.ID) map[uint32]bool {
	before := r.ids
	r.ids = make(map[uint32]netns.ID, len(others))
	for _, id := range others {
		r.ids[uint32(id.Inode)] = id
	}
	gone := make(map[uint32]bool)
	for inode, id := range before {
		if now, ok := r.ids[inode]; !ok || now != id {
			gone[inode] = true
		}
	}
	return gone
}
