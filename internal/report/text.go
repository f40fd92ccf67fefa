package report

import (
	"fmt"
	"net/netip"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/words"
)

// About says what is known about a listener beside its address and owner.
func (l *ListenerReport) About() string {
	about := []string{reuseAddr(l.ReuseAddr)}
	if l.ReusePort == bindrule.Yes {
		about = append(about, "with SO_REUSEPORT")
	}
	if l.Sockets > 1 {
		about = append(about, fmt.Sprintf("%d sockets", l.Sockets))
	}
	if l.UID != nil {
		about = append(about, fmt.Sprintf("uid %d", *l.UID))
	}
	return strings.Join(about, ", ")
}

// InState is the state of a socket in words.
func InState(state string) string {
	if state == "close" {
		return "bound"
	}
	return strings.ToUpper(state)
}

// Place is the address and the device.
func (b *BindReport) Place() string { return place(b.Address, b.Interface, b.V6Only) }

// Place is the address and the device.
func (l *ListenerReport) Place() string { return place(l.Address, l.Interface, l.V6Only) }

func place(address netip.Addr, device string, v6only bindrule.Flag) string {
	s := address.String()
	if device != "" {
		s += " on " + device
	}
	if v6only == bindrule.Yes && address.IsUnspecified() {
		s += " (IPv6 only)"
	}
	return s
}

// A Paint colours the words that say an outcome.
type Paint func(o Outcome, words string) string

// String is the answer in words.
func (a *Answer) String() string {
	return a.Text(func(_ Outcome, words string) string { return words })
}

// Text is the answer in words, with its outcome painted.
func (a *Answer) Text(paint Paint) string {
	outcome := paint(a.Outcome, string(a.Outcome))
	switch a.Outcome {
	case Free:
		return outcome
	case Blocked:
		return outcome + " by " + a.why()
	default:
		return outcome + ": " + a.why()
	}
}

// why says what blocks and for how long, or what the answer depends on.
func (a *Answer) why() string {
	switch {
	case a.Outcome == Blocked:
		return countAll(a.Blockers, true) + ", " + howLong(a)
	case a.Outcome == Free:
		return ""
	case len(a.Blockers) == 0:
		return "not all sockets were seen"
	case a.AtMostSeconds != nil:
		return fmt.Sprintf("it depends on flags of %s, gone in %s", countAll(a.Blockers, false), words.Seconds(*a.AtMostSeconds))
	default:
		return "it depends on flags of " + countAll(a.Blockers, false)
	}
}

func howLong(a *Answer) string {
	switch {
	case a.Until == UntilClosed:
		return "until closed"
	case a.BlockedSeconds != nil:
		return "for " + words.Seconds(*a.BlockedSeconds)
	case a.AtMostSeconds != nil:
		return "for " + words.Seconds(*a.AtMostSeconds) + " at most"
	default:
		return "for how long is not known"
	}
}

func countAll(blockers []Blocker, certain bool) string {
	var parts []string
	for _, b := range blockers {
		if b.Certain == certain {
			parts = append(parts, b.String())
		}
	}
	return strings.Join(parts, ", ")
}

func (b *Blocker) String() string {
	s := words.Plural(b.Sockets, "socket") + " in " + strings.ToUpper(b.State)
	if b.State == "close" {
		s = words.Plural(b.Sockets, "socket") + " bound but not listening"
	}
	if b.ReuseAddr == bindrule.FlagUnknown {
		return s
	}
	return s + " " + reuseAddr(b.ReuseAddr)
}

func reuseAddr(f bindrule.Flag) string {
	switch f {
	case bindrule.Yes:
		return "with SO_REUSEADDR"
	case bindrule.No:
		return "without SO_REUSEADDR"
	default:
		return "with SO_REUSEADDR unknown"
	}
}
