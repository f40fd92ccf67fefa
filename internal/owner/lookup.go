package owner

import "context"

// MaxLookup is how many sockets one Lookup takes.
const MaxLookup = 64

// Lookup returns the owners of sockets that somebody has to know now, by inode, and why others have
// none. It is for the sockets that made a bind fail. It answers like [Finder.Find], from memory if
// that is still right. Otherwise it waits for a scan until ctx ends. Calls at the same time share a
// scan, with each other and with Find, and all scans together take at most a tenth of a CPU. Lookup
// ignores inodes after the first MaxLookup.
func (f *Finder) Lookup(ctx context.Context, inodes []uint32) (map[uint32]Owner, error) {
	sockets := f.socketsWith(inodes[:min(len(inodes), MaxLookup)])
	found, err := f.find(ctx, sockets, false)
	owners := make(map[uint32]Owner, len(found))
	for i := range found {
		if found[i] != (Owner{}) {
			owners[sockets[i].Inode] = found[i]
		}
	}
	return owners, err
}

// socketsWith returns the sockets that have the inodes. The cookie of one that is not known is 0.
func (f *Finder) socketsWith(inodes []uint32) []Socket {
	f.mu.Lock()
	defer f.mu.Unlock()
	sockets, at := make([]Socket, len(inodes)), make(map[uint32]int, len(inodes))
	for i, inode := range inodes {
		sockets[i], at[inode] = Socket{Inode: inode}, i
	}
	for s, e := range f.known {
		if i, ok := at[s.Inode]; ok && s.Cookie != 0 && e.found {
			sockets[i] = s
		}
	}
	return sockets
}
