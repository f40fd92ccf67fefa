package facts

import (
	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/udpcause"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
)

// explainUDP explains a bind to a UDP port by the sockets that blocked it. Those that the kernel captured are right,
// also where there were more.
func (s *Observation) explainUDP(f *diagnosis.Facts, e *bindtrace.Event, request bindrule.Request) diagnosis.Diagnosis {
	s.seeUDP(f, e, request)
	return udpcause.Of(f)
}

func (s *Observation) seeUDP(f *diagnosis.Facts, e *bindtrace.Event, request bindrule.Request) {
	f.Partial = e.Captured != bindtrace.CaptureAll
	if f.Blockers = s.captured(e, request); len(f.Blockers) > 0 {
		f.Seen = diagnosis.AtFailure
		s.nameHandlers(f.Blockers)
		return
	}
	if s.UDP == nil {
		if e.Captured != bindtrace.CaptureNone {
			f.Seen = diagnosis.AtFailure
		}
		return
	}
	f.Seen, f.Partial = diagnosis.Afterwards, s.UDP.Incomplete
	f.Blockers, _ = UDPBlockers(s.UDP, request, nil)
}

// nameHandlers says what the kernel's own sockets are for: they stay, so they are looked at afterwards.
func (s *Observation) nameHandlers(blockers []diagnosis.Blocker) {
	if s.UDP == nil {
		return
	}
	for i := range blockers {
		for j := range s.UDP.Sockets {
			if seen := &s.UDP.Sockets[j]; blockers[i].Kernel && seen.Kernel && seen.Addr == blockers[i].Addr {
				blockers[i].Handler = seen.Handler
			}
		}
	}
}

// UDPBlockers are the sockets that block a bind, and the verdict. aside are left out; nil: none are.
func UDPBlockers(p *udp.Port, request bindrule.Request, aside func(*udp.Socket) bool) ([]diagnosis.Blocker, bindrule.Verdict) {
	rule, index := p.Rule(aside)
	v := rule.Bind(request)
	return udpBlockersOf(p, v.Blockers, index), v
}

func udpBlockersOf(p *udp.Port, blockers, index []int) []diagnosis.Blocker {
	var out []diagnosis.Blocker
	for _, i := range blockers {
		s := &p.Sockets[index[i]]
		out = append(out, diagnosis.Blocker{
			Socket: s.Socket, Outgoing: s.Chosen, Held: !s.Kernel, Kernel: s.Kernel, Handler: s.Handler,
			Holder: s.Owner, Opener: goneOpener(&s.Owner),
		})
	}
	return out
}

// UDPBind is the diagnosis of a bind to a UDP port that nobody has made. It is empty where the bind would
// work. by is who would bind again; nil: somebody else than those who have sockets.
func UDPBind(p *udp.Port, request bindrule.Request, by *owner.Owner, aside func(*udp.Socket) bool) (diagnosis.Diagnosis, bindrule.Verdict) {
	rule, index := p.Rule(aside)
	v := rule.Bind(request)
	if v.Outcome == bindrule.Free {
		return diagnosis.Diagnosis{}, v
	}
	f := diagnosis.Facts{
		Protocol: sock.UDP, Port: p.Number, PortKnown: true, Request: request, Seen: diagnosis.Now, Partial: p.Incomplete,
		Host: diagnosis.Host{UnprivilegedPortStart: -1},
	}
	if v.Outcome == bindrule.Blocked {
		f.Blockers = udpBlockersOf(p, v.Blockers, index)
	} else {
		f.Doubtful = append(udpBlockersOf(p, v.Doubtful, index), udpBlockersOf(p, v.Blockers, index)...)
	}
	if by != nil {
		f.Call, f.By, f.Running = diagnosis.Restart, *by, true
	}
	return udpcause.Of(&f), v
}
