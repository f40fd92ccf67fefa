package probe

import (
	"cmp"
	"context"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
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
	if n.buckets != nil && req.Sockets <= maxBucketSockets {
		// Whatever keeps it from working, the other way may do.
		if read, err := n.buckets.Read(n.fd, req.Ports); err == nil {
			defer read.Free()
			return fromBuckets(read), nil
		}
	}
	ask := sockflags.Request{NetNS: n.fd, Ports: req.Ports, ListenersOnly: req.OnlyListeners}
	for i := range req.Listeners {
		l := &req.Listeners[i]
		ask.Listeners = append(ask.Listeners, sockflags.ListenerID{Cookie: l.Cookie, Inode: l.Inode})
	}
	for port, requests := range req.Expected {
		if ask.Expected == nil {
			ask.Expected = make(map[uint16][]sockflags.Bind, len(req.Expected))
		}
		binds := make([]sockflags.Bind, len(requests))
		for i, r := range requests {
			binds[i] = sockflags.Bind{Addr: r.Addr, Ifindex: r.Ifindex, UID: r.UID.ID, UIDKnown: r.UID.Known}
		}
		ask.Expected[port] = binds
	}
	slices.SortFunc(ask.Listeners, func(a, b sockflags.ListenerID) int { return cmp.Compare(a.Cookie, b.Cookie) })
	read, err := n.flags.Read(ctx, ask)
	if err != nil {
		return nil, err
	}
	flags := newFlags(read)
	if n.buckets != nil && req.OnlyListeners {
		// The verdicts may be unknown without them.
		buckets, _ := n.buckets.ReadBuckets(n.fd, req.Ports)
		flags.addBuckets(buckets)
	}
	return flags, nil
}

// MaxBucketPorts is up to how many ports are read out of bind buckets.
const MaxBucketPorts = bindbucket.MaxPorts

// maxBucketSockets is up to how many sockets are read out of bind buckets. That takes less time than
// a walk through an empty table of connections (docs/performance.md), and leaves room for sockets
// that came meanwhile.
const maxBucketSockets = bindbucket.MaxSockets / 2

func fromBuckets(read *bindbucket.Result) *Flags {
	f := &Flags{
		Listeners: make(map[uint64]sock.ReuseFlags, len(read.Buckets)), NamedPort: make(map[uint64]bool, len(read.Buckets)),
		Buckets: make(map[uint16]bindrule.Bucket, len(read.Buckets)), Bound: true,
		Whole: !read.Requests && len(read.Missed) == 0, At: read.At,
	}
	f.addBuckets(read.Buckets)
	for port := range read.Missed {
		if f.Missed == nil {
			f.Missed = make(map[uint16]uint64)
		}
		f.Missed[port] = 1 // one at least
	}
	var of portGroups
	for i := range read.Sockets {
		s := &read.Sockets[i]
		if s.State == sock.StateListen {
			f.Listeners[s.Cookie] = s.ReuseFlags
			if s.NamedPort {
				f.NamedPort[s.Cookie] = true
			}
			continue
		}
		group := newSocket(&sockflags.Group{
			Port: s.Port, Addr: s.Addr, Ifindex: s.Ifindex, V6Only: s.V6Only, State: s.State, Kind: s.Kind, Flags: s.ReuseFlags, UID: s.UID,
		})
		group.NamedPort = s.NamedPort && s.State != sock.StateClose
		group.Queued = s.NoProcess && (s.State == sock.StateEstablished || s.State == sock.StateCloseWait)
		n := of.find(f.Sockets, &group)
		if n == len(f.Sockets) {
			f.Sockets = append(f.Sockets, group)
		}
		f.Sockets[n].Count++
		f.Sockets[n].Expires = max(f.Sockets[n].Expires, s.Expires)
	}
	return f
}

func (f *Flags) addBuckets(buckets map[uint16]bindbucket.Bucket) {
	for port, b := range buckets {
		bucket := newBucket(&sockflags.Bucket{FastReuse: b.FastReuse, FastReusePort: b.FastReusePort, UID: b.UID, Addr: b.Addr, V6Only: b.V6Only})
		bucket.MappedMeetsAny = b.MappedMeetsAny
		f.Buckets[port] = bucket
	}
}

// portGroups finds the groups of one port after the other. Most ports have a few.
type portGroups struct {
	port  uint16
	first int                // index of the port's first group
	more  map[PortSocket]int // nil while there are a few
}

// find returns the index of a group, or the number of groups where it is a new one.
func (p *portGroups) find(groups []PortSocket, of *PortSocket) int {
	const few = 8
	if of.Port != p.port {
		*p = portGroups{port: of.Port, first: len(groups)}
	}
	if p.more == nil && len(groups)-p.first < few {
		for i := p.first; i < len(groups); i++ {
			if groups[i].without() == *of {
				return i
			}
		}
		return len(groups)
	}
	if p.more == nil {
		p.more = make(map[PortSocket]int)
		for i := p.first; i < len(groups); i++ {
			p.more[groups[i].without()] = i
		}
	}
	i, ok := p.more[*of]
	if !ok {
		i = len(groups)
		p.more[*of] = i
	}
	return i
}

// without is the group without what its sockets add up to.
func (s PortSocket) without() PortSocket {
	s.Count, s.Expires = 0, 0
	return s
}

func newFlags(read *sockflags.Result) *Flags {
	f := &Flags{Listeners: read.Listeners, NamedPort: read.NamedPort, Missed: read.Missed, At: time.Now(), Buckets: make(map[uint16]bindrule.Bucket, len(read.Buckets))}
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
		Chosen:        b.FastReuse < 0,
		FastReusePort: bindrule.FastReusePort(max(b.FastReusePort, 0)), // -1 is none, too
		UID:           b.UID,
		Addr:          b.Addr,
		V6Only:        b.V6Only,
	}
}

func newSocket(g *sockflags.Group) PortSocket {
	s := bindrule.Socket{
		Addr:      g.Addr,
		Elsewhere: g.Elsewhere,
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
