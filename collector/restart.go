package collector

import (
	"math"
	"strconv"
	"time"

	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

// restartFamily shows whether a restart of a listener could bind now.
type restartFamily struct {
	blockers *metric.Desc
	blocked  *metric.Desc
	restart  *metric.Desc
	info     *metric.Desc
}

func newRestartFamily() *restartFamily {
	return &restartFamily{
		blockers: metric.Gauge("tcp_bind_blockers",
			"Sockets other than listeners that would make bind() to the address and port fail, by state.", "netns", "address", "port", "family", "reuseaddr", "state"),
		blocked: metric.Gauge("tcp_bind_blocked_seconds",
			"Seconds until bind() would work if no one listened; 0 means now, +Inf means blocked by a live socket.", "netns", "address", "port", "family", "reuseaddr"),
		restart: metric.Gauge("tcp_restart_blocked_seconds",
			"Seconds until the listener could bind if it restarted; 0 means now, +Inf means blocked by a live socket.", "netns", "address", "port", "family"),
		info: metric.Gauge("tcp_restart_info",
			"1 for each address without a listener, with the process, systemd unit and container that listened there last.", "netns", "address", "port", "family", "process", "unit", "container"),
	}
}

func (*restartFamily) name() string { return "restart" }

func (f *restartFamily) metrics() []*metric.Desc {
	return []*metric.Desc{f.blockers, f.blocked, f.restart, f.info}
}

func (*restartFamily) outcome(s *snapshot.Snapshot) result {
	return inEach(s, func(ns *snapshot.Namespace) (time.Duration, error) { return ns.Verdicts.Duration, ns.Verdicts.Err })
}

func (f *restartFamily) collect(s *snapshot.Snapshot, ch *metric.Sink) {
	for ns := range s.Namespaces() {
		if ns.Verdicts.Err == nil {
			f.collectIn(ns, ns.Label(), ch)
		}
	}
}

func (f *restartFamily) collectIn(ns *snapshot.Namespace, netns string, ch *metric.Sink) {
	for i := range ns.Verdicts.Data {
		p := &ns.Verdicts.Data[i]
		seen := ns.Seen.TCP(p.Number)
		port := ch.Port(p.Number)
		for i := range p.Binds {
			b := &p.Binds[i]
			if !seen.InUse(sock.FamilyOf(b.Address)) {
				continue
			}
			address, family, reuseaddr := ch.Address(b.Address), sock.FamilyOf(b.Address).String(), strconv.FormatBool(b.ReuseAddr)
			if seconds, ok := blockedSeconds(&b.Verdict); ok {
				ch.Put(f.blocked, seconds, netns, address, port, family, reuseaddr)
			}
			if !b.BlockersKnown {
				continue
			}
			for state := range statesOf(seen.Blockers(b)) {
				ch.Put(f.blockers, float64(b.Blockers[state]), netns, address, port, family, reuseaddr, state.String())
			}
		}
		f.restarts(p.Restarts, netns, port, ch)
	}
}

// restarts shows one verdict per address. If listeners on several devices share an address, it
// is the worst. While one listens there, tcp_listener_info says who it is.
func (f *restartFamily) restarts(restarts []verdict.Restart, netns, port string, ch *metric.Sink) {
	for len(restarts) > 0 {
		r, listening := &restarts[0], false
		n := 0 // by address: those of one are in a row
		for ; n < len(restarts) && restarts[n].Address == r.Address; n++ {
			listening = listening || restarts[n].Listening
			if restarts[n].Worse(&r.Verdict) {
				r = &restarts[n]
			}
		}
		restarts = restarts[n:]
		address, family := ch.Address(r.Address), sock.FamilyOf(r.Address).String()
		if seconds, ok := blockedSeconds(&r.Verdict); ok {
			ch.Put(f.restart, seconds, netns, address, port, family)
		}
		if !listening {
			process, unit, container := r.Owner.Labels(r.Owner.Process)
			ch.Put(f.info, 1, netns, address, port, family, process, unit, container)
		}
	}
}

func blockedSeconds(v *verdict.Verdict) (float64, bool) {
	left, forever, ok := v.Remaining()
	if forever {
		return math.Inf(1), ok
	}
	return left.Seconds(), ok
}
