package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// A namespace asks the kernel.
type namespace struct {
	fd   int
	dial func(int) (*netlinkdiag.Conn, error)
	conn *netlinkdiag.Conn // nil until dialled

	addresses func(int) (map[netip.Addr]struct{}, error)
	devices   *netns.Interfaces // nil until asked

	flags   FlagReader   // nil: off
	buckets BucketReader // nil: without
	udp     UDPReader    // nil: off

	crowded time.Time // when there were too many Connections

	// Each is nil where it cannot be asked.
	stack      func() (stack.Stats, error)
	localPorts func() (first, last uint16, err error)
	reserved   func() ([]sock.PortRange, error)
	tcpSockets func() (uint64, error)
}

// maxKernelFilter is the number of ports up to which the kernel filters sockets. The kernel then
// copies no sockets of other ports, which most sockets have on most hosts. That makes a dump up to
// two fifths shorter. Where every socket is on a watched port, the filter makes the dump longer, by
// up to a sixth with 512 scattered ports. The kernel also audits the filter at each dump, in time
// that grows with the square of its size (docs/performance.md).
const maxKernelFilter = 1024

// Listeners implements Namespace.
func (n *namespace) Listeners(ctx context.Context, visitor Visitor, of ...uint16) error {
	req := netlinkdiag.Request{
		States:     netlinkdiag.States(sock.StateListen),
		Extensions: netlinkdiag.ExtensionSKMemInfo,
	}
	if len(of) <= maxKernelFilter {
		for _, p := range of {
			req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(p))
		}
	}
	if err := n.dump(ctx, req, visitor); err != nil {
		return fmt.Errorf("dump listening sockets: %w", err)
	}
	return nil
}

// Sockets implements Namespace.
func (n *namespace) Sockets(ctx context.Context, req netlinkdiag.Request, visitor Visitor) error {
	if len(req.Ports.Local)+len(req.Ports.Remote) > maxKernelFilter {
		req.Ports = netlinkdiag.PortFilter{}
	}
	if err := n.dump(ctx, req, visitor); err != nil {
		return fmt.Errorf("dump tcp sockets: %w", err)
	}
	return nil
}

// UDPSockets implements Namespace.
func (n *namespace) UDPSockets(ctx context.Context, visitor Visitor) error {
	req := netlinkdiag.Request{Protocol: netlinkdiag.ProtocolUDP, Extensions: netlinkdiag.ExtensionSKMemInfo}
	if err := n.dump(ctx, req, visitor); err != nil {
		return fmt.Errorf("dump udp sockets: %w", err)
	}
	return nil
}

// UDPPorts implements Namespace.
func (n *namespace) UDPPorts(ports []uint16) (map[uint16]*udphash.Port, error) {
	if n.udp == nil {
		return nil, ErrOff
	}
	return n.udp.Read(n.fd, ports)
}

func (n *namespace) dump(ctx context.Context, req netlinkdiag.Request, v Visitor) error {
	if n.conn == nil {
		conn, err := n.dial(n.fd)
		if err != nil {
			return err
		}
		n.conn = conn
	}
	var socket netlinkdiag.Socket // shared by all sockets: an argument of an interface method escapes to the heap
	for s, err := range n.conn.Dump(ctx, req) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			v.Reset()
		case err != nil:
			return err
		default:
			socket = s
			v.Add(&socket)
		}
	}
	return nil
}

// Stack implements Namespace.
func (n *namespace) Stack() (stack.Stats, error) {
	if n.stack == nil {
		return stack.Stats{}, ErrOff
	}
	return n.stack()
}

// LocalPorts implements Namespace.
func (n *namespace) LocalPorts() sock.PortRange {
	if n.localPorts == nil {
		return sock.PortRange{}
	}
	first, last, err := n.localPorts()
	if err != nil {
		return sock.PortRange{}
	}
	return sock.PortRange{First: first, Last: last}
}

// ReservedPorts implements Namespace.
func (n *namespace) ReservedPorts() ([]sock.PortRange, error) {
	if n.reserved == nil {
		return nil, ErrOff
	}
	return n.reserved()
}

// OnlyListeners implements Namespace.
func (n *namespace) OnlyListeners(listeners uint64) bool {
	if n.tcpSockets == nil {
		return false
	}
	sockets, err := n.tcpSockets()
	return err == nil && sockets == listeners
}

// Devices implements Namespace.
func (n *namespace) Devices(indices map[uint32]string) {
	names := netns.NewInterfaces(n.fd)
	defer names.Close()
	for index := range indices {
		indices[index] = names.Name(index)
	}
}

// LocalAddresses implements Namespace.
func (n *namespace) LocalAddresses() (map[netip.Addr]struct{}, error) {
	return n.addresses(n.fd)
}

// Address implements Namespace.
func (n *namespace) Address(addr netip.Addr, ifindex uint32) sock.Address {
	if n.devices == nil {
		n.devices = netns.NewInterfaces(n.fd)
	}
	return n.devices.State(addr, ifindex)
}

// maxTaken is how many ports TakenPorts looks at.
const maxTaken = 256

// TakenPorts implements Namespace.
func (n *namespace) TakenPorts(of sock.PortRange) (bound, chosen int) {
	if n.buckets == nil || of.Last == 0 {
		return 0, 0
	}
	// An odd step: connect() prefers even ports, and bind() odd ones.
	step := (int(of.Last)-int(of.First))/maxTaken | 1
	var numbers []uint16
	for p := int(of.First); p <= int(of.Last) && len(numbers) < maxTaken; p += step {
		numbers = append(numbers, uint16(p))
	}
	buckets, err := n.buckets.ReadBuckets(n.fd, numbers)
	if err != nil {
		return 0, 0
	}
	for _, b := range buckets {
		// __inet_hash_connect passes over a port with either.
		if b.FastReuse >= 0 || b.FastReusePort >= 0 {
			bound++
		} else {
			chosen++
		}
	}
	return bound, chosen
}

// crowdedPause is how long connections are not looked for at each local port after there were too many.
const crowdedPause = time.Minute

// Connections implements Namespace.
func (n *namespace) Connections(to *ports.Clients) error {
	of, except := to.LocalPorts()
	if n.buckets == nil || of.Last == 0 || time.Since(n.crowded) < crowdedPause {
		return ErrOff
	}
	found, err := n.buckets.ReadConnections(n.fd, of, except)
	if errors.Is(err, bindbucket.ErrTooMany) {
		n.crowded = time.Now()
	}
	if err != nil {
		return err
	}
	for _, c := range found {
		s := netlinkdiag.Socket{Family: sock.FamilyIPv6, State: c.State, Local: c.Local, Remote: c.Peer}
		if c.Local.Addr().Is4() {
			s.Family = sock.FamilyIPv4
		}
		to.Add(&s)
	}
	return nil
}

// Held implements Namespace.
func (n *namespace) Held(ports []uint16) ([]bindbucket.Held, error) {
	if n.buckets == nil {
		return nil, ErrOff
	}
	read, err := n.buckets.ReadHeld(n.fd, ports)
	if err != nil {
		return nil, err
	}
	return read.Held, nil
}

// Close implements Namespace.
func (n *namespace) Close() error {
	if n.devices != nil {
		n.devices.Close()
		n.devices = nil
	}
	if n.conn == nil {
		return nil
	}
	conn := n.conn
	n.conn = nil
	return conn.Close()
}
