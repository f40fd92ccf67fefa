package snapshot

import (
	"cmp"
	"net/netip"
	"slices"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// RemotePort are the TCP sockets that are connected to a watched remote port.
type RemotePort struct {
	Number     uint16
	IPv4, IPv6 RemoteSockets // as PortSockets
}

// RemoteSockets counts by netlinkdiag.State.
type RemoteSockets [netlinkdiag.NumStates]uint64

// Of is the family's half.
func (p *RemotePort) Of(f netlinkdiag.Family) *RemoteSockets {
	if f == netlinkdiag.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// Ephemeral is how many of the ports that the kernel chooses from are in use for the busiest
// destinations, of each family the busiest first. A destination is an address and port that is
// connected to, from one source address: the limit holds for each of them.
type Ephemeral struct {
	// IPv4 includes IPv4-mapped destinations of IPv6 sockets. All are less by Error at most.
	IPv4, IPv6 []uint64
	Error      uint64
}

// Of is the family's half.
func (e *Ephemeral) Of(f netlinkdiag.Family) []uint64 {
	if f == netlinkdiag.FamilyIPv6 {
		return e.IPv6
	}
	return e.IPv4
}

// busiest is of how many destinations a family has in an Ephemeral.
const busiest = 3

// A destination has as many local ports in use as there are connections to it.
type destination struct {
	source netip.Addr
	remote netip.AddrPort
}

// maxDestinations bounds what is counted at a time.
const maxDestinations = 8192

// destinations counts the heaviest of a stream, in bounded memory: when there is no room for
// one more, all lose one (Misra and Gries). So none is less than it should be by more than the
// length of the stream over maxDestinations.
type destinations struct {
	counts map[destination]uint64
	lost   uint64 // by each
}

func (d *destinations) add(s *netlinkdiag.Socket) {
	// Bits of the zone are left alone: it makes another destination.
	key := destination{
		source: s.Local.Addr().Unmap(),
		remote: netip.AddrPortFrom(s.Remote.Addr().Unmap(), s.Remote.Port()),
	}
	if _, ok := d.counts[key]; ok || len(d.counts) < maxDestinations {
		d.counts[key]++
		return
	}
	d.lost++
	for other, n := range d.counts {
		if n == 1 {
			delete(d.counts, other)
			continue
		}
		d.counts[other] = n - 1
	}
}

func (d *destinations) busiest() Ephemeral {
	e := Ephemeral{Error: d.lost}
	for key, n := range d.counts {
		half := &e.IPv6
		if key.remote.Addr().Is4() {
			half = &e.IPv4
		}
		*half = append(*half, n)
	}
	for _, half := range []*[]uint64{&e.IPv4, &e.IPv6} {
		slices.SortFunc(*half, func(a, b uint64) int { return cmp.Compare(b, a) })
		*half = slices.Clip((*half)[:min(len(*half), busiest)])
	}
	return e
}

// clients counts connections by what they are connected to, beside a fold.
type clients struct {
	remote     *ports.Fixed   // nil: none
	ports      []RemotePort   // as remote's
	localPorts sock.PortRange // that the kernel chooses from; empty: not counted
	// serving are those of them that a server has: connect() is given no port that was bound.
	serving map[uint16]struct{}
	to      destinations
}

func newClients(remote *ports.Fixed, localPorts sock.PortRange) *clients {
	c := &clients{remote: remote, localPorts: localPorts}
	c.reset()
	return c
}

func (c *clients) reset() {
	c.ports = nil
	for _, number := range c.remote.Numbers() {
		c.ports = append(c.ports, RemotePort{Number: number})
	}
	c.to = destinations{counts: make(map[destination]uint64)}
}

// filter lets what is counted pass.
func (c *clients) filter() netlinkdiag.PortFilter {
	var f netlinkdiag.PortFilter
	for _, r := range c.remote.Ranges() {
		f.Remote = append(f.Remote, netlinkdiag.PortRange(r))
	}
	if c.localPorts != (sock.PortRange{}) {
		f.Local = []netlinkdiag.PortRange{netlinkdiag.PortRange(c.localPorts)}
	}
	return f
}

func (c *clients) add(s *netlinkdiag.Socket) {
	if i, ok := c.remote.Find(s.Remote.Port()); ok {
		c.ports[i].Of(s.Family)[s.State]++
	}
	if port := s.Local.Port(); port >= c.localPorts.First && port <= c.localPorts.Last && port != 0 && s.Remote.Port() != 0 && !c.serves(port) {
		c.to.add(s)
	}
}

func (c *clients) serves(port uint16) bool {
	if len(c.serving) == 0 {
		return false
	}
	_, ok := c.serving[port]
	return ok
}

// serve takes the ports that have a listener, or were found by one: its connections stay when it
// goes.
func (c *clients) serve(listening []listener, set ports.Set) {
	c.serving = make(map[uint16]struct{})
	note := func(port uint16) {
		if port >= c.localPorts.First && port <= c.localPorts.Last {
			c.serving[port] = struct{}{}
		}
	}
	for i := range listening {
		note(listening[i].key.Port)
	}
	for _, p := range set.Ports {
		if p.Source == ports.SourceListener {
			note(p.Number)
		}
	}
}
