package probe

import (
	"cmp"
	"context"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/sock"
)

// FlagScope implements Namespace.
func (n *namespace) FlagScope() FlagScope {
	switch {
	case n.flags == nil:
		return FlagsOff
	case n.flags.Mode() == sockflags.ModeBPF:
		return FlagsOfAll
	default:
		return FlagsOfListeners
	}
}

// Flags implements Namespace.
func (n *namespace) Flags(ctx context.Context, req FlagRequest) (*Flags, error) {
	if n.flags == nil {
		return nil, ErrOff
	}
	ask := sockflags.Request{NetNS: n.fd, Ports: req.Ports, ListenersOnly: req.OnlyListeners}
	for i := range req.Listeners {
		l := &req.Listeners[i]
		ask.Listeners = append(ask.Listeners, sockflags.ListenerID{Cookie: l.Cookie, Inode: l.Inode})
	}
	slices.SortFunc(ask.Listeners, func(a, b sockflags.ListenerID) int { return cmp.Compare(a.Cookie, b.Cookie) })
	read, err := n.flags.Read(ctx, ask)
	if err != nil {
		return nil, err
	}
	return newFlags(read), nil
}

func newFlags(read *sockflags.Result) *Flags {
	f := &Flags{Listeners: read.Listeners, Missed: read.Missed, At: time.Now(), Buckets: make(map[uint16]bindrule.Bucket, len(read.Buckets))}
	for port, b := range read.Buckets {
		f.Buckets[port] = newBucket(&b)
	}
	for i := range read.Groups {
		f.Sockets = append(f.Sockets, newSocket(&read.Groups[i]))
	}
	return f
}

func newBucket(b *sockflags.Bucket) bindrule.Bucket {
	return bindrule.Bucket{
		Known:         true,
		FastReuse:     b.FastReuse > 0,
		FastReusePort: bindrule.FastReusePort(max(b.FastReusePort, 0)), // -1 is none, too
		UID:           b.UID,
		Addr:          b.Addr,
		V6Only:        b.V6Only,
	}
}

func newSocket(g *sockflags.Group) PortSocket {
	s := bindrule.Socket{
		Addr:      g.Addr,
		Ifindex:   g.Ifindex,
		V6Only:    bindrule.FlagOf(g.V6Only),
		ReuseAddr: bindrule.FlagOf(g.ReuseAddr),
		ReusePort: bindrule.FlagOf(g.ReusePort),
		State:     g.State,
		Kind:      g.Kind,
		Count:     g.Count,
		Expires:   g.Expires,
	}
	if s.Kind == sock.KindFull {
		s.UID = bindrule.UIDOf(g.UID)
	}
	return PortSocket{Port: g.Port, Socket: s}
}
