package report

import (
	"fmt"
	"net/netip"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
)

// About says what is known about a listener beside its address and owner.
func (l *ListenerReport) About() string {
	about := []string{diagnosis.ReuseAddr(l.ReuseAddr)}
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
		return outcome + " by " + a.brief
	default:
		return outcome + ": " + a.brief
	}
}
