package ports

import (
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// PortSockets are the TCP sockets whose local port is a watched one.
type PortSockets struct {
	Number uint16
	IPv4   FamilySockets // sockets of AF_INET
	IPv6   FamilySockets // sockets of AF_INET6, IPv4-mapped ones included

	// Unseen are the states that were not looked for: their counts are not known.
	Unseen sock.StateSet
}

// FamilySockets are the sockets of one port and family.
type FamilySockets struct {
	// States counts the sockets by sock.State.
	States [sock.NumStates]uint64

	// TimeWaitRemaining is the time until the last socket in StateTimeWait expires.
	TimeWaitRemaining time.Duration
}

// Of returns the counts of a family.
func (p *PortSockets) Of(f sock.Family) *FamilySockets {
	if f == sock.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// onlyListeners: the port has no socket but listeners.
func (p *PortSockets) onlyListeners() bool {
	for s := range p.IPv4.States {
		if sock.State(s) != sock.StateListen && p.IPv4.States[s]+p.IPv6.States[s] > 0 {
			return false
		}
	}
	return true
}

// A Counter counts a stream of TCP sockets per watched port.
type Counter struct {
	set    watch.Set
	ports  []PortSockets // as set.Ports
	unseen sock.StateSet // as PortSockets.Unseen
}

// NewCounter counts the sockets of the ports in set. States in unseen are not looked for.
func NewCounter(set watch.Set, unseen sock.StateSet) *Counter {
	c := &Counter{set: set, ports: make([]PortSockets, len(set.Ports)), unseen: unseen}
	c.Reset()
	return c
}

// Reset forgets all sockets.
func (c *Counter) Reset() {
	for i := range c.ports {
		c.ports[i] = PortSockets{Number: c.set.Ports[i].Number, Unseen: c.unseen}
	}
}

// Add counts a socket, and returns the position of its port among the watched ones, or -1.
func (c *Counter) Add(s *netlinkdiag.Socket) int { return c.AddMany(s, 1) }

// AddMany is Add for a number of equal sockets.
func (c *Counter) AddMany(s *netlinkdiag.Socket, n uint64) int {
	i, ok := c.set.Find(s.Local.Port())
	if !ok {
		return -1
	}
	half := c.ports[i].Of(s.Family)
	half.States[s.State] += n
	if s.State == sock.StateTimeWait {
		half.TimeWaitRemaining = max(half.TimeWaitRemaining, s.Expires)
	}
	return i
}

// AddAll counts what another Counter of the same set has counted, too.
func (c *Counter) AddAll(o *Counter) {
	for i := range c.ports {
		for _, f := range sock.Families() {
			to, from := c.ports[i].Of(f), o.ports[i].Of(f)
			for state, n := range from.States {
				to.States[state] += n
			}
			to.TimeWaitRemaining = max(to.TimeWaitRemaining, from.TimeWaitRemaining)
		}
	}
}

// Ports returns the counts: Ports()[i] is about the i-th port of the set.
func (c *Counter) Ports() []PortSockets { return c.ports }

// Lingering returns the ports that have a socket other than a listener.
func (c *Counter) Lingering() []uint16 {
	var out []uint16
	for i := range c.ports {
		if !c.ports[i].onlyListeners() {
			out = append(out, c.ports[i].Number)
		}
	}
	return out
}
