package netns

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// name gives each namespace a name. One that has a name keeps it, whatever others are called later.
// Where several new ones could have the same short name, the one of the first Spec gets it. Several
// of one Spec get their whole path as a name. Where the path is not unique either, the inode number
// is part of the name.
func (d *Discoverer) name(s *Set, all []*candidate) {
	taken, rest := d.keepNames(s, all)
	for _, c := range rest {
		if c.process() {
			c.short = d.processName(c)
		}
	}
	type bid struct {
		rank int
		name string
	}
	slices.SortStableFunc(rest, func(a, b *candidate) int { return cmp.Compare(a.rank, b.rank) })
	for _, form := range []func(*candidate) string{
		func(c *candidate) string { return plain(c.short) },
		func(c *candidate) string { return plain(c.long) },
	} {
		bids := make(map[bid]int)
		for _, c := range rest {
			bids[bid{c.rank, form(c)}]++
		}
		var left []*candidate
		for _, c := range rest {
			name := form(c)
			if name == "" || taken[name] || bids[bid{c.rank, name}] > 1 {
				left = append(left, c)
				continue
			}
			taken[name] = true
			c.ns.Name = name
		}
		rest = left
	}
	for _, c := range rest {
		c.ns.Name, c.unnamed = numbered(c.short, c.ns.ID.Inode), c.short == ""
	}
}

// keepNames gives known namespaces the names that they have. It returns the names that are taken,
// and the namespaces that have none. A namespace loses its name only where the file that gave it
// is that of another namespace now. One that is missing keeps it where not all places could be looked
// at; else it is gone, in all likelihood, and its successor may have its name at once.
func (d *Discoverer) keepNames(s *Set, all []*candidate) (taken map[string]bool, rest []*candidate) {
	taken = make(map[string]bool)
	at, there := make(map[string]ID), make(map[ID]bool)
	for _, c := range all {
		there[c.ns.ID] = true
		if !c.process() {
			at[c.path] = c.ns.ID
		}
	}
	moved := func(id ID, k *known) bool {
		now, ok := at[k.path]
		return ok && k.path != "" && now != id
	}
	for _, c := range all {
		// Without a cookie it may be another namespace, with the number of the known one.
		k := d.known[c.ns.ID]
		if k == nil || k.unnamed || c.ns.ID.Cookie == 0 || moved(c.ns.ID, k) {
			rest = append(rest, c)
			continue
		}
		c.ns.Name = k.name
		taken[k.name] = true
	}
	if s.partial || s.unsure {
		for id, k := range d.known {
			taken[k.name] = taken[k.name] || !there[id] && !moved(id, k)
		}
	}
	return taken, rest
}

// processName asks for the name of each process in turn, at most maxPIDs of them.
func (d *Discoverer) processName(c *candidate) string {
	for _, pid := range c.pids[:min(len(c.pids), maxPIDs)] {
		name := sock.Printable(d.cfg.NameOf(pid))
		if name == "" {
			continue
		}
		// The namespace is open, so its inode number is not used again. If the process is in it
		// now, NameOf was asked about this process and not about a later one with its pid.
		link, err := os.Readlink(d.pidPath(pid))
		if inode, ok := linux.LinkInode("net", link); err == nil && ok && inode == c.ns.ID.Inode {
			return name
		}
	}
	return ""
}

// plain returns a name as it is, or "" for one that looks like a numbered name.
func plain(s string) string {
	s = sock.Printable(s)
	if strings.Contains(s, "net:[") {
		return ""
	}
	return s
}

// numbered returns a unique name: no other one ends in this inode number.
func numbered(s string, inode uint64) string {
	number := fmt.Sprintf("net:[%d]", inode)
	if s == "" {
		return number
	}
	number = " (" + number + ")"
	name := []rune(sock.Printable(s))
	return string(name[:min(len(name), sock.MaxPrintable-len(number))]) + number
}
