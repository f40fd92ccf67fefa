// Package facts puts together what is known of a failed bind: the event of the tracer, with the
// sockets that the kernel captured, and what the exporter saw afterwards. internal/diagnosis turns the
// facts into words.
//
// The package is pure.
package facts

import (
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

// An Observation is what was known of a port when the exporter looked.
type Observation struct {
	Seen   bindrule.Port // after the call; empty where the kernel captured everything
	Err    error         // why not everything was seen
	Host   diagnosis.Host
	Owners map[uint32]owner.Owner // by inode of the socket
}

// CodeOf is the diagnosis of a failed bind by its event alone.
func CodeOf(e *bindtrace.Event) diagnosis.Code {
	facts := factsOf(e, bindrule.Request{}, owner.Owner{})
	d := diagnosis.Of(&facts)
	return d.Code
}

// Explain says why a bind failed. What the kernel captured as it failed is
// right. What was seen afterwards counts only where the capture is not complete.
func (s *Observation) Explain(e *bindtrace.Event, request bindrule.Request, by owner.Owner) diagnosis.Diagnosis {
	captured := s.captured(e, request)
	facts := factsOf(e, request, by)
	facts.Host, facts.Err = s.Host, s.Err
	facts.Blockers, facts.Seen = captured, diagnosis.AtFailure
	if len(captured) == 0 || e.Captured != bindtrace.CaptureAll {
		facts.Partial = true
		if sockets := verdict.Explain(&s.Seen, request); len(captured) == 0 || len(sockets) > 0 {
			facts.Blockers, facts.Seen, facts.Partial = withDetails(sockets, captured), diagnosis.Afterwards, s.Seen.Incomplete
		}
	}
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
		holder := s.Owners[uint32(b.Inode)]
		out = append(out, diagnosis.Blocker{
			Socket: port.Sockets[i], Peer: b.Peer, Outgoing: b.Outgoing, Own: b.Own, Held: b.Inode != 0,
			Holder: holder, Opener: goneOpener(&holder),
		})
	}
	return out
}

// goneOpener is the process that opened the socket, if it has ended. A daemon that puts itself into the
// background is the same program: nobody has inherited its socket.
func goneOpener(o *owner.Owner) owner.Owner {
	if o.Opener == nil || !o.Opener.Ended || o.Opener.SameProgram {
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

// withDetails are sockets that were seen afterwards, with what the capture says of the same address and
// state. What holds for each of several connections is known, but not who has them all.
func withDetails(sockets []bindrule.Socket, captured []diagnosis.Blocker) []diagnosis.Blocker {
	out := make([]diagnosis.Blocker, len(sockets))
	for i := range sockets {
		out[i].Socket = sockets[i]
		alike := func(c diagnosis.Blocker) bool {
			return c.State == sockets[i].State && c.Kind == sockets[i].Kind && c.Addr == sockets[i].Addr && c.UID == sockets[i].UID
		}
		n := slices.IndexFunc(captured, alike)
		if n < 0 {
			continue
		}
		out[i].Outgoing, out[i].Held = captured[n].Outgoing, captured[n].Held
		if sockets[i].Count == 1 {
			out[i].Peer, out[i].Own, out[i].Holder, out[i].Opener = captured[n].Peer, captured[n].Own, captured[n].Holder, captured[n].Opener
		}
	}
	return out
}
