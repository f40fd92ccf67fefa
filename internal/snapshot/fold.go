package snapshot

import (
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/netlinkdiag"
)

// A fold counts a stream of sockets per watched port: this runs once per socket.
type fold struct {
	set   ports.Set
	ports []PortSockets // as set.Ports

	// held has what bind() would meet, of the sockets whose flags nobody else reads: of
	// bound ones that neither listen nor connect, or of all.
	held    []holders // as set.Ports
	holdAll bool

	clients *clients
	unseen  netlinkdiag.StateSet // as PortSockets

	at time.Time // that the dump ended
}

func newFold(set ports.Set, holdAll bool, c *clients) *fold {
	f := &fold{
		set: set, ports: make([]PortSockets, len(set.Ports)), held: make([]holders, len(set.Ports)), holdAll: holdAll,
		clients: c,
	}
	f.reset()
	return f
}

// leaveOut says that sockets of those states are not looked for.
func (f *fold) leaveOut(states ...netlinkdiag.State) {
	f.unseen = netlinkdiag.States(states...)
	f.reset()
}

// reset forgets all sockets.
func (f *fold) reset() {
	for i := range f.ports {
		f.ports[i] = PortSockets{Number: f.set.Ports[i].Number, Unseen: f.unseen}
		f.held[i] = holders{}
	}
	f.clients.reset()
}

func (f *fold) add(s *netlinkdiag.Socket) {
	f.clients.add(s)
	i, ok := f.set.Find(s.Local.Port())
	if !ok {
		return
	}
	half := f.ports[i].Of(s.Family)
	half.States[s.State]++
	if s.State == netlinkdiag.StateTimeWait {
		half.TimeWaitRemaining = max(half.TimeWaitRemaining, s.Expires)
	}
	if f.holdAll || s.State == netlinkdiag.StateClose {
		f.held[i].add(s)
	}
}

// addListener counts a socket of another dump.
func (f *fold) addListener(l *listener) {
	if i, ok := f.set.Find(l.key.Port); ok {
		f.ports[i].Of(l.key.Family).States[netlinkdiag.StateListen]++
	}
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
func ranges(ports []ports.Port) []netlinkdiag.PortRange {
	out := make([]netlinkdiag.PortRange, len(ports))
	for i, p := range ports {
		out[i] = netlinkdiag.Port(p.Number)
	}
	return out
}
