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

// name gives each its name. Of several that could have the same one, that
// of the first Spec gets it; those of one Spec are called by their whole path,
// and what cannot be told apart by that either, by its number too. Namespaces
// of processes never have a plain name that another one could have.
func (d *Discoverer) name(all []*candidate) {
	for _, c := range all {
		if c.process() {
			c.short = d.processName(c)
		}
	}
	type bid struct {
		rank int
		name string
	}
	taken := make(map[string]bool)
	rest := slices.SortedStableFunc(slices.Values(all), func(a, b *candidate) int { return cmp.Compare(a.rank, b.rank) })
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
		c.ns.Name = numbered(c.short, c.ns.ID.Inode)
	}
}

// processName asks the processes in turn. What it heard once it keeps, so that
// the name does not change with who of them is still there.
func (d *Discoverer) processName(c *candidate) string {
	if name, ok := d.names[c.ns.ID]; ok {
		return name
	}
	for _, pid := range c.pids {
		name := sock.Printable(d.cfg.NameOf(pid))
		if name == "" {
			continue
		}
		// It is held open: if the process is in it, it was its process before,
		// and nobody else of the same number.
		link, err := os.Readlink(d.pidPath(pid))
		if inode, ok := linux.LinkInode("net", link); err == nil && ok && inode == c.ns.ID.Inode {
			return name
		}
	}
	return ""
}

// plain is a name as it came; not one that looks like a numbered one.
func plain(s string) string {
	s = sock.Printable(s)
	if strings.Contains(s, "net:[") {
		return ""
	}
	return s
}

// numbered is unique: nothing else ends in this number.
func numbered(s string, inode uint64) string {
	number := fmt.Sprintf("net:[%d]", inode)
	if s == "" {
		return number
	}
	number = " (" + number + ")"
	name := []rune(sock.Printable(s))
	return string(name[:min(len(name), sock.MaxPrintable-len(number))]) + number
}
