package share

import "maps"

// PortNames bounds the names of those who use each of some ports. The zero value is ready for use. It is not
// safe for concurrent use.
type PortNames map[uint16]*Names

// Keep forgets the ports that are not watched any more.
func (p *PortNames) Keep(watched func(port uint16) bool) {
	maps.DeleteFunc(*p, func(port uint16, _ *Names) bool { return !watched(port) })
}

// Of returns the names on a port.
func (p *PortNames) Of(port uint16) *Names {
	if *p == nil {
		*p = make(PortNames)
	}
	names, ok := (*p)[port]
	if !ok {
		names = new(Names)
		(*p)[port] = names
	}
	return names
}
