// Package holders finds out who has the sockets open that are in the way of a server that is not there:
// connections, and sockets that are only bound. It reads them from the kernel's bind buckets, by eBPF,
// and asks for nothing where nothing is in the way.
package holders

import (
	"context"
	"net/netip"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

// A Finder finds the processes that have sockets open, by inode: *owner.Finder.
type Finder interface {
	Lookup(context.Context, []uint32) (map[uint32]owner.Owner, error)
}

// Bounds of Of in one network namespace.
const (
	maxPorts   = 32
	maxSockets = 256
	maxWait    = 250 * time.Millisecond // for owners: they are known next time then
)

// Of returns the open sockets on ports where nothing listens and a bind would fail, by port. What cannot be
// seen is missing. Where there are too many ports, each user has a share of them.
func Of(ctx context.Context, ns probe.Namespace, judged []verdict.Port, finder Finder) map[uint16][]facts.Open {
	ask := blocked(judged)
	if len(ask) == 0 {
		return nil
	}
	found, err := ns.Held(ask)
	if err != nil {
		return nil
	}
	sockets := make([]Socket, 0, len(found))
	inodes := make([]uint32, 0, len(found))
	for i := range found {
		h := &found[i]
		if h.State == sock.StateListen || h.Kind != sock.KindFull || h.Inode == 0 {
			continue
		}
		sockets = append(sockets, Socket{Port: h.Port, State: h.State, Addr: h.Addr, Peer: h.Peer})
		inodes = append(inodes, uint32(h.Inode))
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	owners, _ := finder.Lookup(ctx, firstOfEach(sockets, inodes))
	for i := range sockets {
		sockets[i].Owner = owners[inodes[i]]
	}
	return ByPort(sockets)
}

// A candidate is a port with sockets in the way.
type candidate struct {
	port    uint16
	uid     bindrule.UID // of one of the sockets
	sockets uint64
}

// blocked returns the ports to ask about.
func blocked(judged []verdict.Port) []uint16 {
	var candidates []candidate
	for i := range judged {
		if c := inTheWay(&judged[i]); c.sockets > 0 {
			candidates = append(candidates, c)
		}
	}
	share.Fairly(candidates,
		func(a, b *candidate) int { return int(a.port) - int(b.port) },
		share.ByUser(func(c *candidate) bindrule.UID { return c.uid })...)
	var ask []uint16
	sockets := uint64(0)
	for _, c := range candidates {
		if sockets+c.sockets <= maxSockets && len(ask) < maxPorts {
			sockets += c.sockets
			ask = append(ask, c.port)
		}
	}
	return ask
}

// inTheWay has no sockets where something listens, or where only sockets block that no process has. It runs for
// every watched port.
func inTheWay(p *verdict.Port) candidate {
	c := candidate{port: p.Number}
	for i := range p.Port.Sockets {
		s := &p.Port.Sockets[i]
		switch {
		case s.State == sock.StateListen:
			return candidate{}
		case s.Kind != sock.KindFull:
		case c.sockets == 0:
			c.uid, c.sockets = s.UID, s.Count
		default:
			c.sockets += s.Count
		}
	}
	for i := range p.Binds {
		if p.Binds[i].Outcome != bindrule.Free {
			return c
		}
	}
	return candidate{}
}

// firstOfEach returns inodes to look up: first one of each port, then the others.
func firstOfEach(sockets []Socket, inodes []uint32) []uint32 {
	var first, others []uint32
	seen := make(map[uint16]bool)
	for i := range sockets {
		if seen[sockets[i].Port] {
			others = append(others, inodes[i])
		} else {
			first, seen[sockets[i].Port] = append(first, inodes[i]), true
		}
	}
	return append(first, others...)
}

// A Socket is one that a process may have open, and that does not listen.
type Socket struct {
	Port  uint16
	State sock.State
	Addr  netip.Addr
	Peer  netip.AddrPort
	Owner owner.Owner
}

// ByPort counts sockets by process, state and address.
func ByPort(sockets []Socket) map[uint16][]facts.Open {
	type kind struct {
		port  uint16
		pid   int
		state sock.State
		addr  netip.Addr
	}
	out, index := make(map[uint16][]facts.Open), make(map[kind]int)
	for i := range sockets {
		s := &sockets[i]
		key := kind{s.Port, s.Owner.PID, s.State, s.Addr}
		n, ok := index[key]
		if !ok {
			n = len(out[s.Port])
			index[key] = n
			out[s.Port] = append(out[s.Port], facts.Open{State: s.State, Addr: s.Addr, Owner: s.Owner})
		}
		o := &out[s.Port][n]
		o.Count++
		o.Owner.Processes = max(o.Owner.Processes, s.Owner.Processes)
		if o.Peer = (netip.AddrPort{}); o.Count == 1 {
			o.Peer = s.Peer
		}
	}
	return out
}
