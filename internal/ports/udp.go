package ports

import (
	"time"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// UDP is the sockets of watched UDP ports.
type UDP struct {
	Watch Set
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

// A UDPSocket is one UDP socket. Its GroupKey has port and family alone.
type UDPSocket struct {
	Listener
	Connected bool
}

// NewUDPSocket returns the UDPSocket of a socket in a dump.
func NewUDPSocket(s *netlinkdiag.Socket) UDPSocket {
	l := NewListener(s)
	l.GroupKey = GroupKey{Port: l.Port, Family: l.Family}
	return UDPSocket{Listener: l, Connected: s.State != sock.StateClose}
}

// A UDPWatcher discovers UDP ports and counts their sockets, in one network namespace, from one
// snapshot to the next.
type UDPWatcher struct {
	watcher *Watcher
	set     Set // the latest
	drops   *DropCounter

	looked bool // at least once
	// young has the time at which a socket was first seen that may be a client's, by cookie.
	young map[uint64]time.Time
}

// serverAge is the age from which a UDP socket counts as a server's: resolvers open one for each
// query, on any port from lowPorts up.
const (
	serverAge = time.Minute
	lowPorts  = 1024
)

// NewUDPWatcher returns a UDPWatcher that takes its ports from watcher.
func NewUDPWatcher(watcher *Watcher, retention time.Duration) *UDPWatcher {
	return &UDPWatcher{watcher: watcher, set: watcher.Update(time.Time{}, nil), drops: NewDropCounter(retention)}
}

// Set returns the latest set of watched ports.
func (u *UDPWatcher) Set() Set { return u.set }

// Close gives the ports back to the budget.
func (u *UDPWatcher) Close() { u.watcher.Close() }

// servers are the ports to discover. A port that the kernel may have chosen itself, for a client,
// is left out: such ports come and go with every query. So is a port whose sockets are too young,
// unless they are there when the exporter first looks.
func (u *UDPWatcher) servers(now time.Time, sockets []UDPSocket, chosen sock.PortRange) []uint16 {
	var ports []uint16
	before := u.young
	u.young = make(map[uint64]time.Time)
	for i := range sockets {
		s := &sockets[i]
		_, watched := u.set.Find(s.Port)
		switch {
		case s.Connected:
		case u.watcher.Asked(s.Port), watched, s.Port < lowPorts:
			ports = append(ports, s.Port)
		case s.Port >= chosen.First && s.Port <= chosen.Last:
		case !u.looked:
			ports = append(ports, s.Port)
		default:
			since, seen := before[s.Cookie]
			if !seen {
				since = now
			}
			if now.Sub(since) >= serverAge {
				ports = append(ports, s.Port)
			}
			u.young[s.Cookie] = since
		}
	}
	u.looked = true
	return ports
}

// Update discovers ports and counts the sockets. chosen is ip_local_port_range, empty where it is
// not known.
func (u *UDPWatcher) Update(now time.Time, sockets []UDPSocket, chosen sock.PortRange) UDP {
	u.set = u.watcher.Update(now, u.servers(now, sockets, chosen))

	out := UDP{Watch: u.set, Ports: make([]UDPPort, len(u.set.Ports))}
	for i, p := range u.set.Ports {
		out.Ports[i] = UDPPort{Number: p.Number, IPv4: UDPSockets{DropsKnown: true}, IPv6: UDPSockets{DropsKnown: true}}
		for _, family := range bothFamilies {
			u.drops.Hold(now, GroupKey{Port: p.Number, Family: family})
		}
	}
	var counted []Listener
	for n := range sockets {
		s := &sockets[n].Listener
		i, ok := u.set.Find(s.Port)
		if ok || u.drops.Knows(s.GroupKey) { // a port may be watched again
			counted = append(counted, *s)
		}
		if !ok {
			continue
		}
		half := out.Ports[i].Of(s.Family)
		half.Sockets++
		half.Queue += uint64(s.Queue)
		half.DropsKnown = half.DropsKnown && s.DropsKnown
	}
	u.drops.Update(now, counted)
	for i := range out.Ports {
		for _, family := range bothFamilies {
			out.Ports[i].Of(family).Drops = u.drops.Total(GroupKey{Port: out.Ports[i].Number, Family: family})
		}
	}
	return out
}

var bothFamilies = []sock.Family{sock.FamilyIPv4, sock.FamilyIPv6}
