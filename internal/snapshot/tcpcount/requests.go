package tcpcount

import (
	"slices"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// Requests remembers, from one snapshot to the next, what says whether all connections in SYN_RECV on the watched
// ports have a listener there, which counts them. Some have none: their listener has gone, and the kernel notices that
// when it repeats its answer, or their listener is on another port (BPF sk_lookup, TPROXY).
type Requests struct {
	listeners []uint64 // cookies, sorted
	some      bool     // the last dump has shown some
}

// MayBeUnseen says that some may have no listener on the watched ports, and remembers the listeners for the next call.
func (r *Requests) MayBeUnseen(set watch.Set, listeners []ports.Listener) bool {
	before := r.listeners
	r.listeners = ports.Cookies(listeners)
	gone := slices.ContainsFunc(before, func(cookie uint64) bool {
		_, there := slices.BinarySearch(r.listeners, cookie)
		return !there
	})
	listening := make([]bool, len(set.Ports))
	for i := range listeners {
		if at, ok := set.Find(listeners[i].Port); ok {
			listening[at] = true
		}
	}
	return r.some || gone || slices.Contains(listening, false)
}

// Seen notes what was counted after that.
func (r *Requests) Seen(c *ports.Counter) {
	r.some = slices.ContainsFunc(c.Ports(), func(p ports.PortSockets) bool {
		return p.IPv4.States[sock.StateSynRecv]+p.IPv6.States[sock.StateSynRecv] > 0
	})
}
