// Package unixreport reports what is at the paths of Unix sockets, in words and as JSON.
package unixreport

import (
	"fmt"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/diagnosis/unixdiag"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/words"
	"sockstate_exporter/netlinkdiag"
)

// A Place is the verdict on a path, or on an abstract name. docs/check.md documents its JSON form.
type Place struct {
	Name    string         `json:"name"` // printable; @name is abstract
	Outcome report.Outcome `json:"outcome"`
	State   State          `json:"state"`
	// Sockets are those that clients reach there, those that they do not, and those of which that is
	// not known.
	Sockets []Socket `json:"sockets"`
	// Diagnosis says why a bind would fail, and Unreached which servers are cut off. nil: there is
	// nothing to say.
	Diagnosis *report.Diagnosis `json:"diagnosis"`
	Unreached *report.Diagnosis `json:"unreached"`
	// Remove is the command that removes a file that is left over.
	Remove string `json:"remove"`

	verdict *unixsock.Verdict
}

// A State is what a place is.
type State string

// The states.
const (
	Free        State = "free"
	InUse       State = "in_use"
	Stale       State = "stale"
	NoSocket    State = "no_socket"
	NoDirectory State = "no_directory"
	Denied      State = "denied"
	Unknown     State = "unknown"
)

// A Socket is one that was bound to the name.
type Socket struct {
	Type    string        `json:"type"`  // stream, dgram or seqpacket
	State   string        `json:"state"` // as in the metrics; close: it does not listen
	Inode   uint32        `json:"inode"`
	Backlog *uint32       `json:"accept_queue"` // connections that wait for accept(); nil: it does not listen
	Limit   *uint32       `json:"accept_queue_limit"`
	UID     *uint32       `json:"uid"`
	Netns   string        `json:"netns"` // empty: the own one
	Owner   *report.Owner `json:"owner"` // nil: not known
	Reached *bool         `json:"reached"`
}

// New reports a verdict.
func New(v *unixsock.Verdict) Place {
	p := Place{Name: v.Name.String(), State: stateOf(v.State), Outcome: outcomeOf(v.State), Sockets: []Socket{}, verdict: v}
	add := func(sockets []unixsock.Socket, reached *bool) {
		for i := range sockets {
			s := newSocket(&sockets[i])
			s.Reached = reached
			p.Sockets = append(p.Sockets, s)
		}
	}
	add(v.Holders, new(true))
	add(v.CutOff, new(false))
	add(v.Unclear, nil)
	p.Diagnosis, p.Unreached = newDiagnosis(unixdiag.Of(v)), newDiagnosis(unixdiag.Unreached(v))
	if v.State == unixsock.Stale {
		p.Remove = unixdiag.RemoveCommand(v.Name.Path)
	}
	return p
}

func newDiagnosis(d *diagnosis.Diagnosis) *report.Diagnosis {
	if d == nil {
		return nil
	}
	return report.NewDiagnosis(d)
}

func newSocket(s *unixsock.Socket) Socket {
	out := Socket{Type: s.Type.String(), State: s.State.String(), Inode: s.Inode, Netns: s.Netns, Owner: report.NewOwner(&s.Owner)}
	if s.State == netlinkdiag.StateListen {
		out.Backlog, out.Limit = &s.RQueue, &s.WQueue
	}
	if s.HasUID {
		out.UID = &s.UID
	}
	return out
}

func stateOf(s unixsock.State) State {
	return [...]State{
		unixsock.Free: Free, unixsock.InUse: InUse, unixsock.Stale: Stale, unixsock.Occupied: NoSocket,
		unixsock.NoDirectory: NoDirectory, unixsock.Denied: Denied, unixsock.Unknown: Unknown,
	}[s]
}

func outcomeOf(s unixsock.State) report.Outcome {
	switch s {
	case unixsock.Free:
		return report.Free
	case unixsock.Unknown:
		return report.Unknown
	default:
		return report.Blocked
	}
}

