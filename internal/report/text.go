package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/words"
)

// WriteJSON writes the report as documented in docs/check.md. It holds the text of one port at a
// time.
func (r *Report) WriteJSON(w io.Writer) error {
	frame := *r
	frame.Ports = []PortReport{}
	whole, err := indented(frame, "")
	if err != nil {
		return err
	}
	before, after, found := bytes.Cut(whole, []byte("[]"))
	if !found {
		return errors.New("the report has no list of ports")
	}
	out := bufio.NewWriter(w)
	_, _ = out.Write(before) // Flush returns the error
	separator, end := "[", "[]"
	for i := range r.Ports {
		port, err := indented(&r.Ports[i], "    ")
		if err != nil {
			return err
		}
		_, _ = out.WriteString(separator + "\n    ")
		_, _ = out.Write(bytes.TrimSuffix(port, []byte("\n")))
		separator, end = ",", "\n  ]"
	}
	_, _ = out.WriteString(end)
	_, _ = out.Write(after)
	return out.Flush()
}

// indented is JSON with a line feed at the end.
func indented(v any, prefix string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

// WriteText writes the report for people, with ANSI colours if asked for. It holds the text of one
// port at a time.
func (r *Report) WriteText(w io.Writer, colour bool) error {
	out := bufio.NewWriter(w)
	t := text{colour: colour}
	for i := range r.Ports {
		if i > 0 {
			t.line("")
		}
		t.port(&r.Ports[i])
		_, _ = out.WriteString(t.b.String()) // Flush returns the error
		t.b.Reset()
	}
	if len(r.Unseen) > 0 {
		t.line("")
		t.list("not seen:", "  ", r.Unseen)
	}
	_, _ = out.WriteString(t.b.String())
	return out.Flush()
}

type text struct {
	b      strings.Builder
	colour bool
}

func (t *text) line(format string, args ...any) { fmt.Fprintf(&t.b, format+"\n", args...) }

func (t *text) list(title, indent string, items []string) {
	t.line("%s%s", strings.TrimSuffix(indent, "  "), title)
	for _, item := range items {
		t.line("%s- %s", indent, item)
	}
}

func (t *text) port(p *PortReport) {
	without, with := Free, Free
	for i := range p.Binds {
		without, with = Worse(without, p.Binds[i].Without.Outcome), Worse(with, p.Binds[i].With.Outcome)
	}
	if without == with {
		t.line("port %d: %s", p.Port, t.paint(without))
	} else {
		t.line("port %d: %s without SO_REUSEADDR, %s with it", p.Port, t.paint(without), t.paint(with))
	}
	for i := range p.Listeners {
		t.listener(&p.Listeners[i])
	}
	t.holders(p.Holders)
	t.binds(p.Binds)
	if len(p.Advice) > 0 {
		t.list("what to do:", "    ", p.Advice)
	}
}

func (t *text) listener(l *ListenerReport) {
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
	t.line("  listening on %s %s", l.Place(), strings.Join(about, ", "))
	if l.Owner != nil {
		t.line("    by %s", l.Owner)
	}
	t.line("    if it were restarted: %s", t.answer(&l.Restart))
}

// maxHolders is how many the text names. A server that forks can have thousands.
const maxHolders = 8

func (t *text) holders(holders []Holder) {
	for i := range holders {
		if i == maxHolders {
			t.line("  and %s", words.Counted(uint64(len(holders)-i), "more process", "more processes"))
			return
		}
		var sockets []string
		for state, n := range holders[i].Sockets {
			sockets = append(sockets, fmt.Sprintf("%d %s", n, inState(state)))
		}
		slices.Sort(sockets)
		t.line("  %s has open: %s", &holders[i].Owner, strings.Join(sockets, ", "))
	}
}

func inState(state string) string {
	if state == "close" {
		return "bound"
	}
	return strings.ToUpper(state)
}

// binds writes neighbours with the same answers as one.
func (t *text) binds(binds []BindReport) {
	binds = slices.DeleteFunc(slices.Clone(binds), func(b BindReport) bool { return b.OtherHalf })
	for len(binds) > 0 {
		lines := t.answers(&binds[0])
		places := []string{binds[0].Place()}
		n := 1
		for ; n < len(binds) && t.answers(&binds[n]) == lines; n++ {
			places = append(places, binds[n].Place())
		}
		t.line("  bind to %s", strings.Join(places, " or "))
		t.b.WriteString(lines)
		binds = binds[n:]
	}
}

func (t *text) answers(b *BindReport) string {
	without, with := t.answer(&b.Without), t.answer(&b.With)
	if without == with {
		return fmt.Sprintf("    with SO_REUSEADDR or without: %s\n", with)
	}
	return fmt.Sprintf("    without SO_REUSEADDR: %s\n    with SO_REUSEADDR:    %s\n", without, with)
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

// String is the answer in words.
func (a *Answer) String() string { return new(text).answer(a) }

func (t *text) answer(a *Answer) string {
	outcome := t.paint(a.Outcome)
	switch {
	case a.Outcome == Free:
		return outcome
	case a.Outcome == Blocked:
		return fmt.Sprintf("%s by %s, %s", outcome, countAll(a.Blockers, true), howLong(a))
	case len(a.Blockers) == 0:
		return outcome + ": not all sockets were seen"
	case a.AtMostSeconds != nil:
		return fmt.Sprintf("%s: it depends on flags of %s, gone in %s", outcome, countAll(a.Blockers, false), Wait(*a.AtMostSeconds))
	default:
		return fmt.Sprintf("%s: it depends on flags of %s", outcome, countAll(a.Blockers, false))
	}
}

func howLong(a *Answer) string {
	switch {
	case a.Until == UntilClosed:
		return "until closed"
	case a.BlockedSeconds != nil:
		return "for " + Wait(*a.BlockedSeconds)
	case a.AtMostSeconds != nil:
		return "for " + Wait(*a.AtMostSeconds) + " at most"
	default:
		return "for how long is not known"
	}
}

// Wait is a time in whole seconds, rounded up.
func Wait(seconds float64) string { return fmt.Sprintf("%d s", int64(math.Ceil(seconds))) }

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
	s := Plural(b.Sockets, "socket") + " in " + strings.ToUpper(b.State)
	if b.State == "close" {
		s = Plural(b.Sockets, "socket") + " bound but not listening"
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

func (t *text) paint(o Outcome) string {
	if !t.colour {
		return string(o)
	}
	colour := map[Outcome]int{Free: 32, Unknown: 33, Blocked: 31}[o]
	return fmt.Sprintf("\x1b[1;%dm%s\x1b[0m", colour, o)
}
