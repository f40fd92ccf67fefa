package netns

import (
	"cmp"
	"slices"
	"time"

	"sockstate_exporter/internal/sock"
)

// A known namespace was in a Set lately.
type known struct {
	name    string
	unnamed bool // the name is only its number: it takes another one as soon as it has one

	container   sock.Container // that gave it the name
	provisional bool           // it takes the name of its container as soon as that has one
	born        time.Time      // when it was first found

	path string // of the file that gave it the name; empty: it has the name of a process

	// Where it was, beside path.
	pids  []int
	mount string

	misses int // Sets in a row that it was not in
	since  time.Time

	// unsure: it was not looked for everywhere, so it keeps its name until it is forgotten.
	unsure bool
}

// A namespace is forgotten after keepMisses Sets and keepMissed without it, whichever is later.
// Until then whoever keeps counters by ID must not start anew: it may only have been overlooked. A
// process that forks and ends all the time can be between two pids whenever procfs is read.
const (
	keepMisses = 3
	keepMissed = time.Minute

	maxMissed = 256 // beyond it, those that have been missing for longest are forgotten
	maxPIDs   = 8   // of a known namespace
)

// byInode returns the known namespaces by their inode number. No two have the same one.
func (d *Discoverer) byInode() map[uint64]*known {
	all := make(map[uint64]*known, len(d.known))
	for id, k := range d.known {
		all[id.Inode] = k
	}
	return all
}

// remember keeps what the next Open needs, and forgets namespaces that are gone.
func (d *Discoverer) remember(s *Set, opened []*candidate, now time.Time) {
	all := make(map[ID]*known, len(opened))
	inodes, names := make(map[uint64]bool, len(opened)), make(map[string]bool, len(opened))
	for _, c := range opened {
		k := &known{
			name: c.ns.Name, unnamed: c.unnamed, container: c.container, provisional: c.provisional, path: c.path, born: now,
			pids: slices.Clone(c.pids[:min(len(c.pids), maxPIDs)]), mount: c.mount,
		}
		if before := d.known[c.ns.ID]; before != nil {
			k.born = before.born
			if before.name == k.name {
				k.path = before.path
			}
		}
		if c.contained() {
			k.path = ""
		}
		all[c.ns.ID] = k
		inodes[c.ns.ID.Inode], names[k.name] = true, true
	}
	for id, k := range d.known {
		// Another namespace with its number or its name says that it is gone.
		if all[id] != nil || inodes[id.Inode] || names[k.name] || !k.miss(now) {
			continue
		}
		k.unsure = s.partial || s.unsure
		all[id] = k
		s.Missed = append(s.Missed, Missed{Name: k.name, ID: id})
	}
	slices.SortFunc(s.Missed, func(a, b Missed) int {
		return cmp.Or(all[b.ID].since.Compare(all[a.ID].since), cmp.Compare(a.Name, b.Name))
	})
	if len(s.Missed) > maxMissed {
		for _, m := range s.Missed[maxMissed:] {
			delete(all, m.ID)
		}
		s.Missed = s.Missed[:maxMissed]
	}
	slices.SortFunc(s.Missed, func(a, b Missed) int { return cmp.Compare(a.Name, b.Name) })
	d.known = all
}

// miss notes that the namespace was not found. It returns false where it is given up.
func (k *known) miss(now time.Time) bool {
	if k.misses++; k.misses == 1 {
		k.since = now
	}
	return k.misses < keepMisses || now.Sub(k.since) < keepMissed
}