// Watched are the watched paths of a snapshot, those with a problem first, if they are asked for: they
// belong to no port and no network namespace.
func Watched(s *snapshot.Snapshot, asked bool) []Place {
	out := []Place{}
	if s.Unix.Watch == nil || !asked {
		return out
	}
	for _, bad := range []bool{true, false} {
		for i := range s.Unix.Watch.Paths {
			p := New(&s.Unix.Watch.Paths[i].Verdict)
			if p.Bad() == bad {
				out = append(out, p)
			}
		}
	}
	return out
}

// Bad says that somebody has to do something: a file is left over, or clients do not reach a server.
func (p *Place) Bad() bool { return p.State == Stale || p.State == NoSocket || p.Unreached != nil }

// Line is Headline without colours.
func (p *Place) Line() string {
	return p.Headline(func(_ report.Outcome, said string) string { return said })
}

// Advice says what to do where something is wrong.
func (p *Place) Advice() []string {
	var out []string
	if p.Bad() {
		for _, d := range []*report.Diagnosis{p.Diagnosis, p.Unreached} {
			if d != nil && d.Code != codes.UnixInUse {
				out = append(out, d.Line())
			}
		}
	}
	return out
}

// QueueText is the accept queue with its limit. It is empty where nobody listens.
func (p *Place) QueueText() string {
	for i := range p.Sockets {
		if s := &p.Sockets[i]; s.Backlog != nil && s.Reached != nil && *s.Reached {
			return fmt.Sprintf("%d of %d", *s.Backlog, *s.Limit)
		}
	}
	return ""
}

// Headline is the answer in one line, with its outcome painted.
func (p *Place) Headline(paint report.Paint) string {
	v := p.verdict
	line := p.Name + ": "
	switch {
	case v.State == unixsock.InUse && len(v.Holders) > 0:
		line += paint(p.Outcome, "in use") + " by " + unixdiag.Who(v.Holders)
	case v.State == unixsock.Free:
		line += paint(p.Outcome, "free")
	case v.State == unixsock.InUse:
		line += paint(p.Outcome, "in use") + ": " + p.Diagnosis.Sentence
	case v.State == unixsock.Stale && v.Certain():
		line += paint(p.Outcome, "blocked") + " by a stale file, nobody listens there; remove it: " + p.Remove
	case v.State == unixsock.Stale:
		line += paint(p.Outcome, "blocked") + " by a file, and no socket that could be seen has it; if nobody listens, remove it: " + p.Remove
	default:
		line += paint(p.Outcome, string(p.Outcome)) + ": " + p.Diagnosis.Sentence
	}
	if p.Unreached != nil {
		line += "; " + p.Unreached.Sentence
	}
	return line
}

// Details are further lines: the sockets, and what to do.
func (p *Place) Details() []string {
	var out []string
	for i := range p.verdict.Holders {
		out = append(out, socketLine(&p.verdict.Holders[i]))
	}
	for i := range p.verdict.Unclear {
		s := &p.verdict.Unclear[i]
		out = append(out, socketLine(s)+"; it has another file, and may belong to another mount namespace")
	}
	var advice []string
	for _, d := range []*report.Diagnosis{p.Diagnosis, p.Unreached} {
		if d != nil && d.Code != codes.Unknown {
			advice = append(advice, "  - "+d.Line())
		}
	}
	if len(advice) > 0 {
		out = append(append(out, "what to do:"), advice...)
	}
	return out
}

func socketLine(s *unixsock.Socket) string {
	what := "bound, and does not listen"
	switch {
	case s.State == netlinkdiag.StateListen:
		what = fmt.Sprintf("listening, %s of at most %d in the accept queue", words.Plural(uint64(s.RQueue), "connection"), s.WQueue)
	case s.Type == netlinkdiag.UnixDatagram:
		what = "receives datagrams"
	}
	line := s.Type.String() + " socket of " + unixdiag.Who([]unixsock.Socket{*s}) + ": " + what
	if name := (unixsock.Name{Path: s.Name, Abstract: s.Abstract}); s.Name != "" {
		line += " (bound as " + name.String() + ")"
	}
	return line
}
