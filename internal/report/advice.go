package report

import (
	"fmt"
	"slices"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/words"
)

// advice is what to do about a port, in sentences. incomplete says that the port may have
// sockets that nobody saw.
func advice(p *PortReport, onlyIPv6, incomplete bool) []string {
	out := []string{}
	if len(p.Listeners) > 0 {
		out = append(out, whoListens(p))
		out = append(out, withoutReuseAddr(p.Listeners)...)
	}
	if onlyIPv6 {
		out = append(out, "only IPv6 is served: the listener on :: has IPV6_V6ONLY. If IPv4 should be, that half of the server is missing")
	}
	o := obstaclesOf(p.Binds, incomplete)
	out = append(out, o.open(p.Port, len(p.Listeners) > 0)...)
	if !allSetReuseAddr(p.Listeners) || !o.free {
		out = append(out, o.flag()...)
	}
	return append(out, halfFree(p)...)
}

// whoListens names the owners if all are known.
func whoListens(p *PortReport) string {
	var owners []string
	for i := range p.Listeners {
		by := p.Listeners[i].Owner
		if by == nil {
			return whyUnnamed(p.Port, p.Listeners[i].Absence)
		}
		if !slices.Contains(owners, by.String()) {
			owners = append(owners, by.String())
		}
	}
	if len(owners) > 1 {
		return strings.Join(owners, "; ") + " listen here"
	}
	return owners[0] + " listens here"
}

// whyUnnamed says why nobody is named who listens.
func whyUnnamed(port uint16, absence owner.Absence) string {
	switch absence {
	case owner.NoProcess:
		return "no process shows the listening socket among its descriptors: it is registered with io_uring, on its way through a Unix socket (SCM_RIGHTS), in a thread with descriptors of its own, or the kernel's own (NFS)"
	case owner.Hidden:
		return fmt.Sprintf("no process that may be looked into listens here; `ss -tlnp 'sport = :%d'`, as root on the host, may name one", port)
	default:
		return fmt.Sprintf("a process listens here; `ss -tlnp 'sport = :%d'` names it", port)
	}
}

// withoutReuseAddr warns of a restart that will be blocked.
func withoutReuseAddr(listeners []ListenerReport) []string {
	var lacking []string
	for i := range listeners {
		if listeners[i].ReuseAddr == bindrule.No {
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
	return len(listeners) > 0 && !slices.ContainsFunc(listeners, func(l ListenerReport) bool { return l.ReuseAddr != bindrule.Yes })
}

// halfFree warns of a server that would start with its IPv6 half only.
func halfFree(p *PortReport) []string {
	i := slices.IndexFunc(p.Binds, func(b BindReport) bool { return b.OtherHalf })
	if i < 0 || p.Binds[i].Without.Outcome != Free {
		return nil
	}
	return []string{"IPv6 is free: of a server that opens 0.0.0.0 and :: apart (IPV6_V6ONLY), the IPv6 half alone would start"}
}

// obstacles are the sockets that block any of the binds and do not listen. Advice on those
// is for a restart, which closes the listeners.
type obstacles struct {
	states       []string // of the sockets that no timer ends
	last         float64  // seconds until the sockets in TIME_WAIT are gone
	lastLacking  float64  // seconds until those without SO_REUSEADDR are gone
	timeWait     bool
	blocked      bool // without SO_REUSEADDR
	free         bool // with SO_REUSEADDR
	stillWaiting bool // with SO_REUSEADDR, sockets in TIME_WAIT block
	doubtful     bool // with SO_REUSEADDR, it is not known whether they block
}

func obstaclesOf(binds []BindReport, incomplete bool) obstacles {
	o := obstacles{free: true}
	listens := func(b Blocker) bool { return b.State == "listen" }
	for i := range binds {
		with := &binds[i].With
		o.free = o.free && (with.Outcome == Free || !incomplete && !slices.ContainsFunc(with.Blockers, func(b Blocker) bool { return !listens(b) }))
		for _, b := range binds[i].Without.Blockers {
			switch {
			case !b.Certain || listens(b):
				continue
			case b.ExpiresSeconds == nil:
				o.states = append(o.states, b.State)
			default:
				o.timeWait, o.last = true, max(o.last, *b.ExpiresSeconds)
				o.doubtful = o.doubtful || b.ReuseAddr == bindrule.FlagUnknown && with.Outcome != Free
				if b.ReuseAddr == bindrule.No && with.Outcome != Free {
					o.stillWaiting, o.lastLacking = true, max(o.lastLacking, *b.ExpiresSeconds)
				}
			}
			o.blocked = true
		}
	}
	return o
}

// open explains the sockets that no timer is known to end. It advises nobody to end a process: where
// something listens, the connections are mostly its own, and otherwise they may be a healthy client's.
func (o *obstacles) open(port uint16, listening bool) []string {
	who := fmt.Sprintf("`ss -tanp 'sport = :%d'`", port)
	established := "connections that a process has open; " + who + " names it. If a server that has ended left it behind, stop it too. " +
		"If it is a client that has this port for its own end, net.ipv4.ip_local_reserved_ports keeps clients off"
	closeWait := "the other end has closed these connections, and a process here has not; " + who + " names it. " +
		"Waiting does not help; if a server that has ended left the process behind, stop it too"
	if listening {
		established = "connections to the server that runs here; they end when it stops, and those that it closes first stay for 60 s more (TIME_WAIT)"
		closeWait = "the other end has closed these connections, and the server has not, or has not accepted them; they end when it stops"
	}
	var out []string
	for _, e := range []struct {
		states []string
		means  string
	}{
		{[]string{"established", "syn_sent"}, established},
		{[]string{"close_wait"}, closeWait},
		{[]string{"fin_wait1", "fin_wait2", "closing", "last_ack"},
			"connections that were closed here and wait for the other end; once no process holds them (" + who + "), the kernel gives them up, mostly within minutes"},
		{[]string{"close"},
			fmt.Sprintf("a process has bound the port and does not listen, or not yet; `ss -tanpB 'sport = :%d'` names it (iproute2 of 2024 and later)", port)},
	} {
		var present []string
		for _, state := range e.states {
			if slices.Contains(o.states, state) {
				present = append(present, InState(state))
			}
		}
		if len(present) > 0 {
			out = append(out, strings.Join(present, ", ")+": "+e.means)
		}
	}
	return out
}

// flag says whether SO_REUSEADDR would help.
func (o *obstacles) flag() []string {
	left, lacking := words.Seconds(o.last), words.Seconds(o.lastLacking)
	switch {
	case !o.blocked:
		return nil
	case o.free && o.timeWait && len(o.states) == 0:
		return []string{"set SO_REUSEADDR before bind(): the sockets in TIME_WAIT have it too, and then are not in the way. Without it, wait " + left}
	case o.free:
		return []string{"set SO_REUSEADDR before bind(): the sockets that are left have it too, and then are not in the way"}
	case o.stillWaiting && o.lastLacking < o.last:
		return []string{"set SO_REUSEADDR before bind() and wait " + lacking + ", until the sockets in TIME_WAIT that were opened without it are gone; without it, wait " + left}
	case o.stillWaiting:
		return []string{"wait " + left + ": the sockets in TIME_WAIT were opened without SO_REUSEADDR, and setting it now does not help against them; from the next restart on it does"}
	case o.doubtful:
		return []string{"wait " + left + ". Whether SO_REUSEADDR helps at once depends on whether the sockets in TIME_WAIT were opened with it, which could not be seen"}
	default:
		return nil
	}
}
