package probetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// A Question is one that a Namespace can be asked and that can fail.
type Question string

// The questions, by the method that asks them.
const (
	Listeners  Question = "Listeners"
	Sockets    Question = "Sockets"
	UDPSockets Question = "UDPSockets"
	Flags      Question = "Flags"
	Stack      Question = "Stack"
	Held       Question = "Held"
	Close      Question = "Close"
)

// A Namespace is a probe.Namespace. The zero Namespace is empty, and reads no flags and no counters.
// The fields are set before it is asked.
type Namespace struct {
	// TCP and UDP are the sockets. StateClose stands for a bound TCP socket that neither listens
	// nor connects.
	TCP, UDP []netlinkdiag.Socket

	// Errs has the questions that fail, with their errors.
	Errs map[Question]error

	// Interrupt makes Sockets begin anew once, after the first socket.
	Interrupt bool

	// Scope says whose flags are read, and ReuseFlags has them by socket cookie. Sockets without
	// an entry are those whose flags cannot be read.
	Scope      probe.FlagScope
	ReuseFlags map[uint64]sock.ReuseFlags
	Buckets    map[uint16]bindrule.Bucket

	Stats         *stack.Stats   // nil: off
	LocalPortsAre sock.PortRange // net.ipv4.ip_local_port_range
	Reserved      []sock.PortRange
	TCPSockets    *uint64 // what the kernel counts; nil: it is not asked
	DeviceNames   map[uint32]string

	// Addresses are the local ones; nil: every address is.
	Addresses map[netip.Addr]struct{}

	AddressStates map[netip.Addr]sock.Address
	Bound, Chosen int // of TakenPorts

	HeldSockets []bindbucket.Held

	mu    sync.Mutex
	asked []Question
}

var _ probe.Namespace = (*Namespace)(nil)

// UDPPorts implements probe.Namespace. It is off: UDPSockets has the sockets.
func (*Namespace) UDPPorts([]uint16) (map[uint16]*udphash.Port, error) { return nil, probe.ErrOff }

// Held implements probe.Namespace.
func (n *Namespace) Held(ports []uint16) ([]bindbucket.Held, error) {
	if err := n.ask(context.Background(), Held); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(n.HeldSockets), func(h bindbucket.Held) bool { return !slices.Contains(ports, h.Port) }), nil
}

// Asked returns the questions so far, in order.
func (n *Namespace) Asked() []Question {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

// ask notes a question, and returns its error.
func (n *Namespace) ask(ctx context.Context, q Question) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, q)
	if err := n.Errs[q]; err != nil {
		return err
	}
	return context.Cause(ctx)
}

// Listeners implements probe.Namespace.
func (n *Namespace) Listeners(ctx context.Context, visitor probe.Visitor, of ...uint16) error {
	if err := n.ask(ctx, Listeners); err != nil {
		return fmt.Errorf("dump listening sockets: %w", err)
	}
	for i := range n.TCP {
		s := n.TCP[i]
		if s.State == sock.StateListen && (len(of) == 0 || slices.Contains(of, s.Local.Port())) {
			visitor.Add(&s)
		}
	}
	return nil
}

// Sockets implements probe.Namespace.
func (n *Namespace) Sockets(ctx context.Context, req netlinkdiag.Request, visitor probe.Visitor) error {
	if err := n.ask(ctx, Sockets); err != nil {
		return fmt.Errorf("dump tcp sockets: %w", err)
	}
	var found []netlinkdiag.Socket
	for i := range n.TCP {
		if passes(&req, &n.TCP[i]) {
			found = append(found, shown(&req, n.TCP[i]))
		}
	}
	if n.Interrupt && len(found) > 0 {
		s := found[0]
		visitor.Add(&s)
		visitor.Reset()
	}
	for i := range found {
		visitor.Add(&found[i])
	}
	return nil
}

// shown is what sock_diag shows of a socket.
func shown(req *netlinkdiag.Request, s netlinkdiag.Socket) netlinkdiag.Socket {
	if req.Extensions&netlinkdiag.ExtensionSKMemInfo == 0 {
		s.Mem, s.HasMem = netlinkdiag.MemInfo{}, false
	}
	s.V6Only = s.V6Only && (s.State == sock.StateListen || s.State == sock.StateClose)
	return s
}

func passes(req *netlinkdiag.Request, s *netlinkdiag.Socket) bool {
	states, asked := req.States, s.State
	if states == 0 {
		states = netlinkdiag.AllStates
	}
	if asked == sock.StateClose {
		asked = netlinkdiag.StateBoundInactive
	}
	if !states.Has(asked) || req.Family != netlinkdiag.FamilyAny && req.Family != s.Family {
		return false
	}
	return req.Ports.Match(s.Local.Port(), s.Remote.Port())
}

// Connections implements probe.Namespace.
func (*Namespace) Connections(*ports.Clients) error { return probe.ErrOff }

