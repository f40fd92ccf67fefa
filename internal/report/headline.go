package report

import (
	"fmt"
	"slices"
	"strings"

	"sockstate_exporter/internal/words"
)

// A Headline is the answer about a port in one line: would a restart of what listens work? If
// nothing listens: would a bind work?
type Headline struct {
	Subject string   // "4840"
	InUse   []string // who listens
	Outcome Outcome  // of the restart, or of the bind

	// Why says what blocks and for how long, or what the answer depends on. It begins neither with
	// a capital letter nor with a verb, and ends without a stop.
	Why string

	// Beside says what another bind would meet: one with the other flags, or beside the listener.
	Beside string
}

// String is the line.
func (h *Headline) String() string {
	return h.Text(func(_ Outcome, said string) string { return said })
}

// Text is the line, with its outcome painted.
func (h *Headline) Text(paint Paint) string {
	line := h.Subject + ": "
	switch {
	case len(h.InUse) > 0:
		line = h.Occupied() + "; " + h.restart(paint)
	case h.Outcome == Blocked:
		line += paint(Blocked, "blocked") + " by " + h.Why
	case h.Outcome == Free:
		line += paint(Free, "free")
	default:
		line += paint(Unknown, "unknown") + ": " + h.Why
	}
	if h.Beside != "" {
		line += "; " + h.Beside
	}
	return line
}

// Occupied is the line without the answer, where something listens.
func (h *Headline) Occupied() string {
	return h.Subject + ": in use by " + words.And(words.FirstOf(h.InUse))
}

func (h *Headline) restart(paint Paint) string {
	switch h.Outcome {
	case Free:
		return paint(Free, "a restart would work")
	case Blocked:
		return paint(Blocked, "a restart would fail") + ": " + h.Why
	default:
		return paint(Unknown, "whether a restart would work is unknown") + ": " + h.Why
	}
}

// Headline is the first line about a port, without its subject. The flags are those of the server
// that binds anew.
func (p *PortReport) Headline(reuseAddr, reusePort bool) Headline {
	asked, other := p.worst(reuseAddr), p.worst(!reuseAddr)
	if p.InUse {
		h := p.inUse()
		if reusePort {
			h.Beside = "another socket with SO_REUSEPORT: " + asked.String()
		} else if b := p.notServed(reuseAddr); b != nil {
			h.Beside = b.Place() + ": " + b.answer(reuseAddr).String()
		}
		return h
	}
	h := Headline{Outcome: asked.Outcome, Why: asked.blame(p.Holders)}
	switch {
	case asked.Outcome == other.Outcome:
	case reuseAddr:
		h.Beside = "without SO_REUSEADDR: " + other.String()
	default:
		h.Beside = "with SO_REUSEADDR: " + other.String()
	}
	return h
}

func (p *PortReport) inUse() Headline {
	var who []string
	worst := &Answer{Outcome: Free}
	for i := range p.Listeners {
		if l := &p.Listeners[i]; l.asked {
			who = append(who, l.who())
			worst = worseAnswer(worst, &l.Restart)
		}
	}
	slices.Sort(who)
	return Headline{InUse: slices.Compact(who), Outcome: worst.Outcome, Why: worst.blame(slices.DeleteFunc(slices.Clone(p.Holders), p.listens))}
}

// listens says that a process that has sockets open is one of those that listen.
func (p *PortReport) listens(h Holder) bool {
	return slices.ContainsFunc(p.Listeners, func(l ListenerReport) bool { return l.Owner != nil && l.Owner.PID == h.Owner.PID })
}

// notServed is a bind that would not work although nothing listens on its address, such as that of
// the IPv4 half of a server that serves IPv6 only; nil: there is none.
func (p *PortReport) notServed(reuseAddr bool) *BindReport {
	for i := range p.Binds {
		if b := &p.Binds[i]; b.answer(reuseAddr).Outcome != Free && !b.OtherHalf && !p.served(b.asked) {
			return b
		}
	}
	return nil
}

// worst is the worst answer to a bind with or without SO_REUSEADDR.
func (p *PortReport) worst(reuseAddr bool) *Answer {
	worst := &Answer{Outcome: Free}
	for i := range p.Binds {
		if b := &p.Binds[i]; !b.OtherHalf {
			worst = worseAnswer(worst, b.answer(reuseAddr))
		}
	}
	return worst
}

// worseAnswer is the answer with the worse outcome, and of two that are blocked the one that is
// blocked for longer.
func worseAnswer(a, b *Answer) *Answer {
	longer := a.Outcome == b.Outcome && a.BlockedSeconds != nil && (b.BlockedSeconds == nil || *b.BlockedSeconds > *a.BlockedSeconds)
	if longer || b.Outcome.Compare(a.Outcome) > 0 {
		return b
	}
	return a
}

// who says in few words who listens.
func (l *ListenerReport) who() string {
	switch {
	case l.Owner == nil && l.UID == nil:
		return "a socket of an unknown user"
	case l.Owner == nil:
		return fmt.Sprintf("a socket of uid %d", *l.UID)
	}
	o := *l.Owner
	o.Processes = 1
	if o.Place() != "" {
		o.PID = 0
	}
	return o.String()
}

// blame is why, with the processes that have the sockets open.
func (a *Answer) blame(holders []Holder) string {
	var names []string
	for i := range holders {
		if slices.ContainsFunc(a.Blockers, func(b Blocker) bool { return b.Certain && holders[i].Sockets[b.State] > 0 }) {
			names = append(names, holders[i].Owner.String())
		}
	}
	if len(names) == 0 || a.Outcome != Blocked {
		return a.why()
	}
	return countAll(a.Blockers, true) + ", open in " + strings.Join(words.FirstOf(names), ", ") + ", " + howLong(a)
}
