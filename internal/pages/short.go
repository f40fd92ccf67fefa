package pages

import (
	"fmt"

	"sockstate_exporter/internal/pages/short"
)

// Short is the one line of a port that is fine, where the page shows all ports; else nil.
func (p *PortsPage) Short(r *PortRow) *short.Line {
	switch {
	case p.Filtered() || r.Level() != good || r.FailedBinds != nil || len(r.Verdict) > 1 || r.ListenersLeftOut > 0:
		return nil
	case r.UDP != nil:
		return r.shortUDP()
	case len(r.Listeners) > 0:
		return r.shortTCP()
	default:
		return nil
	}
}

func (r *PortRow) shortTCP() *short.Line {
	line, fullest := short.New(), &r.Listeners[0]
	for i := range r.Listeners {
		l := &r.Listeners[i]
		line.Add(l.Place(), l.By())
		line.Count(l.Drops)
		if l.QueueRatio > fullest.QueueRatio {
			fullest = l
		}
	}
	line.Queue = fmt.Sprintf("%d of %d", fullest.Queue, fullest.QueueLimit)
	return line
}

func (r *PortRow) shortUDP() *short.Line {
	line := short.New()
	line.Queue = fmt.Sprintf("%d bytes", max(r.UDP.IPv4.Queue, r.UDP.IPv6.Queue))
	for _, family := range r.UDP.Lines() {
		for i := range family.Servers {
			s := &family.Servers[i]
			line.Add(s.Place(), s.By())
		}
		if len(family.Servers) == 0 {
			line.Add(family.Text(), "")
		}
		line.Count(family.Drops)
	}
	return line
}
