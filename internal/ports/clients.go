package ports

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A RemotePort has the TCP sockets that are connected to a watched remote port.
type RemotePort struct {
	Number     uint16
	IPv4, IPv6 RemoteSockets // split as in PortSockets
}

// RemoteSockets counts by sock.State.
type RemoteSockets [sock.NumStates]uint64

// Of returns the counts of a family.
func (p *RemotePort) Of(f sock.Family) *RemoteSockets {
	if f == sock.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// Ephemeral counts, for the busiest destinations of each family, the local ports in use out of
// those that the kernel chooses from. The busiest comes first. A destination is a remote address
// and port, seen from one source address: the kernel's limit holds for each destination.
type Ephemeral struct {
	// IPv4 includes IPv4-mapped destinations of IPv6 sockets. Each count may be too low by
	// Error, and is never too high.
	IPv4, IPv6 []uint64
	Error      uint64
}

// Of returns the counts of a family.
func (e *Ephemeral) Of(f sock.Family) []uint64 {
	if f == sock.FamilyIPv6 {
		return e.IPv6
	}
	return e.IPv4
}

// busiest is the number of destinations of a family in an Ephemeral.
const busiest = 3

// A destination uses as many local ports as there are connections to it.
type destination struct {
	source netip.Addr
	remote netip.AddrPort
}

// maxDestinations bounds the destinations that are counted at a time.
const maxDestinations = 8192

// destinations counts the most frequent destinations of a stream in bounded memory (Misra and
// Gries): when there is no room for one more, every count loses the same. So no count is too low by
// more than the length of the stream over maxDestinations.
type destinations struct {
	counts map[destination]uint64
	lost   uint64 // what every count has lost
	room   *Room  // shared with others; nil: there is room for maxDestinations
}

// A Room is shared by Clients that count at the same time, in one goroutine: any user can make many network
// namespaces, each with many destinations. Each Clients has a share of it, and more while some is left.
type Room struct {
	left  int // below 0 where shares were used after others had taken more than theirs
	share int
}

// maxShared is as much as some namespaces have that are asked one by one.
const maxShared = 4 * maxDestinations

// NewRoom makes one for a number of Clients.
func NewRoom(clients int) *Room {
	return &Room{left: maxShared, share: max(1, min(maxDestinations, maxShared/max(1, clients)))}
}

func (d *destinations) hasRoom() bool {
	if d.room == nil {
		return len(d.counts) < maxDestinations
	}
	return len(d.counts) < d.room.share || d.room.left > 0 && len(d.counts) < maxDestinations
}

// resized notes that there were so many counts before.
func (d *destinations) resized(before int) {
	if d.room != nil {
		d.room.left -= len(d.counts) - before
	}
}

func (d *destinations) add(s *netlinkdiag.Socket, n uint64) {
	// The zone stays: another zone is another destination.
	key := destination{
		source: s.Local.Addr().Unmap(),
		remote: netip.AddrPortFrom(s.Remote.Addr().Unmap(), s.Remote.Port()),
	}
	before := len(d.counts)
	d.count(key, n)
	d.resized(before)
}

func (d *destinations) count(key destination, n uint64) {
	if _, ok := d.counts[key]; ok || d.hasRoom() {
		d.counts[key] += n
		return
	}
	// Each count, and that of the new one, loses as much as one of them has.
	loss := n
	for _, count := range d.counts {
		loss = min(loss, count)
	}
	d.lost += loss
	for other, count := range d.counts {
		if count == loss {
			delete(d.counts, other)
			continue
		}
		d.counts[other] = count - loss
	}
	if n > loss {
		d.counts[key] = n - loss
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

// Clients counts connections by their remote end.
type Clients struct {
	remote     *watch.Fixed   // nil: none
	ports      []RemotePort   // by the numbers of remote
	localPorts sock.PortRange // ip_local_port_range; empty: destinations are not counted
	// serving has the ports of localPorts that belong to a server: connect() is given no port
	// that was bound.
	serving map[uint16]struct{}
	to      destinations
}

// NewClients counts the sockets to remote ports, and the destinations of sockets whose local port
// is in localPorts, unless that is one of the listening ports, or a watched port that had a listener.
func NewClients(remote *watch.Fixed, localPorts sock.PortRange, listening iter.Seq[uint16], set watch.Set) *Clients {
	c := &Clients{remote: remote, localPorts: localPorts}
	c.serve(listening, set)
	c.Reset()
	return c
}

// Reset forgets all sockets.
func (c *Clients) Reset() {
	c.ports = nil
	for _, number := range c.remote.Numbers() {
		c.ports = append(c.ports, RemotePort{Number: number})
	}
	before := len(c.to.counts)
	c.to.counts, c.to.lost = make(map[destination]uint64), 0
	c.to.resized(before)
}

// Share counts destinations in a Room. It is called before sockets are added.
func (c *Clients) Share(r *Room) { c.to.room = r }

// Filter lets the sockets pass that are counted.
func (c *Clients) Filter() netlinkdiag.PortFilter {
	var f netlinkdiag.PortFilter
	f.Remote = append(f.Remote, c.remote.Ranges()...)
	if c.localPorts != (sock.PortRange{}) {
		f.Local = []sock.PortRange{c.localPorts}
	}
	return f
}

// Add counts a socket.
func (c *Clients) Add(s *netlinkdiag.Socket) { c.AddMany(s, 1) }

// AddMany is Add for a number of equal sockets. A socket whose connection was reset, or is in TIME_WAIT now, can keep
// its peer, but it is no connection.
func (c *Clients) AddMany(s *netlinkdiag.Socket, n uint64) {
	if s.State == sock.StateClose {
		return
	}
	if i, ok := c.remote.Find(s.Remote.Port()); ok {
		c.ports[i].Of(s.Family)[s.State] += n
	}
	if port := s.Local.Port(); c.localPorts.Contains(port) && port != 0 && s.Remote.Port() != 0 && !c.serves(port) {
		c.to.add(s, n)
	}
}

// LocalPorts returns the local ports whose destinations are counted, and those among them that are left
// out.
func (c *Clients) LocalPorts() (of sock.PortRange, except []uint16) {
	return c.localPorts, slices.Sorted(maps.Keys(c.serving))
}

func (c *Clients) serves(port uint16) bool {
	if len(c.serving) == 0 {
		return false
	}
	_, ok := c.serving[port]
	return ok
}

// serve notes the ports that have a listener, and those that are watched because they had one:
// connections stay when their listener goes.
func (c *Clients) serve(listening iter.Seq[uint16], set watch.Set) {
	c.serving = make(map[uint16]struct{})
	note := func(port uint16) {
		if c.localPorts.Contains(port) {
			c.serving[port] = struct{}{}
		}
	}
	for port := range listening {
		note(port)
	}
	for _, p := range set.Ports {
		if p.Source == watch.SourceListener {
			note(p.Number)
		}
	}
}

// Remote returns the counts of the remote ports.
func (c *Clients) Remote() []RemotePort { return c.ports }

// Ephemeral returns the counts of the busiest destinations.
func (c *Clients) Ephemeral() Ephemeral { return c.to.busiest() }
