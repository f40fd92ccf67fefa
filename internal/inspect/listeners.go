package inspect

import (
	"context"
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

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

// Listeners returns the listeners on some ports, by port. With an error some are missing.
func Listeners(ctx context.Context, ns probe.Namespace, numbers ...uint16) (map[uint16][]ports.Listener, error) {
	found := newListenersByPort(nil)
	err := ns.Listeners(ctx, found, numbers...)
	return found.byPort, err
}

// maxOtherHalf is how many listeners OtherHalf returns: any user may listen on every loopback address.
const maxOtherHalf = 8

// OtherHalf returns the listeners of the other address family on a port that may belong to the server
// whose bind failed there: one half of it runs.
func OtherHalf(number uint16, failed bindrule.Request, listeners []ports.Listener) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range listeners {
		l := &listeners[i]
		port := bindrule.Port{Bucket: bindrule.Bucket{Known: true}, Sockets: []bindrule.Socket{verdict.NewListener(l)}}
		if l.Port == number && failed.UID == bindrule.UIDOf(l.UID) && len(out) < maxOtherHalf &&
			isIPv4(l.Address) != isIPv4(failed.Addr) && port.Bind(failed).Outcome == bindrule.Free {
			out = append(out, netip.AddrPortFrom(l.Address, number))
		}
	}
	return out
}

func isIPv4(a netip.Addr) bool { return a.Is4() || a.Is4In6() }

// NotOfOthers leaves out the listeners that another process than pid has, unless pid has opened them. owners finds
// who has sockets open, by inode.
func NotOfOthers(pid uint32, listeners []ports.Listener, owners func([]uint32) map[uint32]owner.Owner) []ports.Listener {
	inodes := make([]uint32, 0, len(listeners))
	for i := range listeners[:min(len(listeners), owner.MaxLookup)] {
		inodes = append(inodes, listeners[i].Inode)
	}
	known := owners(inodes)
	return slices.DeleteFunc(slices.Clone(listeners), func(l ports.Listener) bool {
		o := known[l.Inode]
		opened := o.Opener != nil && o.Opener.PID == int(pid)
		return o.Known() && o.PID != int(pid) && !opened
	})
}
