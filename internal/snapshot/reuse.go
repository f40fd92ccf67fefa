package snapshot

import (
	"cmp"
	"context"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/netlinkdiag"
)

// Reuse is SO_REUSEADDR and SO_REUSEPORT of the sockets on watched ports.
type Reuse struct {
	// Listeners are the groups of Snapshot.Listeners, in the same order.
	Listeners []GroupReuse

	// Ports say what lingers without the flags: Ports[i] is of Watch.Data.Ports[i].
	Ports []PortReuse

	complete bool // the flags of all sockets were asked for, not of listeners alone

	// Sockets are all sockets but the listeners, in groups that bind() cannot tell apart.
	Sockets []sockflags.Group

	at      time.Time // that Sockets were complete
	buckets map[uint16]sockflags.Bucket
}

// GroupReuse is the flags of a listener group.
type GroupReuse struct {
	GroupKey
	Interface            string
	ReuseAddr, ReusePort bindrule.Flag // Yes where every socket has it, No where one has not
}

// PortReuse counts sockets without the flags. It is Known unless the flags of some socket on
// the port could not be read; listeners, and bound sockets that neither listen nor connect,
// are not in it.
type PortReuse struct {
	Number     uint16
	Known      bool
	IPv4, IPv6 FamilyReuse
}

// FamilyReuse counts, by netlinkdiag.State, the sockets that lack a flag.
type FamilyReuse struct {
	NoReuseAddr, NoReusePort [netlinkdiag.NumStates]uint64
}

// Of is the family's half.
func (p *PortReuse) Of(f netlinkdiag.Family) *FamilyReuse {
	if f == netlinkdiag.FamilyIPv6 {
		return &p.IPv6
	}
	return &p.IPv4
}

// A FlagReader reads the flags: *sockflags.Reader.
type FlagReader interface {
	Mode() sockflags.Mode
	Read(context.Context, sockflags.Request) (*sockflags.Result, error)
}

// readReuse asks for the flags of the listeners and of everything else on watched ports, or
// of the listeners only, where nothing else is there.
func (w *worker) readReuse(ctx context.Context, listeners []listener, groups []Group, listenersOnly bool) (Reuse, error) {
	if w.cfg.Flags == nil {
		return Reuse{}, ErrOff
	}
	if len(w.set.Ports) == 0 {
		return Reuse{}, nil
	}
	req := sockflags.Request{NetNS: w.cfg.NetNS, Ports: w.set.Numbers(), ListenersOnly: listenersOnly}
	for _, l := range listeners {
		req.Listeners = append(req.Listeners, sockflags.ListenerID{Cookie: l.cookie, Inode: l.inode})
	}
	flags, err := w.readFlags(ctx, req)
	if err != nil {
		return Reuse{}, err
	}
	reuse := Reuse{
		Listeners: groupReuse(listeners, groups, flags.Listeners),
		Sockets:   flags.Groups,
		at:        time.Now(),
		buckets:   flags.Buckets,
	}
	reuse.complete = w.flagsOfAll()
	reuse.Ports = portReuse(w.set, flags, reuse.complete)
	return reuse, nil
}

// readFlags asks no more where connections are not looked for, as the eBPF iterator would walk
// over all of them. Flags of a listener are set before it listens, as a rule.
func (w *worker) readFlags(ctx context.Context, req sockflags.Request) (*sockflags.Result, error) {
	slices.SortFunc(req.Listeners, func(a, b sockflags.ListenerID) int { return cmp.Compare(a.Cookie, b.Cookie) })
	if w.idle && w.flags != nil && slices.Equal(w.flagsAsked, req.Listeners) {
		return w.flags, nil
	}
	flags, err := w.cfg.Flags.Read(ctx, req)
	if err != nil {
		return nil, err
	}
	w.flags, w.flagsAsked = &sockflags.Result{Listeners: flags.Listeners, Buckets: flags.Buckets}, req.Listeners
	return flags, nil
}

// groupReuse joins the flags with the groups by cookie. listeners are sorted as groups are.
func groupReuse(listeners []listener, groups []Group, flags map[uint64]sockflags.Flags) []GroupReuse {
	out := make([]GroupReuse, len(groups))
	next := 0
	for i, g := range groups {
		r := GroupReuse{GroupKey: g.GroupKey, Interface: g.Interface, ReuseAddr: bindrule.Yes, ReusePort: bindrule.Yes}
		for ; next < len(listeners) && listeners[next].key == g.GroupKey; next++ {
			f, known := flags[listeners[next].cookie]
			r.ReuseAddr = everyOne(r.ReuseAddr, known, f.ReuseAddr)
			r.ReusePort = everyOne(r.ReusePort, known, f.ReusePort)
		}
		out[i] = r
	}
	return out
}

// everyOne takes one more socket into account: one without the flag decides, whatever is
// unknown of others.
func everyOne(sofar bindrule.Flag, known, on bool) bindrule.Flag {
	switch {
	case sofar == bindrule.No, known && !on:
		return bindrule.No
	case !known:
		return bindrule.FlagUnknown
	}
	return sofar
}

func portReuse(set ports.Set, flags *sockflags.Result, complete bool) []PortReuse {
	out := make([]PortReuse, len(set.Ports))
	for i, p := range set.Ports {
		out[i] = PortReuse{Number: p.Number, Known: complete && flags.Missed[p.Number] == 0}
	}
	for _, g := range flags.Groups {
		i, ok := set.Find(g.Port)
		if !ok || int(g.State) >= netlinkdiag.NumStates {
			continue
		}
		half := &out[i].IPv6
		if g.Addr.Is4() {
			half = &out[i].IPv4
		}
		if !g.ReuseAddr {
			half.NoReuseAddr[g.State] += g.Count
		}
		if !g.ReusePort {
			half.NoReusePort[g.State] += g.Count
		}
	}
	return out
}
