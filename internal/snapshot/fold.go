package snapshot

import (
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A fold counts a stream of sockets per watched port: this runs once per socket.
type fold struct {
	set   watch.Set
	ports []PortSockets // as set.Ports
}

func newFold(set watch.Set) *fold {
	f := &fold{set: set, ports: make([]PortSockets, len(set.Ports))}
	f.reset()
	return f
}

// reset forgets all sockets.
func (f *fold) reset() {
	for i := range f.ports {
		f.ports[i] = PortSockets{Number: f.set.Ports[i].Number}
	}
}

func (f *fold) add(s *netlinkdiag.Socket) {
	half := f.count(s.Local.Port(), s.Family, s.State)
	if half != nil && s.State == netlinkdiag.StateTimeWait {
		half.TimeWaitRemaining = max(half.TimeWaitRemaining, s.Expires)
	}
}

// count counts a socket, and returns where; nil where its port is not watched.
func (f *fold) count(port uint16, family netlinkdiag.Family, state netlinkdiag.State) *FamilySockets {
	i, ok := f.set.Find(port)
	if !ok {
		return nil
	}
	half := f.ports[i].Of(family)
	half.States[state]++
	return half
}

// lingering are the ports that have a socket other than a listener.
func lingering(ports []PortSockets) []uint16 {
	var out []uint16
	for i := range ports {
		if ports[i].lingers() {
			out = append(out, ports[i].Number)
		}
	}
	return out
}

// ranges are the ports as a filter takes them.
func ranges(ports []watch.Port) []netlinkdiag.PortRange {
	out := make([]netlinkdiag.PortRange, len(ports))
	for i, p := range ports {
		out[i] = netlinkdiag.Port(p.Number)
	}
	return out
}
