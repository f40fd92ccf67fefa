package status

import (
	"fmt"
	"slices"
	"strings"

	"sockstate_exporter/internal/ports"
)

// A portsView is /ports as HTML; the JSON form is that of its PortsPage alone.
type portsView struct {
	*PortsPage
	pageView
}

func (v *portsView) data() any { return v.PortsPage }

// FailedParts are the parts that should be there and are not.
func (v *portsView) FailedParts() []string { return failedParts(v.Parts) }

// OffParts are the parts that are switched off.
func (v *portsView) OffParts() string { return offParts(v.Parts) }

// LackingFeatures are what does not work here.
func (v *portsView) LackingFeatures() []string { return lackingFeatures(v.Features) }

// Summary counts the ports by their worst problem.
func (v *portsView) Summary() string {
	out := plural(uint64(v.total), "watched port")
	var kinds []string
	for _, p := range problems {
		if n := v.problems[p]; n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, p.Text()))
		}
	}
	if len(kinds) == 0 {
		return out + "."
	}
	return out + ": " + strings.Join(kinds, ", ") + "."
}

// EmptyText says why there is no port.
func (v *portsView) EmptyText() string {
	switch {
	case len(failedParts(v.Parts)) > 0:
		return "No watched port is known."
	case v.Filtered():
		return "No watched port is like that."
	default:
		return "No port is watched: nothing listens, and no --watch.port was given."
	}
}

// Text is the problem in words.
func (p Problem) Text() string {
	switch p {
	case Down:
		return "down and blocked"
	case NoListener:
		return "nobody listens"
	case NoSocket:
		return "no socket"
	case QueueFull:
		return "accept queue full"
	case Dropping:
		return "dropping"
	case RestartBlocked:
		return "restart blocked"
	case NotKnown:
		return "not known"
	case ListenerGone:
		return "listener gone"
	case OnlyIPv6:
		return "only IPv6 is served"
	case NoReuseAddr:
		return "no SO_REUSEADDR"
	default:
		return "fine"
	}
}

// Level is how bad the problem is.
func (p Problem) Level() Level {
	switch p {
	case Down, NoListener, NoSocket, QueueFull, RestartBlocked:
		return bad
	case Dropping, NotKnown, ListenerGone, OnlyIPv6, NoReuseAddr:
		return warn
	default:
		return good
	}
}

// Level is that of its worst problem.
func (r *PortRow) Level() Level {
	if len(r.Problems) == 0 {
		return good
	}
	return r.Problems[0].Level()
}

// SourceText says why the port is watched.
func (r *PortRow) SourceText() string {
	if r.Source == ports.SourceFlag {
		return "--watch.port"
	}
	if r.IsUDP() {
		return "found open"
	}
	return "found listening"
}

// Level is that of the outcome.
func (s Sentence) Level() Level {
	switch s.Outcome {
	case Free:
		return good
	case Blocked:
		return bad
	default:
		return warn
	}
}

// TimeWaitText is how many sockets are in TIME_WAIT, and for how long.
func (r *PortRow) TimeWaitText() string {
	switch {
	case r.TimeWait == nil:
		return "not known"
	case r.TimeWait.Sockets == 0:
		return "0"
	default:
		return fmt.Sprintf("%d, %s left", r.TimeWait.Sockets, wait(r.TimeWait.RemainingSeconds))
	}
}

// A Line is a line of the table, of a listener, of a family of UDP sockets or of neither.
type Line struct {
	Listener *ListenerRow
	UDP      *UDPLine
}

// Lines are those of the port, one or more.
func (r *PortRow) Lines() []Line {
	switch {
	case r.IsUDP():
		return r.udpLines()
	case len(r.Listeners) == 0:
		return []Line{{}}
	}
	out := make([]Line, len(r.Listeners), len(r.Listeners)+1)
	for i := range r.Listeners {
		out[i].Listener = &r.Listeners[i]
	}
	if r.ListenersLeftOut > 0 {
		out = append(out, Line{})
	}
	return out
}

// NobodyText stands where no listener does.
func (r *PortRow) NobodyText() string {
	switch {
	case r.UDP != nil:
		return "no socket"
	case r.Listeners == nil:
		return "not known"
	case r.ListenersLeftOut > 0:
		return fmt.Sprintf("and %d more addresses", r.ListenersLeftOut)
	default:
		return "nobody"
	}
}

// LastText says who listened until lately, where nobody does now.
func (r *PortRow) LastText() string {
	var last []string
	for i := range r.Gone {
		for _, text := range []string{ownerText(r.Gone[i].Owner), ownerPlace(r.Gone[i].Owner)} {
			if text != "" && !slices.Contains(last, text) {
				last = append(last, text)
			}
		}
	}
	if len(r.Listeners) > 0 || len(last) == 0 {
		return ""
	}
	return "until lately " + strings.Join(some3(last), ", ")
}

// Place is where it listens.
func (l *ListenerRow) Place() string { return place(l.Address, l.Interface, l.V6Only) }

// OwnerText says whose it is.
func (l *ListenerRow) OwnerText() string { return ownerText(l.Owner) }

// OwnerPlace says what that belongs to.
func (l *ListenerRow) OwnerPlace() string { return ownerPlace(l.Owner) }

// Full says that a queue of the group is.
func (l *ListenerRow) Full() bool { return l.QueueRatio >= 1 }

// QueueText is the length of the accept queue, and how long it may be.
func (l *ListenerRow) QueueText() string { return fmt.Sprintf("%d of %d", l.Queue, l.QueueLimit) }

// DropsText is the number of dropped connections.
func (l *ListenerRow) DropsText() string { return dropsText(l.Drops) }

func dropsText(drops *uint64) string {
	if drops == nil {
		return "not known"
	}
	return count64(*drops)
}

// Flags are remarks on the group.
func (l *ListenerRow) Flags() []Tag {
	out := flagTags(l.ReuseAddr, l.ReusePort)
	if l.Sockets > 1 {
		out = append(out, Tag{plural(l.Sockets, "socket"), none})
	}
	if l.UID != nil {
		out = append(out, Tag{fmt.Sprintf("uid %d", *l.UID), none})
	}
	return out
}
