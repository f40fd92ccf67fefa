package collector

import (
	"math"
	"net/netip"
	"strconv"
	"time"

	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// restartFamily: whether a restart could bind now.
type restartFamily struct {
	blockers *Metric
	blocked  *Metric
	restart  *Metric
	info     *Metric
}

func newRestartFamily() *restartFamily {
	const source = "the rules of inet_csk_get_port on sockets from sock_diag and eBPF"
	return &restartFamily{
		blockers: gauge("tcp_bind_blockers",
			"Sockets that would make bind() to the address and port fail, listeners aside, for a binder with SO_REUSEADDR (reuseaddr true) or without; by state. The addresses are those that listen, or listened last, on the port; without any, the wildcards. Absent where that cannot be known.",
			source, "netns", "address", "port", "family", "reuseaddr", "state"),
		blocked: gauge("tcp_bind_blocked_seconds",
			"Seconds for which bind() to the address and port would keep failing, listeners aside: 0 it would succeed now, +Inf a live socket is in the way. For a binder with SO_REUSEADDR (reuseaddr true) or without. Absent where that cannot be known.",
			source, "netns", "address", "port", "family", "reuseaddr"),
		restart: gauge("tcp_restart_blocked_seconds",
			"Seconds for which a restart of this listener, with its address and flags, could not bind: 0 it could now, +Inf a live socket is in the way. Kept after the listener went, for the watch retention. Absent where that cannot be known.",
			source, "netns", "address", "port", "family"),
		info: gauge("tcp_restart_info",
			"1 for each address that sockstate_tcp_restart_blocked_seconds is of: whose listener it is, or was. process and unit as in sockstate_tcp_listener_info; kept after the listener went, for the watch retention. Absent before there was one.",
			"/proc/PID/fd, comm and cgroup", "netns", "address", "port", "family", "process", "unit"),
	}
}

func (*restartFamily) name() string { return "restart" }

func (f *restartFamily) metrics() []*Metric {
	return []*Metric{f.blockers, f.blocked, f.restart, f.info}
}

func (*restartFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Verdicts.Duration, ns.Verdicts.Err })
}

// blockingStates are the states in which a socket can be in the way of a bind.
func blockingStates() []netlinkdiag.State {
	return []netlinkdiag.State{
		netlinkdiag.StateEstablished, netlinkdiag.StateSynSent, netlinkdiag.StateFinWait1, netlinkdiag.StateFinWait2,
		netlinkdiag.StateTimeWait, netlinkdiag.StateClose, netlinkdiag.StateCloseWait, netlinkdiag.StateLastAck, netlinkdiag.StateClosing,
	}
}

func (f *restartFamily) collect(s *snapshot.Snapshot, ch *sink) {
	for ns := range s.Namespaces() {
		if ns.Verdicts.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *restartFamily) collectIn(ns *snapshot.Namespace, netns string, ch *sink) {
	states := blockingStates()
	for _, p := range ns.Verdicts.Data {
		port := strconv.Itoa(int(p.Number))
		for i := range p.Binds {
			b := &p.Binds[i]
			address, family, reuseaddr := b.Address.String(), snapshot.FamilyOf(b.Address).String(), strconv.FormatBool(b.ReuseAddr)
			if seconds, ok := blockedSeconds(&b.Verdict); ok {
				ch.put(f.blocked, seconds, netns, address, port, family, reuseaddr)
			}
			if !b.BlockersKnown {
				continue
			}
			for _, state := range states {
				ch.put(f.blockers, float64(b.Blockers[state]), netns, address, port, family, reuseaddr, state.String())
			}
		}
		f.restarts(p.Restarts, netns, port, ch)
	}
}

// restarts shows one verdict an address: of listeners on several devices the worst.
func (f *restartFamily) restarts(restarts []snapshot.RestartVerdict, netns, port string, ch *sink) {
	worst := make(map[netip.Addr]*snapshot.RestartVerdict, len(restarts))
	var order []netip.Addr
	for i := range restarts {
		r := &restarts[i]
		before, seen := worst[r.Address]
		if !seen {
			order = append(order, r.Address)
		}
		if !seen || r.Worse(&before.Verdict) {
			worst[r.Address] = r
		}
	}
	for _, address := range order {
		r := worst[address]
		labels := []string{netns, address.String(), port, snapshot.FamilyOf(address).String()}
		if seconds, ok := blockedSeconds(&r.Verdict); ok {
			ch.put(f.restart, seconds, labels...)
		}
		ch.put(f.info, 1, append(labels, sock.Printable(r.Owner.Process), sock.Printable(r.Owner.Service()))...)
	}
}

func blockedSeconds(v *snapshot.Verdict) (float64, bool) {
	left, forever, ok := v.Remaining()
	if forever {
		return math.Inf(1), ok
	}
	return left.Seconds(), ok
}
