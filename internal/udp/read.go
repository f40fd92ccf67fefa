package udp

import (
	"cmp"
	"context"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/udphash"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// maxSockets is how many sockets of a port are kept where sock_diag shows them.
const maxSockets = 256

// Read reads the sockets on some ports, in the order of the ports. Where eBPF cannot be used, they come from
// sock_diag, which shows no flags and not what the kernel made for itself.
func Read(ctx context.Context, ns probe.Namespace, numbers []uint16) ([]Port, error) {
	out := make([]Port, len(numbers))
	defer func() { nameDevices(ns, out) }()
	read, err := ns.UDPPorts(numbers)
	if err == nil {
		for i, number := range numbers {
			out[i] = fromHash(number, read[number])
		}
		return out, nil
	}
	d := dump{index: make(map[uint16]int, len(numbers)), ports: out}
	for i, number := range numbers {
		d.index[number] = i
	}
	d.Reset()
	if len(numbers) == 0 {
		return out, nil
	}
	return out, ns.UDPSockets(ctx, &d)
}

func nameDevices(ns probe.Namespace, found []Port) {
	devices := make(map[uint32]string)
	for i := range found {
		for j := range found[i].Sockets {
			if index := found[i].Sockets[j].Ifindex; index != 0 {
				devices[index] = ""
			}
		}
	}
	if len(devices) == 0 {
		return
	}
	ns.Devices(devices)
	for i := range found {
		for j := range found[i].Sockets {
			s := &found[i].Sockets[j]
			s.Interface = devices[s.Ifindex]
		}
	}
}

func fromHash(number uint16, read *udphash.Port) Port {
	p := Port{Number: number, InOrder: true}
	if read == nil {
		return Port{Number: number, Incomplete: true}
	}
	p.Crowded, p.Incomplete = bindrule.FlagOf(read.Crowd > bindrule.UDPCrowd), read.Missed
	for i := range read.Sockets {
		s := &read.Sockets[i]
		p.Sockets = append(p.Sockets, Socket{
			Socket: bindrule.Socket{
				Addr: s.Addr, Ifindex: s.Ifindex, V6Only: bindrule.FlagOf(s.V6Only),
				ReuseAddr: bindrule.FlagOf(s.ReuseAddr), ReusePort: bindrule.FlagOf(s.ReusePort),
				UID: bindrule.UIDOf(s.UID), State: s.State, Count: s.Count,
			},
			Cookie: s.Cookie, Inode: uint32(s.Inode), Kernel: s.Kernel, Handler: s.Handler, Chosen: !s.NamedPort, Multicast: s.Multicast, Broadcast: s.Broadcast,
		})
	}
	return p
}

// Count counts the sockets of a network namespace on the ports of watcher. chosen is ip_local_port_range.
func Count(ctx context.Context, ns probe.Namespace, watcher *ports.UDPWatcher, chosen sock.PortRange) (ports.UDP, error) {
	listing := watcher.Begin(time.Now())
	if err := ns.UDPSockets(ctx, listing); err != nil {
		// As with TCP: no port may go because the exporter could not look.
		return ports.UDP{Watch: watcher.Set()}, err
	}
	return watcher.Update(time.Now(), listing, chosen), nil
}

// A Finder finds the processes that have sockets open, by inode: *owner.Finder.
type Finder interface {
	Lookup(context.Context, []uint32) (map[uint32]owner.Owner, error)
}

// Bounds of Look.
const (
	lookWait   = 5 * time.Second // for owners
	lookOwners = 8               // of a port
)

// Look is Read with owners, for a caller that does not look again and again.
func Look(ctx context.Context, ns probe.Namespace, numbers []uint16, owners Finder) ([]Port, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	found, err := Read(ctx, ns, numbers)
	var inodes []uint32
	for i := range found {
		asks := found[i].Asks()
		for _, ask := range asks[:min(len(asks), lookOwners)] {
			inodes = append(inodes, ask.Inode)
		}
	}
	if owners == nil || len(inodes) == 0 {
		return found, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookWait)
	defer cancel()
	of, _ := owners.Lookup(ctx, inodes[:min(len(inodes), owner.MaxLookup)]) // what is not known is missing
	for i := range found {
		for j := range found[i].Sockets {
			s := &found[i].Sockets[j]
			s.Owner = of[s.Inode]
		}
	}
	return found, err
}

// A dump takes the sockets on some ports from sock_diag. It is a probe.Visitor.
type dump struct {
	index map[uint16]int
	ports []Port
}

// Reset implements probe.Visitor.
func (d *dump) Reset() {
	for number, i := range d.index {
		d.ports[i] = Port{Number: number}
	}
}

// Add implements probe.Visitor. A port has a bounded number of sockets, and rather those that anybody can
// send to. The kernel shows the newest first: these keep half of the room, and the oldest the other half. Any
// user can open sockets that are newer than a server's.
func (d *dump) Add(s *netlinkdiag.Socket) {
	i, ok := d.index[s.Local.Port()]
	if !ok {
		return
	}
	p := &d.ports[i]
	at := len(p.Sockets)
	if at == maxSockets {
		p.Incomplete = true
		at = slices.IndexFunc(p.Sockets, func(o Socket) bool { return o.Connected() })
		switch {
		case s.State != sock.StateClose:
			return
		case at < 0:
			at = maxSockets / 2
		}
		p.Sockets = slices.Delete(p.Sockets, at, at+1)
	}
	p.Sockets = append(p.Sockets, Socket{
		Socket: bindrule.Socket{
			Addr: s.Local.Addr(), Ifindex: s.Ifindex, V6Only: bindrule.FlagOf(s.V6Only),
			UID: bindrule.UIDOf(s.UID), State: cmp.Or(s.State, sock.StateClose), Count: 1,
		},
		Cookie: s.Cookie, Inode: s.Inode,
	})
}
