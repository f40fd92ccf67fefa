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

// name gives each namespace a name. Where several could have the same short name, the one of the
// first Spec gets it. Several of one Spec get their whole path as a name. Where the path is not
// unique either, the inode number is part of the name.
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

// processName asks for the name of each process in turn. It keeps the first answer, so that the
// name does not change when that process ends.
func (d *Discoverer) processName(c *candidate) string {
	if name, ok := d.names[c.ns.ID]; ok {
		return name
	}
	for _, pid := range c.pids {
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
