package report

import (
	"fmt"
	"slices"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/words"
)

// A Headline is the answer about a port in one line: would a restart of what listens work? If
// nothing listens: would a bind work?
type Headline struct {
	Subject string   // "4840"
	InUse   []string // who listens
	Outcome Outcome  // of the restart, or of the bind
	Where   []string // the addresses with this outcome; nil: all

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
		line += paint(Blocked, "blocked") + h.on() + " by " + h.Why
	case h.Outcome == Free:
		line += paint(Free, "free")
	default:
		line += paint(Unknown, "unknown") + h.on() + ": " + h.Why
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
		return paint(Blocked, "a restart"+h.on()+" would fail") + ": " + h.Why
	default:
		return paint(Unknown, "whether a restart"+h.on()+" would work is unknown") + ": " + h.Why
	}
}

func (h *Headline) on() string {
	if len(h.Where) == 0 {
		return ""
	}
	return " on " + words.And(words.FirstOf(h.Where))
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
	h := Headline{Outcome: asked.Outcome, Why: asked.brief, Where: p.where(reuseAddr, asked.Outcome)}
	switch {
	case asked.Outcome == Free && int(p.Port) < p.privilegedBelow:
		h.Beside = diagnosis.OfCheckedPrivilege(p.Port, p.privilegedBelow)
	case asked.Outcome == other.Outcome:
	case reuseAddr:
		h.Beside = "without SO_REUSEADDR: " + other.String()
	default:
		h.Beside = "with SO_REUSEADDR: " + other.String()
	}
	return h
}

func (p *PortReport) inUse() Headline {
	var who, where []string
	worst, asked := &Answer{Outcome: Free}, 0
	for i := range p.Listeners {
		if l := &p.Listeners[i]; l.asked {
			who = append(who, l.who()...)
			worst = worseAnswer(worst, &l.Restart)
			asked++
		}
	}
	for i := range p.Listeners {
		if l := &p.Listeners[i]; l.asked && l.Restart.Outcome == worst.Outcome {
			where = append(where, l.Place())
		}
	}
	slices.Sort(who)
	return Headline{InUse: slices.Compact(who), Outcome: worst.Outcome, Why: worst.why, Where: some(where, asked)}
}

// some returns the places unless they are all there are.
func some(places []string, all int) []string {
	if len(places) == all {
		return nil
	}
	return places
}

// where are the addresses of binds with the outcome, if others have another one.
func (p *PortReport) where(reuseAddr bool, outcome Outcome) []string {
	var where []string
	asked := 0
	for i := range p.Binds {
		b := &p.Binds[i]
		if b.OtherHalf {
			continue
		}
		if asked++; b.answer(reuseAddr).Outcome == outcome {
			where = append(where, b.Place())
		}
	}
	return some(where, asked)
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
func (l *ListenerReport) who() []string {
	if l.Owner == nil && l.UID == nil {
		return []string{"a socket of an unknown user"}
	}
	if l.Owner == nil {
		return []string{fmt.Sprintf("a socket of uid %d", *l.UID)}
	}
	var who []string
	for _, o := range l.Owners {
		o.Processes = 1
		if o.Place() != "" {
			o.PID = 0
		}
		who = append(who, o.String())
	}
	return who
}
