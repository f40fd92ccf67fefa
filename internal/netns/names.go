package netns

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// MaxName is the length of the longest name of a namespace. That of a pod is not cut: NAMESPACE/POD has
// at most 63+1+253 characters. Others have at most sock.MaxPrintable.
const MaxName = 384

// name gives each namespace a name. One that has a name keeps it, whatever others are called later.
// Where several new ones could have the same short name, the one of the first Spec gets it. Several
// of one Spec get their whole path as a name. The name of a container goes to the namespace with the oldest
// process. Where nothing else is left, the inode number is part of the name.
func (d *Discoverer) name(s *Set, all []*candidate) {
	moved := movedFiles(all)
	d.findContainers(all, moved)
	taken, rest := d.keepNames(s, all, moved)
	type bid struct {
		rank int
		name string
	}
	slices.SortStableFunc(rest, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), compareBool(a.container.Joined, b.container.Joined), slices.Compare(a.pids, b.pids))
	})
	for _, form := range []func(*candidate) string{(*candidate).shortName, (*candidate).longName} {
		bids := make(map[bid]int)
		for _, c := range rest {
			bids[bid{c.rank, form(c)}]++
		}
		var left []*candidate
		for _, c := range rest {
			name := form(c)
			if name == "" || taken[name] || bids[bid{c.rank, name}] > 1 && !c.contained() {
				left = append(left, c)
				continue
			}
			taken[name] = true
			c.ns.Name = name
		}
		rest = left
	}
	for _, c := range rest {
		c.ns.Name, c.unnamed = numbered(c.short, c.ns.ID.Inode, c.limit()), c.short == ""
	}
	for _, c := range all {
		c.ns.Container = c.container
	}
}

// contained says that the namespace is called by a container that has a name.
func (c *candidate) contained() bool { return c.container != sock.Container{} }

func (c *candidate) shortName() string { return plain(c.short, c.limit()) }
func (c *candidate) longName() string  { return plain(c.long, c.limit()) }

func (c *candidate) limit() int {
	if c.contained() {
		return MaxName
	}
	return sock.MaxPrintable
}

// findContainers looks for the containers of namespaces that have no name so far, or one that only their
// number, the id of a container or a file gives them. A file that the user has named keeps its name, and
// so does one that no container has used for a minute.
func (d *Discoverer) findContainers(all []*candidate, moved func(ID, *known) bool) {
	in := make(map[uint64]bool)
	for _, c := range all {
		if c.ns.ID.Cookie != 0 { // else it may be another namespace, with the number of the known one
			c.known = d.known[c.ns.ID]
		}
		k := c.known
		c.asks = c.process() && (k == nil || k.provisional || moved(c.ns.ID, k)) ||
			c.glob && (k == nil || k.provisional && time.Since(k.born) < keepMissed || moved(c.ns.ID, k))
		if c.asks && len(c.pids) == 0 {
			in[c.ns.ID.Inode] = true
		}
	}
	var pids map[uint64][]int
	if len(in) > 0 && !d.cfg.Processes { // else all processes were looked at
		pids = d.processesIn(func(inode uint64) bool { return in[inode] })
	}
	for _, c := range all {
		if !c.asks {
			continue
		}
		c.pids = append(c.pids, pids[c.ns.ID.Inode]...)
		var short string
		if c.container, short = d.containerOf(c); c.contained() {
			c.short, c.long = c.container.String(), ""
		} else if c.process() {
			c.short = short
		}
		c.provisional = !c.contained()
	}
}

// movedFiles returns a function that says whether the file that gave a namespace its name is that of another
// namespace now.
func movedFiles(all []*candidate) func(ID, *known) bool {
	at := make(map[string]ID)
	for _, c := range all {
		if !c.process() {
			at[c.path] = c.ns.ID
		}
	}
	return func(id ID, k *known) bool {
		now, ok := at[k.path]
		return ok && k.path != "" && now != id
	}
}

// keepNames gives known namespaces the names that they have. It returns the names that are taken,
// and the namespaces that have none. A namespace loses its name only where the file that gave it
// is that of another namespace now, or where it has a container with a name at last. One that is missing
// keeps it where not all places could be looked at; else it is gone, in all likelihood, and its successor
// may have its name at once.
func (d *Discoverer) keepNames(s *Set, all []*candidate, moved func(ID, *known) bool) (taken map[string]bool, rest []*candidate) {
	taken = make(map[string]bool)
	there := make(map[ID]bool)
	for _, c := range all {
		there[c.ns.ID] = true
	}
	for _, c := range all {
		k := c.known
		if k == nil || moved(c.ns.ID, k) || c.contained() || k.unnamed && c.short != "" {
			rest = append(rest, c)
			continue
		}
		c.ns.Name, c.unnamed, c.container = k.name, k.unnamed, k.container
		taken[k.name] = true
	}
	if s.partial || s.unsure {
		for id, k := range d.known {
			taken[k.name] = taken[k.name] || !there[id] && !moved(id, k)
		}
	}
	return taken, rest
}

// containerOf asks for the container of each process in turn, at most maxPIDs of them. One in its own
// namespace comes before one that has joined another's. Without a name, a container has a short id.
func (d *Discoverer) containerOf(c *candidate) (joined sock.Container, short string) {
	for _, pid := range c.pids[:min(len(c.pids), maxPIDs)] {
		container, id := d.cfg.ContainerOf(pid)
		if id == "" && container == (sock.Container{}) {
			continue
		}
		// The namespace is open, so its inode number is not used again. If the process is in it
		// now, ContainerOf was asked about this process and not about a later one with its pid.
		link, err := os.Readlink(d.pidPath(pid))
		if inode, ok := linux.LinkInode("net", link); err != nil || !ok || inode != c.ns.ID.Inode {
			continue
		}
		switch {
		case container.String() != "" && !container.Joined:
			return container, ""
		case container.String() != "" && joined == (sock.Container{}):
			joined = container
		}
		short = cmp.Or(short, id)
	}
	return joined, short
}

// plain returns a name as it is, or "" for one that looks like a numbered name.
func plain(s string, limit int) string {
	s = sock.PrintableUpTo(s, limit)
	if strings.Contains(s, "net:[") {
		return ""
	}
	return s
}

// numbered returns a unique name: no other one ends in this inode number.
func numbered(s string, inode uint64, limit int) string {
	number := fmt.Sprintf("net:[%d]", inode)
	if s == "" {
		return number
	}
	number = " (" + number + ")"
	return sock.PrintableUpTo(s, limit-len(number)) + number
}
