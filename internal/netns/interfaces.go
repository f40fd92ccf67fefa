package netns

import (
	"errors"
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Interfaces names the interfaces of one network namespace, for the time of
// one snapshot: what it has looked up once it does not look up again, though
// the interface be renamed. It opens nothing before the first interface is
// asked for, and few hosts have a socket that is bound to one.
//
// It is not safe for concurrent use. Close it.
type Interfaces struct {
	ns     int
	handle *netlink.Handle
	names  map[uint32]string
	err    error
}

// NewInterfaces returns the Interfaces of the namespace that the descriptor
// refers to, or, if that is 0, of the thread which asks for the first name. The
// descriptor stays the caller's and must be open until then.
func NewInterfaces(fd int) *Interfaces { return &Interfaces{ns: fd} }

// Name returns the name of the interface with that index (idiag_if of a
// socket, its sk_bound_dev_if), and "" for 0: bound to none. An interface that
// is gone, or cannot be looked up (see Err), is called by its index: "if42".
//
// A name is 1 to 15 bytes without space, '/' or ':', and the kernel asks no
// more of it (dev_valid_name): it need be neither printable nor UTF-8, and it
// may be "if42" whatever its index. Callers must sanitise it.
//
// The first call for an index asks the kernel (RTM_GETLINK), which makes it
// wait for whoever holds the rtnl lock.
func (i *Interfaces) Name(index uint32) string {
	if index == 0 {
		return ""
	}
	if name, ok := i.names[index]; ok {
		return name
	}
	name, err := i.lookup(index)
	if err != nil && i.err == nil {
		i.err = fmt.Errorf("look up name of interface %d: %w", index, err)
	}
	if name == "" {
		name = fmt.Sprintf("if%d", index)
	}
	if i.names == nil {
		i.names = make(map[uint32]string)
	}
	i.names[index] = name
	return name
}

// Err returns what first kept Name from looking up a name, or nil. That an
// interface is gone is no error.
func (i *Interfaces) Err() error { return i.err }

// Close frees the connection to the kernel. What was looked up stays known;
// what was not is opened for again.
func (i *Interfaces) Close() {
	if i.handle != nil {
		i.handle.Close()
		i.handle = nil
	}
}

// lookup returns "" for an interface that is not there.
func (i *Interfaces) lookup(index uint32) (string, error) {
	// An int in the kernel, where what is above would be negative.
	if index > math.MaxInt32 {
		return "", nil
	}
	if i.handle == nil {
		handle, err := i.open()
		if err != nil {
			return "", fmt.Errorf("open rtnetlink: %w", err)
		}
		i.handle = handle
	}
	link, err := i.handle.LinkByIndex(int(index))
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

func (i *Interfaces) open() (*netlink.Handle, error) {
	switch {
	case i.ns == 0:
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	case i.ns < 0:
		// NewHandleAt would take it for the caller's own namespace.
		return nil, unix.EBADF
	}
	return netlink.NewHandleAt(netns.NsHandle(i.ns), unix.NETLINK_ROUTE)
}
