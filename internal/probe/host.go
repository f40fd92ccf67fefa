package probe

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/netlinkdiag"
)

// A Host asks the network namespaces of a host. Its methods may be called from any goroutine.
type Host struct {
	Config

	// OwnInode is the inode number of the process's own network namespace.
	OwnInode uint32

	// OwnCookie is its cookie, or 0.
	OwnCookie uint64

	// BoundInactive says that sock_diag shows sockets that are only bound (Linux 6.8).
	BoundInactive bool

	// MappedMeetsAny is bindrule.Port.MappedMeetsAny.
	MappedMeetsAny bindrule.Flag

	// Walker reads the connections of many namespaces at once; nil: each is asked.
	Walker Walker

	// Others finds the namespaces to ask beside the own one; nil: there are none.
	Others *netns.Discoverer

	mu sync.Mutex // guards Others
}

// Open finds the other namespaces that exist now. The caller closes the Set. Its error is ErrOff if
// the Host looks for no others.
func (h *Host) Open() *netns.Set {
	if h.Others == nil {
		return &netns.Set{Err: ErrOff}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.Others.Open()
}

var errGone = errors.New("the network namespace is gone")

// gone answers every question with errGone.
func gone() Namespace {
	c := Config{Dial: func(int) (*netlinkdiag.Conn, error) { return nil, errGone }}
	return c.Own()
}

// Each visits network namespaces by inode number, with their name. One that is gone, or is not
// asked, answers with an error.
func (h *Host) Each(inodes []uint32, visit func(inode uint32, name string, n Namespace)) {
	var others *netns.Set // found once they are needed
	for _, inode := range inodes {
		name, n := "", h.Own()
		if inode != h.OwnInode {
			if others == nil {
				others = h.Open()
			}
			name, n = fmt.Sprintf("net:[%d]", inode), gone()
			i := slices.IndexFunc(others.Namespaces, func(ns *netns.Namespace) bool { return ns.ID.Inode == uint64(inode) })
			if i >= 0 {
				name, n = others.Namespaces[i].Name, h.In(others.Namespaces[i])
			}
		}
		visit(inode, name, n)
		_ = n.Close() // of what was only read
	}
	if others != nil {
		_ = others.Close()
	}
}
