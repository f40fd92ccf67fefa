package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// UDP is the sockets of watched UDP ports.
type UDP struct {
	Watch ports.Set
	Ports []UDPPort // Ports[i] is of Watch.Ports[i]
}

// UDPPort are the UDP sockets whose local port is a watched one, connected ones included.
type UDPPort struct {
	Number     uint16
	IPv4, IPv6 UDPSockets // as PortSockets
}

// Of is the family's half.
func (p *UDPPort) Of(f netlinkdiag.Family) *UDPSockets {
	if f == netlinkdiag.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// UDPSockets are the sockets of one port and family.
type UDPSockets struct {
	Sockets uint64
	Queue   uint64 // bytes that wait to be read, with the kernel's overhead

	// Drops is how many datagrams were dropped here, by all the sockets that were ever seen on
	// the port: it never falls. DropsKnown is false where the kernel did not say.
	Drops      uint64
	DropsKnown bool
}

// A datagramSocket is what is kept of a UDP socket.
type datagramSocket struct {
	listener      // of its port and family; queue is in bytes
	serves   bool // it is not connected: whoever sends to the port
}

// udpWorker is what of a worker is about UDP.
type udpWorker struct {
	watcher *ports.Watcher
	set     ports.Set // the latest
	drops   *dropCounter

	looked  bool                 // once at least
	newborn map[uint64]time.Time // when sockets were seen first that may be a client's, by cookie
}

// grownUp is the age at which a UDP socket is taken for a server's: resolvers open one for each
// query, on any port from lowPorts up.
const (
	grownUp  = time.Minute
	lowPorts = 1024
)

func newUDPWorker(watcher *ports.Watcher, retention time.Duration) *udpWorker {
	return &udpWorker{watcher: watcher, set: watcher.Update(time.Time{}, nil), drops: newDropCounter(retention)}
}

// udp dumps all UDP sockets, for there are few as a rule, and counts those on watched ports.
func (w *worker) readUDP(ctx context.Context) (UDP, error) {
	if w.udp == nil {
		return UDP{}, ErrOff
	}
	sockets, err := w.dumpUDP(ctx)
	if err != nil {
		// As with TCP: no port may go because we could not look.
		return UDP{Watch: w.udp.set}, err
	}
	return w.udp.fold(time.Now(), sockets, w.localPorts), nil
}

func (w *worker) dumpUDP(ctx context.Context) ([]datagramSocket, error) {
	if err := w.dial(); err != nil {
		return nil, err
	}
	var sockets []datagramSocket
	req := netlinkdiag.Request{Protocol: netlinkdiag.ProtocolUDP, Extensions: netlinkdiag.ExtensionSKMemInfo}
	for s, err := range w.conn.Dump(ctx, req) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			sockets = sockets[:0]
		case err != nil:
			return nil, fmt.Errorf("dump udp sockets: %w", err)
		default:
			l := newListener(&s)
			l.key = GroupKey{Port: s.Local.Port(), Family: s.Family}
			sockets = append(sockets, datagramSocket{listener: l, serves: s.State == netlinkdiag.StateClose})
		}
	}
	return sockets, nil
}

// servers are the ports to discover. One that the kernel may have chosen itself, for a client,
// is none: such ports come and go with every query. Nor is one of a socket that is too young,
// but for those that are there when the exporter first looks.
func (u *udpWorker) servers(now time.Time, sockets []datagramSocket, chosen sock.PortRange) []uint16 {
	var ports []uint16
	before := u.newborn
	u.newborn = make(map[uint64]time.Time)
	for i := range sockets {
		s := &sockets[i]
		port := s.key.Port
		_, watched := u.set.Find(port)
		switch {
		case !s.serves:
		case u.watcher.Asked(port), watched, port < lowPorts:
			ports = append(ports, port)
		case port >= chosen.First && port <= chosen.Last:
		case !u.looked:
			ports = append(ports, port)
		default:
			since, seen := before[s.cookie]
			if !seen {
				since = now
			}
			if now.Sub(since) >= grownUp {
				ports = append(ports, port)
			}
			u.newborn[s.cookie] = since
		}
	}
	u.looked = true
	return ports
}

// fold discovers ports and counts.
func (u *udpWorker) fold(now time.Time, sockets []datagramSocket, chosen sock.PortRange) UDP {
	u.set = u.watcher.Update(now, u.servers(now, sockets, chosen))

	out := UDP{Watch: u.set, Ports: make([]UDPPort, len(u.set.Ports))}
	for i, p := range u.set.Ports {
		out.Ports[i] = UDPPort{Number: p.Number, IPv4: UDPSockets{DropsKnown: true}, IPv6: UDPSockets{DropsKnown: true}}
	}
	for _, p := range u.set.Ports {
		for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
			u.drops.hold(now, GroupKey{Port: p.Number, Family: family})
		}
	}
	var counted []listener
	for n := range sockets {
		s := &sockets[n].listener
		i, ok := u.set.Find(s.key.Port)
		if ok || u.drops.knows(s.key) { // a port may be watched again
			counted = append(counted, *s)
		}
		if !ok {
			continue
		}
		half := out.Ports[i].Of(s.key.Family)
		half.Sockets++
		half.Queue += uint64(s.queue)
		half.DropsKnown = half.DropsKnown && s.hasMem
	}
	u.drops.update(now, counted)
	for i := range out.Ports {
		for _, family := range []netlinkdiag.Family{netlinkdiag.FamilyIPv4, netlinkdiag.FamilyIPv6} {
			out.Ports[i].Of(family).Drops = u.drops.total(GroupKey{Port: out.Ports[i].Number, Family: family})
		}
	}
	return out
}
