// Package inspect looks at ports where binds failed, for the sockets that blocked them.
//
// It asks through internal/probe, and needs the privileges of that. What a look costs does not depend
// on how many listeners a user has on a port.
package inspect

import (
	"context"
	"errors"
	"maps"
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

// A Look has what is on some ports of one network namespace.
type Look struct {
	ns       probe.Namespace
	failed   map[uint16][]bindrule.Request
	views    map[uint16]*verdict.View
	listen   map[uint16][]ports.Listener
	foldings map[uint16]*bindrule.Folding
	dumped   time.Time // when the dump of sockets ended
	timers   linux.Timers
}

// Ports looks at the ports where these binds failed. With an error, the Look has not seen everything.
func Ports(ctx context.Context, ns probe.Namespace, failed map[uint16][]bindrule.Request) (*Look, error) {
	l := &Look{ns: ns, failed: failed, views: make(map[uint16]*verdict.View), foldings: make(map[uint16]*bindrule.Folding)}
	for number, requests := range failed {
		l.views[number] = new(verdict.View)
		l.foldings[number] = bindrule.NewFolding(requests)
		l.views[number].Expect(l.foldings[number])
		l.views[number].SetIncomplete(true)
	}
	err := l.see(ctx)
	l.timers = linux.ReadTimers()
	return l, err
}

// Port returns what was seen on a port.
func (l *Look) Port(number uint16) bindrule.Port { return l.views[number].Port(l.timers, l.dumped) }

// Listeners returns the listeners that were seen on a port.
func (l *Look) Listeners(number uint16) []ports.Listener { return l.listen[number] }

func (l *Look) see(ctx context.Context) error {
	found := newListenersByPort(l.foldings)
	if err := l.ns.Listeners(ctx, found, slices.Collect(maps.Keys(l.failed))...); err != nil {
		return err
	}
	on := found.byPort
	l.listen = on
	// Listeners are few, in a table of their own. Where a listener explains all failures, as in
	// most storms of failures, nothing else is looked at.
	var rest []uint16
	for number := range l.failed {
		l.views[number].SetListeners(on[number], nil)
		if !l.allBehindListeners(number) {
			rest = append(rest, number)
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return l.seeAll(ctx, rest, on)
}

// allBehindListeners says that listeners explain all failures on the port, whatever else is on it.
func (l *Look) allBehindListeners(number uint16) bool {
	seen := l.Port(number)
	for _, request := range l.failed[number] {
		listens := func(s bindrule.Socket) bool { return s.State == sock.StateListen }
		if !slices.ContainsFunc(verdict.Explain(&seen, request), listens) {
			return false
		}
	}
	return true
}

// seeAll looks for sockets of all states on the ports, and for the flags.
func (l *Look) seeAll(ctx context.Context, numbers []uint16, listeners map[uint16][]ports.Listener) error {
	// Where the flags of all sockets can be read, the sockets come with them, except those that
	// are only bound.
	req := netlinkdiag.Request{States: netlinkdiag.AllStates.Without(sock.StateListen)}
	all := l.ns.FlagScope() == probe.FlagsOfAll
	if all {
		req.States = netlinkdiag.States(netlinkdiag.StateBoundInactive)
	}
	ask := probe.FlagRequest{Ports: numbers, Expected: l.failed}
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
	for i := range flags.Sockets {
		s := &flags.Sockets[i]
		if v, ok := l.views[s.Port]; ok {
			v.AddFlagged(&s.Socket, flags.At)
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
func (l *Look) Reset() {
	for _, v := range l.views {
		v.ResetSockets()
	}
}

// Add implements probe.Visitor.
func (l *Look) Add(s *netlinkdiag.Socket) {
	if v, ok := l.views[s.Local.Port()]; ok && s.State != sock.StateListen {
		v.Add(s)
	}
}
