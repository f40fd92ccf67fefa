package probe

import (
	"context"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// A Walker is *sockwalk.Walker.
type Walker interface {
	Walk(context.Context, sockwalk.Request, func(*sockwalk.Group)) (*sockwalk.Result, error)
}

// A Search says which connections of a network namespace to look for. The namespace stays open until the
// search is over.
type Search struct {
	ID netns.ID

	Ports []uint16 // local ones
	Bound bool     // look for sockets on them that are only bound, too

	// LocalPorts are the ports of clients, without those in Serving.
	LocalPorts sock.PortRange
	Serving    []uint16

	Visitor ConnectionVisitor
}

// A ConnectionVisitor takes connections. They are valid until AddConnections returns.
type ConnectionVisitor interface {
	AddConnections(c *Connections)
}

// Connections are a number of sockets that are the same to the Search. Where only the remote end was
// asked for, the local port is that of one of them. A field that does not matter is 0.
type Connections struct {
	netlinkdiag.Socket
	Kind                 sock.Kind
	ReuseAddr, ReusePort bindrule.Flag
	Count                uint64
}

// Connections looks for connections in several network namespaces at once, also for those to the remote
// ports. Listeners are not among them. After an error, visitors have seen some connections.
func (h *Host) Connections(ctx context.Context, remote []uint16, searches []Search) (*sockwalk.Result, error) {
	if h.Walker == nil {
		return nil, ErrOff
	}
	req := sockwalk.Request{Remote: remote, Namespaces: make([]sockwalk.Namespace, len(searches))}
	for i := range searches {
		s := &searches[i]
		req.Namespaces[i] = sockwalk.Namespace{
			Inode: uint32(s.ID.Inode), Cookie: s.ID.Cookie,
			Watched: s.Ports, Bound: s.Bound, LocalPorts: s.LocalPorts, Serving: s.Serving,
		}
	}
	var c Connections // shared by all: an argument of an interface method escapes to the heap
	return h.Walker.Walk(ctx, req, func(g *sockwalk.Group) {
		c = newConnections(g)
		searches[g.Namespace].Visitor.AddConnections(&c)
	})
}

func newConnections(g *sockwalk.Group) Connections {
	c := Connections{
		Socket: netlinkdiag.Socket{
			Family: g.Family, State: g.State, Local: g.Local, Remote: g.Remote,
			Ifindex: g.Ifindex, UID: g.UID, V6Only: g.V6Only, Expires: g.Expires,
		},
		Kind: g.Kind, Count: g.Count,
	}
	if g.Kind == sock.KindTimeWait {
		c.Timer = netlinkdiag.TimerTimeWait
	}
	if g.FlagsKnown {
		c.ReuseAddr, c.ReusePort = bindrule.FlagOf(g.Flags.ReuseAddr), bindrule.FlagOf(g.Flags.ReusePort)
	}
	return c
}
