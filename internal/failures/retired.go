package failures

import "sockstate_exporter/internal/netns"

// retired finds the namespaces that are gone. The tracer counts by inode number, and the kernel
// gives the number to the next namespace.
type retired struct {
	ids map[uint32]netns.ID // of the namespaces that are watched, by number
}

func newRetired() *retired { return &retired{ids: make(map[uint32]netns.ID)} }

// replace takes the namespaces that are watched from now on, and returns the inode numbers of those
// that no longer are.
func (r *retired) replace(others []netns.ID) map[uint32]bool {
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
