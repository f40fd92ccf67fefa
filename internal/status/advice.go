package status

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// advice is what to do about a port, in sentences.
func advice(p *PortReport, port *bindrule.Port) []string {
	out := []string{}
	if len(p.Listeners) > 0 {
		out = append(out, whoListens(p))
		out = append(out, flaglessListeners(p.Listeners)...)
		out = append(out, halfServed(p)...)
	}
	w := inTheWay(p.Binds, port)
	out = append(out, w.open(p.Port)...)
	if !allSetReuseAddr(p.Listeners) || !w.free {
		out = append(out, w.flag()...)
	}
	return append(out, halfFree(p)...)
}

// whoListens names them, where all are known.
func whoListens(p *PortReport) string {
	var owners []string
	for i := range p.Listeners {
		owner := p.Listeners[i].Owner
		if owner == nil {
			return fmt.Sprintf("a process listens here; `ss -tlnp 'sport = :%d'` names it", p.Port)
		}
		if !slices.Contains(owners, owner.String()) {
			owners = append(owners, owner.String())
		}
	}
	if len(owners) > 1 {
		return strings.Join(owners, "; ") + " listen here"
	}
	return owners[0] + " listens here"
}

// flaglessListeners warns before it happens.
func flaglessListeners(listeners []ListenerReport) []string {
	var lacking []string
	for i := range listeners {
		if bindrule.Flag(listeners[i].ReuseAddr) == bindrule.No {
			lacking = append(lacking, listeners[i].Address.String())
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return []string{"set SO_REUSEADDR before bind(): the listener on " + strings.Join(lacking, " and ") +
		" lacks it, so that each connection which it closes first blocks its restart for 60 s (TIME_WAIT)"}
}

func allSetReuseAddr(listeners []ListenerReport) bool {
	return len(listeners) > 0 && !slices.ContainsFunc(listeners, func(l ListenerReport) bool {
		return bindrule.Flag(l.ReuseAddr) != bindrule.Yes
	})
}

// halfServed: of a server that opens IPv4 and IPv6 apart, one half may have failed unseen.
func halfServed(p *PortReport) []string {
	for i := range p.Listeners {
		if p.Listeners[i].Address != netip.IPv6Unspecified() || bindrule.Flag(p.Listeners[i].V6Only) != bindrule.Yes {
			return nil
		}
	}
	return []string{"only IPv6 is served: the listener on :: has IPV6_V6ONLY. If IPv4 should be, that half of the server is missing"}
}

// halfFree: such a server would come up with one half.
func halfFree(p *PortReport) []string {
	i := slices.IndexFunc(p.Binds, func(b BindReport) bool { return b.half })
	if i < 0 || p.Binds[i].Without.Outcome != Free {
		return nil
	}
	return []string{"IPv6 is free: of a server that opens 0.0.0.0 and :: apart (IPV6_V6ONLY), the IPv6 half alone would start"}
}

// obstacles are the sockets, listeners aside, that are in the way of any of the binds.
type obstacles struct {
	states       map[sock.State]uint64
	last         time.Duration // until those in TIME_WAIT are gone
	lastLacking  time.Duration // until those of them are that were opened without the flag
	timeWait     bool
	blocked      bool // without SO_REUSEADDR
	free         bool // with it
	stillWaiting bool // with it, sockets in TIME_WAIT are in the way
	doubtful     bool // with it, it is not known whether they are
}

func inTheWay(binds []BindReport, port *bindrule.Port) obstacles {
	w := obstacles{states: make(map[sock.State]uint64), free: true}
	seen := make(map[int]bool)
	for i := range binds {
		without, with := &binds[i].withoutAside, &binds[i].withAside
		w.blocked = w.blocked || without.Outcome == bindrule.Blocked
		w.free = w.free && with.Outcome == bindrule.Free
		for _, n := range without.Blockers {
			s := &port.Sockets[n]
			if s.Kind == sock.KindTimeWait {
				w.timeWait, w.last = true, max(w.last, s.Expires)
				if slices.Contains(with.Blockers, n) {
					w.stillWaiting, w.lastLacking = true, max(w.lastLacking, s.Expires)
				}
				w.doubtful = w.doubtful || slices.Contains(with.Doubtful, n)
			} else if !seen[n] {
				w.states[s.State] += s.Count
			}
			seen[n] = true
		}
	}
	return w
}

// open explains the sockets that no timer is known to end.
func (w *obstacles) open(port uint16) []string {
	who := fmt.Sprintf("`ss -tanp 'sport = :%d'`", port)
	var out []string
	for _, e := range []struct {
		states []netlinkdiag.State
		means  string
	}{
		{[]netlinkdiag.State{netlinkdiag.StateEstablished, netlinkdiag.StateSynSent},
			"connections that a process has open; " + who + " names it: end that process"},
		{[]netlinkdiag.State{netlinkdiag.StateCloseWait},
			"connections that the other end has closed and a process here has not; " + who + " names it: end that process, since waiting does not help"},
		{[]netlinkdiag.State{netlinkdiag.StateFinWait1, netlinkdiag.StateFinWait2, netlinkdiag.StateClosing, netlinkdiag.StateLastAck},
			"connections that were closed here and wait for the other end; once no process holds them (" + who + "), the kernel gives them up, mostly within minutes"},
		{[]netlinkdiag.State{netlinkdiag.StateClose},
			fmt.Sprintf("a process has bound the port and does not listen, or not yet; `ss -tanpB 'sport = :%d'` names it (iproute2 of 2024 and later)", port)},
	} {
		var present []string
		for _, s := range e.states {
			if w.states[sock.State(s)] > 0 {
				present = append(present, strings.ToUpper(s.String()))
			}
		}
		if len(present) > 0 {
			name := strings.Join(present, ", ")
			if name == "CLOSE" {
				name = "bound"
			}
			out = append(out, name+": "+e.means)
		}
	}
	return out
}

// flag says whether SO_REUSEADDR would help.
func (w *obstacles) flag() []string {
	left, lacking := wait(w.last.Seconds()), wait(w.lastLacking.Seconds())
	switch {
	case !w.blocked:
		return nil
	case w.free && w.timeWait && len(w.states) == 0:
		return []string{"set SO_REUSEADDR before bind(): the sockets in TIME_WAIT have it too, and then are not in the way. Without it, wait " + left}
	case w.free:
		return []string{"set SO_REUSEADDR before bind(): the sockets that are left have it too, and then are not in the way"}
	case w.stillWaiting && w.lastLacking < w.last:
		return []string{"set SO_REUSEADDR before bind() and wait " + lacking + ", until the sockets in TIME_WAIT that were opened without it are gone; without it, wait " + left}
	case w.stillWaiting:
		return []string{"wait " + left + ": the sockets in TIME_WAIT were opened without SO_REUSEADDR, and setting it now does not help against them; from the next restart on it does"}
	case w.doubtful:
		return []string{"wait " + left + ". Whether SO_REUSEADDR helps at once depends on whether the sockets in TIME_WAIT were opened with it, which could not be seen"}
	default:
		return nil
	}
}
