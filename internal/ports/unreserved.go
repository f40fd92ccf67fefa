package ports

import (
	"slices"

	"sockstate_exporter/internal/sock"
)

// Unreserved returns the ports of servers that an outgoing connection can take: those of ip_local_port_range
// that their programs have named, instead of asking for any port. named has the cookies of such listeners, and
// reserved returns ip_local_reserved_ports. Where that is not known, there are none.
func Unreserved(in sock.PortRange, listeners []Listener, named map[uint64]bool, reserved func() ([]sock.PortRange, error)) []uint16 {
	var found []uint16
	for i := range listeners {
		l := &listeners[i]
		if named[l.Cookie] && in.Contains(l.Port) {
			found = append(found, l.Port)
		}
	}
	if len(found) == 0 {
		return nil
	}
	ranges, err := reserved()
	if err != nil {
		return nil
	}
	slices.Sort(found)
	return slices.DeleteFunc(slices.Compact(found), func(n uint16) bool {
		return slices.ContainsFunc(ranges, func(r sock.PortRange) bool { return r.Contains(n) })
	})
}
