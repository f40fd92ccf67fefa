package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/netlinkdiag"
)

// Looks are minLookGap apart at least, and take no more than a fifth of the time of a CPU,
// however many sockets there are.
const (
	minLookGap   = 200 * time.Millisecond
	lookGapRatio = 4 // of the gap to the look before it
)

// A looker looks at ports where a bind has failed. It has connections of its own: a
// snapshot may hold the others for as long as a dump takes.
type looker struct {
	cfg       *Config
	finder    *finder
	conflicts *conflicts
	tidings   *tidings
	own       window
}

func newLooker(h *host) *looker {
	return &looker{
		cfg: &h.cfg, finder: h.finder, conflicts: h.failures.conflicts, tidings: newTidings(),
		own: window{cfg: h.cfg},
	}
}

// run looks until ctx ends.
func (l *looker) run(ctx context.Context) {
	defer l.own.close()
	for {
		due := time.NewTimer(l.tidings.wait(time.Now()))
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-l.conflicts.wake:
			took := l.look(ctx)
			pause(ctx, max(minLookGap, lookGapRatio*took))
		case <-due.C:
		}
		due.Stop()
		l.tell(ctx)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// look finds the causes of all that waits, and says how long that took.
func (l *looker) look(ctx context.Context) time.Duration {
	start := time.Now()
	all := byNetns(l.conflicts.take())
	l.through(slices.Collect(maps.Keys(all)), func(inode uint32, w *window) {
		waiting := all[inode]
		seen, err := w.see(ctx, waiting)
		for number, port := range waiting {
			conflict := l.conflicts.settle(place{inode, number}, port, seen.port(number))
			conflict.Namespace, conflict.Err = w.name, err
			l.tidings.add(time.Now(), conflict, port.watched)
		}
	})
	return time.Since(start)
}

// through opens a window on each network namespace. Of one that is gone it shows nothing.
func (l *looker) through(inodes []uint32, look func(uint32, *window)) {
	set := new(inside)
	for _, inode := range inodes {
		if inode == l.cfg.OwnNetns {
			look(inode, &l.own)
			continue
		}
		w := set.window(l, inode)
		look(inode, w)
		w.close()
	}
	set.close()
}

// inside are the other namespaces, which are found once they are needed.
type inside struct{ set *netns.Set }

func (i *inside) window(l *looker, inode uint32) *window {
	if i.set == nil {
		i.set, _ = l.finder.open()
	}
	for _, ns := range i.set.Namespaces {
		if ns.ID.Inode == uint64(inode) {
			return &window{name: ns.Name, cfg: l.cfg.in(ns)}
		}
	}
	return &window{
		name: fmt.Sprintf("net:[%d]", inode),
		cfg:  Config{Dial: func() (*netlinkdiag.Conn, error) { return nil, errGone }},
	}
}

func (i *inside) close() {
	if i.set != nil {
		_ = i.set.Close()
	}
}

var errGone = errors.New("the network namespace is gone")

func byNetns(waiting map[place]*waitingPort) map[uint32]map[uint16]*waitingPort {
	out := make(map[uint32]map[uint16]*waitingPort)
	for at, port := range waiting {
		if out[at.netns] == nil {
			out[at.netns] = make(map[uint16]*waitingPort)
		}
		out[at.netns][at.port] = port
	}
	return out
}

// A window looks into one network namespace.
type window struct {
	name string // of the namespace
	cfg  Config
	conn *netlinkdiag.Conn // nil until dialled
}

func (w *window) close() {
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// sightings are what is on ports, listeners included.
type sightings map[uint16]*sighting

type sighting struct {
	listeners map[bindrule.Socket]uint64 // how many; Count is not set in the key
	held      holders
	groups    []bindrule.Socket
	bucket    bindrule.Bucket
	said      time.Time // that the sockets' expiry was read
	complete  bool
}

func newSightings(ports []uint16) sightings {
	s := make(sightings, len(ports))
	for _, number := range ports {
		s[number] = new(sighting)
	}
	return s
}

// port is what bind() meets there.
func (s sightings) port(number uint16) *bindrule.Port {
	at := s[number]
	port := &bindrule.Port{
		Sockets:    append(at.held.sockets(), at.groups...),
		Bucket:     at.bucket,
		Incomplete: !at.complete || at.held.overflow,
	}
	readWheel().correct(port.Sockets, at.said)
	for socket, n := range at.listeners {
		socket.Count = n
		port.Sockets = append(port.Sockets, socket)
	}
	return port
}

// see looks at the ports. With an error it is not all that is there.
func (w *window) see(ctx context.Context, waiting map[uint16]*waitingPort) (sightings, error) {
	ports := slices.Collect(maps.Keys(waiting))
	s := newSightings(ports)
	// Listeners are few, in a table of their own. Where one explains all, and that is what
	// a storm of failures comes from as a rule, nothing else need be looked at.
	listening, err := w.dump(ctx, ports, netlinkdiag.States(netlinkdiag.StateListen), s)
	if err != nil {
		return s, err
	}
	s.addListeners(listening, nil)
	rest := slices.DeleteFunc(ports, func(p uint16) bool { return waiting[p].allBehindListeners(s.port(p)) })
	if len(rest) == 0 {
		return s, nil
	}
	return s, w.seeAll(ctx, rest, listening, s)
}

// allBehindListeners: whatever else there may be, the cause is a listener.
func (p *waitingPort) allBehindListeners(seen *bindrule.Port) bool {
	for bind := range p.binds {
		if cause, _ := causeOf(seen, bind.request); cause != CauseListener {
			return false
		}
	}
	return true
}

// seeAll looks for sockets of all states on the ports, and for the flags.
func (w *window) seeAll(ctx context.Context, ports []uint16, listening []listener, s sightings) error {
	// Where the flags of all sockets can be read, they come with the sockets, but for those
	// that are only bound.
	states := netlinkdiag.AllStates.Without(netlinkdiag.StateListen)
	groups := w.cfg.Flags != nil && w.cfg.Flags.Mode() == sockflags.ModeBPF
	if groups {
		states = netlinkdiag.States(netlinkdiag.StateBoundInactive)
	}
	if _, err := w.dump(ctx, ports, states, s); err != nil {
		return err
	}
	flags, err := w.readFlags(ctx, ports, listening)
	lacking := groups && err != nil // a dump of all states has all, without the flags too
	s.addListeners(listening, flags.Listeners)
	for _, g := range flags.Groups {
		if at, ok := s[g.Port]; ok {
			at.groups = append(at.groups, fromFlags(&g))
		}
	}
	for _, number := range ports {
		s[number].complete = flags.Missed[number] == 0 && !lacking
		s[number].bucket = bucketOf(flags.Buckets, number)
		s[number].said = time.Now()
	}
	return err
}

func (w *window) readFlags(ctx context.Context, ports []uint16, listening []listener) (*sockflags.Result, error) {
	if w.cfg.Flags == nil {
		return new(sockflags.Result), nil
	}
	req := sockflags.Request{NetNS: w.cfg.NetNS, Ports: ports}
	for i := range listening {
		req.Listeners = append(req.Listeners, sockflags.ListenerID{Cookie: listening[i].cookie, Inode: listening[i].inode})
	}
	flags, err := w.cfg.Flags.Read(ctx, req)
	if err != nil {
		return new(sockflags.Result), err
	}
	return flags, nil
}

// dump takes the sockets on the ports but the listeners, which it returns.
func (w *window) dump(ctx context.Context, ports []uint16, states netlinkdiag.StateSet, s sightings) ([]listener, error) {
	if w.conn == nil {
		conn, err := w.cfg.Dial()
		if err != nil {
			return nil, err
		}
		w.conn = conn
	}
	req := netlinkdiag.Request{States: states}
	for _, p := range ports {
		req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(p))
	}
	var listening []listener
	for socket, err := range w.conn.Dump(ctx, req) {
		at := s[socket.Local.Port()]
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			listening = listening[:0]
			for _, p := range ports {
				s[p].held = holders{}
			}
		case err != nil:
			return nil, fmt.Errorf("dump tcp sockets: %w", err)
		case at == nil:
		case socket.State == netlinkdiag.StateListen:
			listening = append(listening, newListener(&socket))
		default:
			at.held.add(&socket)
		}
	}
	return listening, nil
}

