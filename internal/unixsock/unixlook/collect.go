package unixlook

import (
	"errors"
	"path/filepath"
	"slices"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/netlinkdiag"
)

// Bounds of the sockets that are kept because their name may lead to the path: any user can bind as
// many as they like.
const (
	maxNamed     = 32 // of one place
	maxNamedUser = 8  // of one user in it
)

var errNotDumped = errors.New("its network namespace was not looked at")

// A place is a Name that is looked at.
type place struct {
	name    unixsock.Name
	netns   uint32
	file    unixsock.File
	dir     unixsock.File // its directory
	sockets []unixsock.Socket
}

// A collection keeps the sockets that matter for some places.
type collection struct {
	places []place
	byFile map[uint32][]int // places by the lower half of the inode number of their file
	byBase map[string][]int // by the last part of the path, or by the abstract name

	dumped map[uint32]error // how the dump of a network namespace ended
}

func newCollection(queries []Query, stat func(*Query, string) unixsock.File) *collection {
	c := &collection{byFile: make(map[uint32][]int), byBase: make(map[string][]int), dumped: make(map[uint32]error)}
	for i := range queries {
		q := &queries[i]
		name := q.Name
		p := place{name: name, netns: q.Netns}
		if name.Abstract {
			c.dumped[q.Netns] = errNotDumped
		} else {
			p.file, p.dir = stat(q, name.Path), stat(q, directoryOf(name.Path))
		}
		c.places = append(c.places, p)
		base := baseOf(name)
		c.byBase[base] = append(c.byBase[base], i)
		if p.file.Kind == unixsock.FileSocket {
			c.byFile[uint32(p.file.Inode)] = append(c.byFile[uint32(p.file.Inode)], i)
		}
	}
	return c
}

// orphaned says whether the place has the file of a socket that was not found.
func (p *place) orphaned() bool {
	return p.file.Kind == unixsock.FileSocket &&
		!slices.ContainsFunc(p.sockets, func(s unixsock.Socket) bool { return p.file.Is(&s.UnixSocket) })
}

func baseOf(name unixsock.Name) string {
	if name.Abstract {
		return "\x00" + name.Path // no path has this byte
	}
	return filepath.Base(name.Path)
}

// mark and reset are for a dump that begins anew.
func (c *collection) mark() []int {
	counts := make([]int, len(c.places))
	for i := range c.places {
		counts[i] = len(c.places[i].sockets)
	}
	return counts
}

func (c *collection) reset(counts []int) {
	for i, n := range counts {
		c.places[i].sockets = c.places[i].sockets[:n]
	}
}

// add keeps a socket where it matters. netns and inode are those of its network namespace, "" and 0 for
// the own one.
func (c *collection) add(s *netlinkdiag.UnixSocket, netns string, inode uint32) {
	if !unixsock.Bound(s) {
		return
	}
	for _, i := range c.byFile[s.File.Inode] {
		if p := &c.places[i]; p.file.Is(s) {
			p.sockets = append(p.sockets, unixsock.Socket{UnixSocket: *s, Netns: netns})
		}
	}
	for _, i := range c.byBase[baseOf(unixsock.Name{Path: s.Name, Abstract: s.Abstract})] {
		p := &c.places[i]
		socket := unixsock.Socket{UnixSocket: *s, Netns: netns}
		switch {
		case p.name.Abstract:
			if p.netns == inode {
				p.sockets = append(p.sockets, socket)
			}
		case !p.file.Is(s) && socket.Serves():
			p.addNamed(socket)
		}
	}
}

// addNamed keeps a socket that has the name, and another file. One with the whole path displaces one
// that only has the last part of it.
func (p *place) addNamed(s unixsock.Socket) {
	named, users := 0, 0
	displaced := -1
	for i := range p.sockets {
		o := &p.sockets[i]
		if p.file.Is(&o.UnixSocket) {
			continue
		}
		named++
		if o.UID == s.UID {
			users++
		}
		if o.Name != p.name.Path && (o.UID == s.UID || displaced < 0) {
			displaced = i
		}
	}
	switch {
	case named < maxNamed && users < maxNamedUser:
		p.sockets = append(p.sockets, s)
	case s.Name == p.name.Path && displaced >= 0 && (users < maxNamedUser || p.sockets[displaced].UID == s.UID):
		p.sockets[displaced] = s
	}
}

// maxOwned bounds the sockets whose owners are asked for.
const maxOwned = 1024

// owned returns the sockets whose owners are asked for: at first one of each place, and those that have
// the file before others.
func (c *collection) owned() []owner.Socket {
	var out []owner.Socket
	for i := range c.places {
		p := &c.places[i]
		slices.SortStableFunc(p.sockets, func(a, b unixsock.Socket) int { return p.rank(&a) - p.rank(&b) })
	}
	asked := make(map[uint64]bool)
	for n, more := 0, true; more; n++ {
		more = false
		for i := range c.places {
			if n >= len(c.places[i].sockets) || len(out) == maxOwned {
				continue
			}
			more = true
			s := &c.places[i].sockets[n]
			if s.Inode != 0 && !asked[s.Cookie] {
				asked[s.Cookie] = true
				out = append(out, owner.Socket{Cookie: s.Cookie, Inode: s.Inode})
			}
		}
	}
	return out
}

func (p *place) rank(s *unixsock.Socket) int {
	switch {
	case p.name.Abstract, p.file.Is(&s.UnixSocket):
		return 0
	case s.Name == p.name.Path:
		return 1
	default:
		return 2
	}
}
