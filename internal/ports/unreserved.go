package ports

import (
	"slices"

	"sockstate_exporter/internal/sock"
)

// NamedIn returns the ports of a range whose listeners have named them, instead of asking for any port.
// named has the cookies of such listeners.
func NamedIn(in sock.PortRange, listeners []Listener, named map[uint64]bool) []uint16 {
	var found []uint16
	for i := range listeners {
		l := &listeners[i]
		if named[l.Cookie] && in.Contains(l.Port) {
			found = append(found, l.Port)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// Outside removes the numbers that are in one of the ranges.
func Outside(numbers []uint16, ranges []sock.PortRange) []uint16 {
	return slices.DeleteFunc(numbers, func(n uint16) bool {
		return slices.ContainsFunc(ranges, func(r sock.PortRange) bool { return r.Contains(n) })
	})
}
