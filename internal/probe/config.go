package probe

import (
	"cmp"
	"net/netip"
	"sync"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// Config says how to ask.
type Config struct {
	// Dial connects to sock_diag in the network namespace that the descriptor refers to. 0 means
	// the namespace of the calling thread. Where Dial is nil, netlinkdiag.Dial is used.
	Dial func(netns int) (*netlinkdiag.Conn, error)

	// NetNS is a descriptor of the namespace that counts as the process's own. 0 means the
	// namespace that the process is in.
	NetNS int

	// Addresses returns the addresses of the devices of the network namespace that a descriptor
	// refers to, as with Dial. nil: rtnetlink is asked.
	Addresses func(netns int) (map[netip.Addr]struct{}, error)

	// Flags reads the reuse flags; nil switches them off.
	Flags FlagReader

	// Buckets reads the sockets of ports with few of them; nil: Flags reads them all. It is not
	// used without Flags.
	Buckets BucketReader

	// UDP reads the UDP sockets of ports with their flags; nil switches that off.
	UDP UDPReader

	// These read procfs in the network namespace of the calling thread. Each may be nil. Without
	// Stack, the counters are off; what the others read is not known then.
	Stack      func() (stack.Stats, error)
	LocalPorts func() (first, last uint16, err error)
	Reserved   func() ([]sock.PortRange, error) // net.ipv4.ip_local_reserved_ports
	TCPSockets func() (uint64, error)           // without half-open sockets, and without those that are only bound
}

// Own asks the process's own network namespace.
func (c *Config) Own() Namespace {
	n := c.namespace(c.NetNS)
	n.stack, n.localPorts, n.reserved = c.Stack, c.LocalPorts, c.Reserved
	return n
}

// In asks another network namespace. It works as long as that is open.
func (c *Config) In(ns *netns.Namespace) Namespace {
	fd := ns.FD()
	n := c.namespace(fd)
	// Everything is read together, because each visit to the namespace takes a thread.
	read := sync.OnceValue(func() (p procfs) {
		if err := linux.RunInNetNS(fd, func() error {
			p = c.readProcfs()
			return nil
		}); err != nil {
			p = procfs{statsErr: err, localPortsErr: err, socketsErr: err}
		}
		return p
	})
	if c.Stack != nil {
		n.stack = func() (stack.Stats, error) { p := read(); return p.stats, p.statsErr }
	}
	if c.LocalPorts != nil {
		n.localPorts = func() (uint16, uint16, error) { p := read(); return p.first, p.last, p.localPortsErr }
	}
	if c.TCPSockets != nil {
		n.tcpSockets = func() (uint64, error) { p := read(); return p.sockets, p.socketsErr }
	}
	if c.Reserved != nil {
		// Few namespaces have a port that this matters for.
		n.reserved = func() (ports []sock.PortRange, err error) {
			runErr := linux.RunInNetNS(fd, func() error {
				ports, err = c.Reserved()
				return nil
			})
			return ports, cmp.Or(runErr, err)
		}
	}
	return n
}

func (c *Config) namespace(fd int) *namespace {
	n := &namespace{fd: fd, dial: c.Dial, addresses: c.Addresses, flags: c.Flags, buckets: c.Buckets, udp: c.UDP}
	if n.dial == nil {
		n.dial = func(fd int) (*netlinkdiag.Conn, error) { return netlinkdiag.Dial(&netlinkdiag.Config{NetNS: fd}) }
	}
	if n.addresses == nil {
		n.addresses = localAddresses
	}
	return n
}

func localAddresses(fd int) (map[netip.Addr]struct{}, error) {
	devices := netns.NewInterfaces(fd)
	defer devices.Close()
	return devices.Addresses()
}

// procfs is what procfs says of a network namespace.
type procfs struct {
	stats         stack.Stats
	statsErr      error
	first, last   uint16 // of net.ipv4.ip_local_port_range
	localPortsErr error
	sockets       uint64
	socketsErr    error
}

func (c *Config) readProcfs() (p procfs) {
	if c.Stack != nil {
		p.stats, p.statsErr = c.Stack()
	}
	// Stack reads most of what the others do.
	if local := p.stats.LocalPorts; local.Last > 0 {
		p.first, p.last = local.First, local.Last
	} else if c.LocalPorts != nil {
		p.first, p.last, p.localPortsErr = c.LocalPorts()
	}
	if p.stats.Sockets.OK {
		p.sockets = p.stats.Sockets.V
	} else if c.TCPSockets != nil {
		p.sockets, p.socketsErr = c.TCPSockets()
	}
	return p
}
