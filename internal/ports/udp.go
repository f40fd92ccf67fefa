package ports

import (
	"maps"
	"slices"
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// UDP is the sockets of watched UDP ports.
type UDP struct {
	Watch watch.Set
	Ports []UDPPort // Ports[i] is about Watch.Ports[i]
}

// A UDPPort has the UDP sockets whose local port is a watched one, connected ones included.
type UDPPort struct {
	Number     uint16
	IPv4, IPv6 UDPSockets // split as in PortSockets
}

// Of returns the counts of a family.
func (p *UDPPort) Of(f sock.Family) *UDPSockets {
	if f == sock.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// UDPSockets are the sockets of one port and family.
type UDPSockets struct {
	Sockets uint64
	Queue   uint64 // bytes that wait to be read, with the kernel's overhead

	// Drops counts the datagrams that were dropped here, by all the sockets that were ever seen on
	// the port: it never falls. DropsKnown is false where the kernel did not say.
	Drops      uint64
	DropsKnown bool
}

// A UDPListing is what a dump of all UDP sockets of a network namespace has shown. It is a
// probe.Visitor. Its memory is bounded by the ports that there are, whatever is bound to them.
type UDPListing struct {
	drops   *DropCounter
	seen    cookies
	servers map[uint16]watch.Server // by port, of the oldest socket that is not connected
	sockets map[GroupKey]*UDPSockets
}

// udpKey is a GroupKey with port and family alone.
func udpKey(port uint16, family sock.Family) GroupKey { return GroupKey{Port: port, Family: family} }

// Reset implements probe.Visitor.
func (u *UDPListing) Reset() {
	u.seen, u.servers, u.sockets = make(cookies), make(map[uint16]watch.Server), make(map[GroupKey]*UDPSockets)
}

// Add implements probe.Visitor.
func (u *UDPListing) Add(s *netlinkdiag.Socket) {
	l := NewListener(s)
	l.GroupKey = udpKey(l.Port, l.Family)
	u.drops.Add(&l) // of all ports: one may be watched again
	if !u.seen.isNew(l.Cookie) {
		return
	}
	half := u.sockets[l.GroupKey]
	if half == nil {
		half = &UDPSockets{DropsKnown: true}
		u.sockets[l.GroupKey] = half
	}
	half.Sockets++
	half.Queue += uint64(l.Queue)
	half.DropsKnown = half.DropsKnown && l.DropsKnown
	if s.State != sock.StateClose { // it is connected
		return
	}
	if o, ok := u.servers[l.Port]; !ok || l.Cookie < o.Cookie {
		u.servers[l.Port] = watch.Server{Port: l.Port, UID: l.UID, Cookie: l.Cookie}
	}
}

// A UDPWatcher discovers UDP ports and counts their sockets, in one network namespace, from one
// snapshot to the next.
type UDPWatcher struct {
	watcher *watch.Watcher
	drops   *DropCounter
}

// NewUDPWatcher returns a UDPWatcher that takes its ports from watcher.
func NewUDPWatcher(watcher *watch.Watcher, retention time.Duration) *UDPWatcher {
	return &UDPWatcher{watcher: watcher, drops: NewDropCounter(retention)}
}

// Set returns the latest set of watched ports.
func (u *UDPWatcher) Set() watch.Set { return u.watcher.Set() }

// Close gives the ports back to the budget.
func (u *UDPWatcher) Close() { u.watcher.Close() }

// Begin begins a dump.
func (u *UDPWatcher) Begin(now time.Time) *UDPListing {
	u.drops.Begin(now)
	l := &UDPListing{drops: u.drops}
	l.Reset()
	return l
}

// Update discovers ports and counts the sockets of a complete dump. chosen is ip_local_port_range,
// empty where it is not known.
func (u *UDPWatcher) Update(now time.Time, listing *UDPListing, chosen sock.PortRange) UDP {
	set := u.watcher.Discover(now, slices.Collect(maps.Values(listing.servers)), chosen)
	out := UDP{Watch: set, Ports: make([]UDPPort, len(set.Ports))}
	for i, p := range set.Ports {
		port := UDPPort{Number: p.Number}
		for _, family := range sock.Families() {
			key := udpKey(p.Number, family)
			u.drops.Hold(key)
			half := UDPSockets{DropsKnown: true}
			if found := listing.sockets[key]; found != nil {
				half = *found
			}
			half.Drops = u.drops.Total(key)
			*port.Of(family) = half
		}
		out.Ports[i] = port
	}
	u.drops.End()
	return out
}