// UDPSockets implements probe.Namespace.
func (n *Namespace) UDPSockets(ctx context.Context, visitor probe.Visitor) error {
	if err := n.ask(ctx, UDPSockets); err != nil {
		return fmt.Errorf("dump udp sockets: %w", err)
	}
	for _, family := range []sock.Family{sock.FamilyIPv4, sock.FamilyIPv6} { // one dump of each
		for i := range n.UDP {
			if s := n.UDP[i]; s.Family == family {
				visitor.Add(&s)
			}
		}
	}
	return nil
}

// Flags implements probe.Namespace.
func (n *Namespace) Flags(ctx context.Context, req probe.FlagRequest) (*probe.Flags, error) {
	if n.Scope == probe.FlagsOff {
		return nil, probe.ErrOff
	}
	if err := n.ask(ctx, Flags); err != nil {
		return nil, err
	}
	out := &probe.Flags{Listeners: make(map[uint64]sock.ReuseFlags), Buckets: make(map[uint16]bindrule.Bucket), At: time.Now()}
	for i := range req.Listeners {
		if f, ok := n.ReuseFlags[req.Listeners[i].Cookie]; ok {
			out.Listeners[req.Listeners[i].Cookie] = f
		}
	}
	if n.Scope != probe.FlagsOfAll {
		return out, nil
	}
	for _, port := range req.Ports {
		if b, ok := n.Buckets[port]; ok {
			out.Buckets[port] = b
		}
	}
	if !req.OnlyListeners {
		n.addSockets(out, req.Ports)
	}
	return out, nil
}

// addSockets adds the sockets that an eBPF iterator meets: no listeners, and none that are only
// bound.
func (n *Namespace) addSockets(out *probe.Flags, of []uint16) {
	for i := range n.TCP {
		s := &n.TCP[i]
		port := s.Local.Port()
		if s.State == sock.StateListen || s.State == sock.StateClose || !slices.Contains(of, port) {
			continue
		}
		f, ok := n.ReuseFlags[s.Cookie]
		if !ok {
			if out.Missed == nil {
				out.Missed = make(map[uint16]uint64)
			}
			out.Missed[port]++
			continue
		}
		b := bindrule.Socket{
			Addr: s.Local.Addr(), Ifindex: s.Ifindex, State: s.State, Count: 1,
			V6Only: bindrule.FlagOf(s.V6Only), ReuseAddr: bindrule.FlagOf(f.ReuseAddr), ReusePort: bindrule.FlagOf(f.ReusePort),
		}
		switch {
		case s.Timer == netlinkdiag.TimerTimeWait:
			b.Kind, b.Expires = sock.KindTimeWait, s.Expires
		case s.State == sock.StateSynRecv:
			b.Kind, b.V6Only, b.Addr = sock.KindRequest, bindrule.No, netip.IPv6Unspecified()
			if s.Family == sock.FamilyIPv4 {
				b.Addr = netip.IPv4Unspecified()
			}
		default:
			b.UID = bindrule.UIDOf(s.UID)
		}
		out.Sockets = append(out.Sockets, probe.PortSocket{Port: port, Socket: b})
	}
}

// FlagScope implements probe.Namespace.
func (n *Namespace) FlagScope() probe.FlagScope { return n.Scope }

// Stack implements probe.Namespace.
func (n *Namespace) Stack() (stack.Stats, error) {
	if n.Stats == nil {
		return stack.Stats{}, probe.ErrOff
	}
	return *n.Stats, n.ask(context.Background(), Stack)
}

// LocalPorts implements probe.Namespace.
func (n *Namespace) LocalPorts() sock.PortRange { return n.LocalPortsAre }

// ReservedPorts implements probe.Namespace.
func (n *Namespace) ReservedPorts() ([]sock.PortRange, error) { return n.Reserved, nil }

// OnlyListeners implements probe.Namespace.
func (n *Namespace) OnlyListeners(listeners uint64) bool {
	return n.TCPSockets != nil && *n.TCPSockets == listeners
}

// LocalAddresses implements probe.Namespace.
func (n *Namespace) LocalAddresses() (map[netip.Addr]struct{}, error) {
	if n.Addresses == nil {
		return nil, errors.ErrUnsupported
	}
	return n.Addresses, nil
}

// Devices implements probe.Namespace.
func (n *Namespace) Devices(names map[uint32]string) {
	for index := range names {
		name, ok := n.DeviceNames[index]
		if !ok {
			name = fmt.Sprintf("if%d", index)
		}
		names[index] = name
	}
}

// Address implements probe.Namespace.
func (n *Namespace) Address(addr netip.Addr, _ uint32) sock.Address { return n.AddressStates[addr] }

// TakenPorts implements probe.Namespace.
func (n *Namespace) TakenPorts(sock.PortRange) (bound, chosen int) { return n.Bound, n.Chosen }

// Close implements probe.Namespace.
func (n *Namespace) Close() error { return n.ask(context.Background(), Close) }
