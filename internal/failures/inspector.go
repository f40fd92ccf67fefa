package failures

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// Looks are at least minLookGap apart, and take at most a fifth of the time of a CPU, however many
// sockets there are.
const (
	minLookGap   = 200 * time.Millisecond
	lookGapRatio = 4 // a gap lasts at least this many times the duration of the look before it
)

// An inspector looks at ports where a bind has failed. It does not use the snapshots' connection,
// because a snapshot may take as long as a dump does.
type inspector struct {
	cfg       *Config
	conflicts *conflicts
	notices   *notices
}

func newInspector(cfg *Config, c *conflicts) *inspector {
	return &inspector{cfg: cfg, conflicts: c, notices: newNotices()}
}

// run looks until ctx ends.
func (i *inspector) run(ctx context.Context) {
	for {
		due := time.NewTimer(i.notices.wait(time.Now()))
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-i.conflicts.wake:
			took := i.look(ctx)
			pause(ctx, max(minLookGap, lookGapRatio*took))
		case <-due.C:
		}
		due.Stop()
		i.report(ctx)
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

// look finds the causes of all failures that wait, and returns how long that took.
func (i *inspector) look(ctx context.Context) time.Duration {
	start := time.Now()
	waiting := make(map[uint32]map[uint16]*waitingPort)
	for at, port := range i.conflicts.take() {
		if waiting[at.netns] == nil {
			waiting[at.netns] = make(map[uint16]*waitingPort)
		}
		waiting[at.netns][at.port] = port
	}
	i.cfg.Host.Each(slices.Collect(maps.Keys(waiting)), func(inode uint32, name string, n probe.Namespace) {
		l := newLook(n, waiting[inode])
		err := l.see(ctx)
		timers := linux.ReadTimers()
		for number, port := range waiting[inode] {
			seen := l.views[number].Port(timers, l.dumped)
			conflict := i.conflicts.settle(portID{inode, number}, port, &seen)
			conflict.Namespace, conflict.Err = name, err
			i.notices.add(time.Now(), conflict, port)
		}
	})
	return time.Since(start)
}

// A look sees what is on some ports of one network namespace.
type look struct {
	ns       probe.Namespace
	waiting  map[uint16]*waitingPort
	views    map[uint16]*verdict.View
	expected map[uint16][]bindrule.Request
	foldings map[uint16]*bindrule.Folding
	dumped   time.Time // when the dump of sockets ended
}

func newLook(ns probe.Namespace, waiting map[uint16]*waitingPort) *look {
	l := &look{
		ns: ns, waiting: waiting, views: make(map[uint16]*verdict.View),
		expected: make(map[uint16][]bindrule.Request), foldings: make(map[uint16]*bindrule.Folding),
	}
	for number, port := range waiting {
		for bind := range port.binds {
			l.expected[number] = append(l.expected[number], bind.request)
		}
		l.views[number] = new(verdict.View)
		l.foldings[number] = bindrule.NewFolding(l.expected[number])
		l.views[number].Expect(l.foldings[number])
		l.views[number].SetIncomplete(true)
	}
	return l
}

// see looks at the ports. With an error it has not seen everything.
func (l *look) see(ctx context.Context) error {
	found := newListenersByPort(l.foldings)
	if err := l.ns.Listeners(ctx, found, slices.Collect(maps.Keys(l.waiting))...); err != nil {
		return err
	}
	on := found.byPort
	// Listeners are few, in a table of their own. Where a listener explains all failures, as in
	// most storms of failures, nothing else is looked at.
	var rest []uint16
	for number, port := range l.waiting {
		l.views[number].SetListeners(on[number], nil)
		seen := l.views[number].Port(linux.Timers{}, time.Time{})
		if !port.allBehindListeners(&seen) {
			rest = append(rest, number)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return l.seeAll(ctx, rest, on)
}

// maxListenersPerPort bounds the listeners of a port that are kept apart: any user may listen on every
// loopback address, and each failed bind is compared with each listener. Beyond it only listeners that
// the failed binds can tell apart are kept apart. maxAlike bounds those that bind() cannot tell apart,
// as far as the dump shows: they may differ in their flags.
const (
	maxListenersPerPort = 1024
	maxAlike            = 64
)

// listenersByPort sorts listeners into their ports, and leaves out those beyond the bounds. It is a
// probe.Visitor.
type listenersByPort struct {
	foldings map[uint16]*bindrule.Folding
	byPort   map[uint16][]ports.Listener
	kinds    map[uint16]map[bindrule.Socket]int
}

func newListenersByPort(foldings map[uint16]*bindrule.Folding) *listenersByPort {
	l := &listenersByPort{foldings: foldings}
	l.Reset()
	return l
}

// Reset implements probe.Visitor.
func (l *listenersByPort) Reset() {
	l.byPort = make(map[uint16][]ports.Listener)
	l.kinds = make(map[uint16]map[bindrule.Socket]int)
}

// Add implements probe.Visitor.
func (l *listenersByPort) Add(s *netlinkdiag.Socket) {
	listener := ports.NewListener(s)
	number, kind := listener.Port, verdict.NewListener(&listener)
	kinds := l.kinds[number]
	if kinds == nil {
		kinds = make(map[bindrule.Socket]int)
		l.kinds[number] = kinds
	}
	alike, ok := kinds[kind]
	if !ok && len(kinds) >= maxListenersPerPort {
		kind = l.foldings[number].FoldSocket(kind)
		alike = kinds[kind]
	}
	if alike == maxAlike {
		return
	}
	kinds[kind]++
	l.byPort[number] = append(l.byPort[number], listener)
}

// allBehindListeners says that listeners explain all failures that wait, whatever else is on the
// port.
func (p *waitingPort) allBehindListeners(seen *bindrule.Port) bool {
	for bind := range p.binds {
		if cause, _ := verdict.Explain(seen, bind.request); cause != verdict.CauseListener {
			return false
		}
	}
	return true
}

// seeAll looks for sockets of all states on the ports, and for the flags.
func (l *look) seeAll(ctx context.Context, numbers []uint16, listeners map[uint16][]ports.Listener) error {
	// Where the flags of all sockets can be read, the sockets come with them, except those that
	// are only bound.
	req := netlinkdiag.Request{States: netlinkdiag.AllStates.Without(sock.StateListen)}
	all := l.ns.FlagScope() == probe.FlagsOfAll
	if all {
		req.States = netlinkdiag.States(netlinkdiag.StateBoundInactive)
	}
	ask := probe.FlagRequest{Ports: numbers, Expected: l.expected}
	for _, number := range numbers {
		req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(number))
		ask.Listeners = append(ask.Listeners, listeners[number]...)
	}
	if err := l.ns.Sockets(ctx, req, l); err != nil {
		return err
	}
	l.dumped = time.Now()
	flags, err := l.ns.Flags(ctx, ask)
	if flags == nil {
		flags = new(probe.Flags)
	}
	if flags.Bound {
		l.Reset()
	}
	for _, s := range flags.Sockets {
		if v, ok := l.views[s.Port]; ok {
			v.AddFlagged(s.Socket, flags.At)
		}
	}
	if errors.Is(err, probe.ErrOff) {
		err = nil
	}
	lacking := all && err != nil // if not all, the dump has seen all states
	for _, number := range numbers {
		v := l.views[number]
		v.SetListeners(listeners[number], flags.Listeners)
		v.SetBucket(flags.Buckets[number])
		v.SetIncomplete(lacking || flags.Missed[number] > 0)
	}
	return err
}

// Reset implements probe.Visitor.
func (l *look) Reset() {
	for _, v := range l.views {
		v.ResetSockets()
	}
}

// Add implements probe.Visitor.
func (l *look) Add(s *netlinkdiag.Socket) {
	if v, ok := l.views[s.Local.Port()]; ok && s.State != sock.StateListen {
		v.Add(s)
	}
}

// report reports the conflicts that are due, with who listens by now: the other half of a server
// comes up a moment after the first half has failed.
func (i *inspector) report(ctx context.Context) {
	conflicts := i.notices.due(time.Now())
	if len(conflicts) == 0 || ctx.Err() != nil {
		return
	}
	numbers := make(map[uint32][]uint16)
	for n := range conflicts {
		numbers[conflicts[n].Netns] = append(numbers[conflicts[n].Netns], conflicts[n].Port)
	}
	i.cfg.Host.Each(slices.Sorted(maps.Keys(numbers)), func(inode uint32, _ string, ns probe.Namespace) {
		// An error leaves the sentence shorter.
		found := newListenersByPort(nil)
		_ = ns.Listeners(ctx, found, numbers[inode]...)
		for n := range conflicts {
			if c := &conflicts[n]; c.Netns == inode {
				c.OtherHalf = otherHalf(c, found.byPort[c.Port])
				i.cfg.OnConflict(*c)
			}
		}
	})
}

// otherHalf returns the listeners of the other family that may belong to the same server.
func otherHalf(c *Conflict, listeners []ports.Listener) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range listeners {
		l := &listeners[i]
		port := bindrule.Port{Bucket: bindrule.Bucket{Known: true}, Sockets: []bindrule.Socket{verdict.NewListener(l)}}
		if l.Port == c.Port && c.Request.UID == bindrule.UIDOf(l.UID) && len(out) < verdict.MaxBlockers &&
			isIPv4(l.Address) != isIPv4(c.Request.Addr) && port.Bind(c.Request).Outcome == bindrule.Free {
			out = append(out, netip.AddrPortFrom(l.Address, c.Port))
		}
	}
	return out
}

func isIPv4(a netip.Addr) bool { return a.Is4() || a.Is4In6() }