// addListeners groups listeners that bind() cannot tell apart, in place of those before.
func (s sightings) addListeners(listening []listener, flags map[uint64]sockflags.Flags) {
	for _, at := range s {
		at.listeners = make(map[bindrule.Socket]uint64)
	}
	for i := range listening {
		at := s[listening[i].key.Port]
		socket := asSocket(&listening[i])
		if f, known := flags[listening[i].cookie]; known {
			socket.ReuseAddr, socket.ReusePort = bindrule.FlagOf(f.ReuseAddr), bindrule.FlagOf(f.ReusePort)
		}
		if _, ok := at.listeners[socket]; !ok && len(at.listeners) == maxGroupsPerPort {
			at.held.overflow = true
			continue
		}
		at.listeners[socket]++
	}
}

func asSocket(l *listener) bindrule.Socket {
	return bindrule.Socket{
		Addr:    l.key.Address,
		Ifindex: l.key.Ifindex,
		V6Only:  bindrule.FlagOf(l.v6only),
		UID:     bindrule.UIDOf(l.uid),
		State:   bindrule.StateListen,
	}
}

// tell reports what is due, with who listens by now: the other half of a server comes up a
// moment after the first one has failed.
func (l *looker) tell(ctx context.Context) {
	conflicts := l.tidings.due(time.Now())
	if len(conflicts) == 0 || ctx.Err() != nil {
		return
	}
	ports := make(map[uint32][]uint16)
	for i := range conflicts {
		ports[conflicts[i].Netns] = append(ports[conflicts[i].Netns], conflicts[i].Port)
	}
	l.through(slices.Sorted(maps.Keys(ports)), func(inode uint32, w *window) {
		// An error leaves the sentence shorter.
		listening, _ := w.dump(ctx, ports[inode], netlinkdiag.States(netlinkdiag.StateListen), newSightings(ports[inode]))
		for i := range conflicts {
			if c := &conflicts[i]; c.Netns == inode {
				c.OtherHalf = otherHalf(c, listening)
				l.cfg.OnConflict(*c)
			}
		}
	})
}

// otherHalf are the listeners of the other family that could be of the same server.
func otherHalf(c *Conflict, listening []listener) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range listening {
		l := &listening[i]
		port := bindrule.Port{Bucket: bindrule.Bucket{Known: true}, Sockets: []bindrule.Socket{asSocket(l)}}
		if l.key.Port == c.Port && c.Request.UID == bindrule.UIDOf(l.uid) && len(out) < maxBlockersTold &&
			isIPv4(l.key.Address) != isIPv4(c.Request.Addr) && port.Bind(c.Request).Outcome == bindrule.Free {
			out = append(out, netip.AddrPortFrom(l.key.Address, c.Port))
		}
	}
	return out
}

func isIPv4(a netip.Addr) bool { return a.Is4() || a.Is4In6() }
