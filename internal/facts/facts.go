// Package facts puts together what is known of a failed bind: the event of the tracer, with the
// sockets that the kernel captured, and what the exporter saw afterwards. internal/diagnosis turns the
// facts into words.
//
// The package is pure.
package facts

import (
	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

// A Finding is what made a bind fail.
type Finding struct {
	Cause     verdict.Cause
	Blockers  []bindrule.Socket
	Diagnosis diagnosis.Diagnosis
}

// An Observation is what was known of a port when the exporter looked.
type Observation struct {
	Seen   bindrule.Port // after the call; empty where the kernel captured everything
	Err    error         // why not everything was seen
	Host   diagnosis.Host
	Owners map[uint64]owner.Owner // by SocketID
}

// Explain says what made a bind fail. What the kernel captured as it failed is
// right. What was seen afterwards counts only where the capture is not complete.
func (s *Observation) Explain(e *bindtrace.Event, request bindrule.Request, by owner.Owner) Finding {
	captured := s.captured(e, request)
	f := Finding{}
	facts := factsOf(e, request, by)
	facts.Host, facts.Err = s.Host, s.Err
	switch {
	case len(captured) > 0 && e.Captured == bindtrace.CaptureAll:
		facts.Blockers, facts.Seen = captured, diagnosis.AtFailure
		f.Cause, f.Blockers = causeOf(captured)
	default:
		f.Cause, f.Blockers = verdict.Explain(&s.Seen, request)
		facts.Blockers, facts.Seen, facts.Partial = withDetails(f.Blockers, captured), diagnosis.Afterwards, s.Seen.Incomplete
		if len(f.Blockers) == 0 && len(captured) > 0 {
			facts.Blockers, facts.Seen, facts.Partial = captured, diagnosis.AtFailure, true
			f.Cause, f.Blockers = causeOf(captured)
		}
	}
	f.Diagnosis = diagnosis.Of(&facts)
	return f
}

// OfEvent is the diagnosis of a bind by its event alone.
func OfEvent(e *bindtrace.Event, request bindrule.Request, by owner.Owner) diagnosis.Diagnosis {
	facts := factsOf(e, request, by)
	return diagnosis.Of(&facts)
}

// factsOf has what the event says.
func factsOf(e *bindtrace.Event, request bindrule.Request, by owner.Owner) diagnosis.Facts {
	facts := diagnosis.Facts{
		Errno: e.Errno, Protocol: e.Protocol, Port: e.Port, PortKnown: e.PortKnown, OwnRange: e.OwnRange,
		Request: request, Process: e.Command(), By: by, Host: diagnosis.Host{UnprivilegedPortStart: -1},
	}
	if e.Op == bindtrace.OpListen {
		facts.Call = diagnosis.Listen
	}
	return facts
}

// Complete says that the kernel has captured everything that blocked the bind.
func (s *Observation) Complete(e *bindtrace.Event, request bindrule.Request) bool {
	return e.Captured == bindtrace.CaptureAll && len(s.captured(e, request)) > 0
}

// captured are the sockets that the kernel captured, and that block the request by the rules of
// bind().
func (s *Observation) captured(e *bindtrace.Event, request bindrule.Request) []diagnosis.Blocker {
	port := bindrule.Port{Bucket: bindrule.Bucket{Known: true}}
	for i := range e.Blockers {
		port.Sockets = append(port.Sockets, socketOf(&e.Blockers[i]))
	}
	var out []diagnosis.Blocker
	for _, i := range port.Bind(request).Blockers {
		b := &e.Blockers[i]
		holder := s.Owners[SocketID(b)]
		out = append(out, diagnosis.Blocker{
			Socket: port.Sockets[i], Peer: b.Peer, Opened: b.Outgoing, Own: b.Own, Held: b.Inode != 0,
			Holder: holder, Opener: goneOpener(&holder),
		})
	}
	return out
}

// goneOpener is the process that opened the socket, if it has ended.
func goneOpener(o *owner.Owner) owner.Owner {
	if o.Opener == nil || !o.Opener.Ended {
		return owner.Owner{}
	}
	return owner.Owner{
		Process: o.Opener.Process, Unit: o.Opener.Unit, Runtime: o.Opener.Runtime, Container: o.Opener.Container,
		Within: o.Opener.Within, PID: o.Opener.PID, Processes: 1,
	}
}

func socketOf(b *bindtrace.Blocker) bindrule.Socket {
	s := bindrule.Socket{
		Addr: b.Addr, Ifindex: b.Ifindex, V6Only: bindrule.FlagOf(b.V6Only),
		ReuseAddr: bindrule.FlagOf(b.ReuseAddr), ReusePort: bindrule.FlagOf(b.ReusePort),
		State: b.State, Kind: b.Kind, Count: 1, Expires: b.Expires,
	}
	if b.Kind == sock.KindFull {
		s.UID = bindrule.UIDOf(b.UID)
	}
	return s
}

// SocketID identifies a captured socket. The kernel gives a cookie only to sockets that somebody
// has asked about.
func SocketID(b *bindtrace.Blocker) uint64 {
	if b.Cookie != 0 {
		return b.Cookie
	}
	return 1<<63 | b.Inode
}

func causeOf(captured []diagnosis.Blocker) (verdict.Cause, []bindrule.Socket) {
	cause, sockets := verdict.CauseUnknown, make([]bindrule.Socket, len(captured))
	for i := range captured {
		sockets[i] = captured[i].Socket
		if of := verdict.CauseOf(&sockets[i]); of.Before(cause) {
			cause = of
		}
	}
	return cause, sockets
}

// withDetails are sockets that were seen afterwards, with what the capture says of one of the same
// kind.
func withDetails(sockets []bindrule.Socket, captured []diagnosis.Blocker) []diagnosis.Blocker {
	out := make([]diagnosis.Blocker, len(sockets))
	for i := range sockets {
		out[i] = diagnosis.Blocker{Socket: sockets[i]}
		for n := range captured {
			if c := &captured[n]; c.State == sockets[i].State && c.Kind == sockets[i].Kind {
				out[i].Opened, out[i].Own, out[i].Held, out[i].Holder, out[i].Opener = c.Opened, c.Own, c.Held, c.Holder, c.Opener
				break
			}
		}
	}
	return out
}
