package netns

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Interfaces looks up the names of interfaces in one network namespace, for one snapshot. It looks
// up each interface once, also where the interface is renamed meanwhile. It opens rtnetlink for
// the first interface, since most hosts have no socket that is bound to one.
//
// It is not safe for concurrent use. The caller closes it.
type Interfaces struct {
	ns     int
	handle *rtnetlink
	names  map[uint32]string // by index
	taken  map[string]bool   // of names
}

// rtnetlink has what is used of a netlink.Handle. The linker keeps all methods of a type that reflect
// could reach: with the Handle itself as a field, almost a megabyte of the binary that nothing calls.
type rtnetlink struct {
	addresses func(netlink.Link, int) ([]netlink.Addr, error)
	link      func(int) (netlink.Link, error)
	links     func() ([]netlink.Link, error)
	route     func(net.IP) ([]netlink.Route, error)
	close     func()
}

// NewInterfaces returns the Interfaces of the namespace that the descriptor refers to. 0 means the
// namespace of the thread that first calls Name. The caller keeps the descriptor open until then,
// and closes it.
func NewInterfaces(fd int) *Interfaces { return &Interfaces{ns: fd} }

// Name returns the name of the interface with the index (idiag_if of a socket, its
// sk_bound_dev_if), and "" for 0: a socket that is bound to none. An interface that is gone, or
// cannot be looked up, has its index as name: "if42".
//
// No two indices have the same name. So an interface that is really called "if42", or has a '#' in
// its name, or the name that another one had a moment ago, gets its index: "if42#7".
//
// A name is 1 to 15 bytes without space, '/' or ':' (dev_valid_name), and possibly the index. It
// may be neither printable nor UTF-8. Callers must sanitise it.
//
// The first call for an index asks the kernel (RTM_GETLINK). It waits for the rtnl lock.
func (i *Interfaces) Name(index uint32) string {
	if index == 0 {
		return ""
	}
	if name, ok := i.names[index]; ok {
		return name
	}
	name, err := i.lookup(index)
	switch {
	case err != nil, name == "":
		name = fmt.Sprintf("if%d", index)
	case i.taken[name] || strings.Contains(name, "#") || looksGone(name):
		name = fmt.Sprintf("%s#%d", name, index)
	}
	if i.names == nil {
		i.names, i.taken = make(map[uint32]string), make(map[string]bool)
	}
	i.names[index], i.taken[name] = name, true
	return name
}

// looksGone reports whether a name has the form that stands for an interface that is gone.
func looksGone(name string) bool {
	digits, ok := strings.CutPrefix(name, "if")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// Addresses returns the addresses of the namespace's interfaces (RTM_GETADDR).
func (i *Interfaces) Addresses() (map[netip.Addr]struct{}, error) {
	if err := i.connect(); err != nil {
		return nil, err
	}
	found, err := i.handle.addresses(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[netip.Addr]struct{}, len(found))
	for _, a := range found {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			out[addr.Unmap()] = struct{}{}
		}
	}
	return out, nil
}

// Close closes rtnetlink. Name still returns the names that it knows, and opens rtnetlink again for
// others.
func (i *Interfaces) Close() {
	if i.handle != nil {
		i.handle.close()
		i.handle = nil
	}
}

// lookup returns "" where there is no such interface.
func (i *Interfaces) lookup(index uint32) (string, error) {
	// The kernel has it as an int, in which a larger index would be negative.
	if index > math.MaxInt32 {
		return "", nil
	}
	if err := i.connect(); err != nil {
		return "", err
	}
	link, err := i.handle.link(int(index))
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

// connect opens rtnetlink, if it is not open.
func (i *Interfaces) connect() error {
	if i.handle != nil {
		return nil
	}
	h, err := i.open()
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	i.handle = &rtnetlink{
		addresses: func(l netlink.Link, family int) ([]netlink.Addr, error) {
			return whole(func() ([]netlink.Addr, error) { return h.AddrList(l, family) })
		},
		links: func() ([]netlink.Link, error) { return whole(h.LinkList) },
		link:  h.LinkByIndex, route: h.RouteGet, close: h.Close,
	}
	return nil
}

// whole asks for a list again, a few times, where it changed while the kernel wrote it. That happens where
// containers come and go. Whoever changes a list all the time gets the error.
func whole[T any](list func() ([]T, error)) (found []T, err error) {
	for range 5 {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}

func (i *Interfaces) open() (*netlink.Handle, error) {
	switch {
	case i.ns == 0:
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	case i.ns < 0:
		// NewHandleAt would take it as the caller's own namespace.
		return nil, unix.EBADF
	}
	return netlink.NewHandleAt(netns.NsHandle(i.ns), unix.NETLINK_ROUTE)
}
