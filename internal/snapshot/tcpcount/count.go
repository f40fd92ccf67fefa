// Package tcpcount counts what a dump or a walk of TCP sockets shows.
package tcpcount

import (
	"net/netip"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A Count is what was shown so far. It is a probe.Visitor and a probe.ConnectionVisitor.
type Count struct {
	Set     watch.Set
	Counter *ports.Counter
	Clients *ports.Clients

	// Views collect the connections of a walk, which have their flags, and the sockets of a dump
	// whose flags are not read: all sockets if All is set, otherwise those that are only bound.
	Views []verdict.View // by Set.Ports
	All   bool

	// CountBound counts sockets that are only bound. Where a dump does not show them, their number would
	// depend on the way that was taken.
	CountBound bool
}

// Reset implements probe.Visitor.
func (c *Count) Reset() {
	c.Counter.Reset()
	c.Clients.Reset()
	for i := range c.Views {
		c.Views[i].ResetSockets()
	}
}

// Add implements probe.Visitor. It runs once per socket.
func (c *Count) Add(s *netlinkdiag.Socket) {
	c.Clients.Add(s)
	if i := c.Counter.Add(s); i >= 0 && (c.All || s.State == sock.StateClose) {
		c.Views[i].Add(s)
	}
}

// AddConnections implements probe.ConnectionVisitor.
func (c *Count) AddConnections(s *probe.Connections) {
	c.Clients.AddMany(&s.Socket, s.Count)
	if s.State != sock.StateClose || c.CountBound {
		c.Counter.AddMany(&s.Socket, s.Count)
	}
	if i, ok := c.Set.Find(s.Local.Port()); ok {
		c.Views[i].AddMany(&s.Socket, s.Kind, verdict.Flags{ReuseAddr: s.ReuseAddr, ReusePort: s.ReusePort}, s.Count)
	}
}

// AddFlagged counts the sockets whose flags were read: all of them, or those that are only bound.
func (c *Count) AddFlagged(sockets []probe.PortSocket, all bool) {
	for i := range sockets {
		s := &sockets[i]
		if bound := s.State == sock.StateClose; bound && !c.CountBound || !bound && !all {
			continue
		}
		of := netlinkdiag.Socket{Family: sock.FamilyIPv6, State: s.State, Local: netip.AddrPortFrom(s.Addr, s.Port), Expires: s.Expires}
		if s.Addr.Is4() {
			of.Family = sock.FamilyIPv4
		}
		c.Counter.AddMany(&of, s.Count)
	}
}

// Sockets returns how many are on the watched ports, listeners included.
func (c *Count) Sockets() (n uint64) {
	for _, p := range c.Counter.Ports() {
		for state := range p.IPv4.States {
			n += p.IPv4.States[state] + p.IPv6.States[state]
		}
	}
	return n
}
