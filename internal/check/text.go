package check

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// text is a report for people.
type text struct {
	out     *bufio.Writer
	report  *report.Report
	targets []report.Target
	paint   report.Paint
}

// writeText writes the report for people, with ANSI colours if asked for. A port that was asked for
// as part of a range has one line, and none if it is free. notSeen is the last line, if there is one.
func writeText(w io.Writer, j *judgement, targets []report.Target, notSeen string, colour bool) error {
	r := j.ports
	t := text{out: bufio.NewWriter(w), report: r, targets: targets, paint: plain}
	if colour {
		t.paint = coloured
	}
	detailed := false // the last port was written with all details
	rest := r.UDP     // not written yet
	for i := range r.Ports {
		p := &r.Ports[i]
		for ; len(rest) > 0 && rest[0].Port < p.Port; rest = rest[1:] {
			t.udp(&rest[0])
		}
		t.ranges(p.Port)
		asked := alone(targets, p.Port, false)
		if !asked && isFree(p) {
			continue
		}
		if detailed {
			t.line("")
		}
		head := headline(r, targets, p)
		t.line("%s", head.Text(t.paint))
		if detailed = asked && hasDetails(p); detailed {
			t.details(p)
		}
	}
	for i := range rest {
		if detailed {
			t.line("")
		}
		t.udp(&rest[i])
		detailed = true
	}
	for i := range j.unix {
		if detailed {
			t.line("")
		}
		detailed = t.place(&j.unix[i])
	}
	if notSeen != "" {
		t.line("not seen: %s", notSeen)
	}
	return t.out.Flush()
}

func plain(_ report.Outcome, words string) string { return words }

func coloured(o report.Outcome, words string) string {
	colour := map[report.Outcome]int{report.Free: 32, report.Unknown: 33, report.Blocked: 31}[o]
	return fmt.Sprintf("\x1b[1;%dm%s\x1b[0m", colour, words)
}

// line writes a line. Flush returns the error.
func (t *text) line(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// ranges writes how many ports are free, of each range that begins at the port.
func (t *text) ranges(first uint16) {
	var written []sock.PortRange
	for i := range t.targets {
		at := t.targets[i].PortRange
		if at.First != first || at.First == at.Last || slices.Contains(written, at) {
			continue
		}
		written = append(written, at)
		free := 0
		for j := range t.report.Ports {
			if p := &t.report.Ports[j]; at.Contains(p.Port) && isFree(p) && (!t.targets[i].UDP || udpOf(t.report, p.Port) == nil) {
				free++
			}
		}
		verb := "are"
		if free == 1 {
			verb = "is"
		}
		t.line("%s: %d of %d ports %s free", at, free, int(at.Last)-int(at.First)+1, verb)
	}
}

func isFree(p *report.PortReport) bool { return !p.InUse && p.Outcome == report.Free }

// headline is the first line about a port.
func headline(r *report.Report, targets []report.Target, p *report.PortReport) report.Headline {
	h := p.Headline(r.ReuseAddr, r.ReusePort)
	protocol := ""
	if udpOf(r, p.Port) != nil {
		protocol = "/tcp"
	}
	h.Subject = subject(targets, p.Port, protocol)
	return h
}

// subject is how the first line calls a port: as it was asked for. The protocol is there if both matter, or
// if it is UDP.
func subject(targets []report.Target, port uint16, protocol string) string {
	var places, names []string
	for i := range targets {
		at := &targets[i]
		if port < at.First || port > at.Last {
			continue
		}
		place := fmt.Sprint(port)
		if a := at.Address; a.Addr.IsValid() {
			place = netip.AddrPortFrom(a.Addr.WithZone(a.Interface), port).String()
		}
		places = append(places, place)
		if at.Name != "" {
			names = append(names, at.Name)
		}
	}
	what := fmt.Sprint(port)
	if len(places) > 0 && !slices.ContainsFunc(places, func(s string) bool { return s != places[0] }) {
		what = places[0]
	}
	what += protocol
	if len(names) > 0 {
		what += " (" + names[0] + ")"
	}
	return what
}

// hasDetails says that there is more to say about the port than its first line.
func hasDetails(p *report.PortReport) bool {
	return p.Outcome != report.Free || len(p.Listeners)+len(p.Holders)+len(p.Advice) > 0
}

// maxHolders is how many the text names. A server that forks can have thousands.
const maxHolders = 8

func (t *text) details(p *report.PortReport) {
	for i := range p.Listeners {
		t.listener(&p.Listeners[i])
	}
	for i := range p.Holders[:min(len(p.Holders), maxHolders)] {
		t.holder(&p.Holders[i])
	}
	if more := len(p.Holders) - maxHolders; more > 0 {
		t.line("  and %s", words.Counted(uint64(more), "more process", "more processes"))
	}
	t.binds(p.Binds)
	if len(p.Advice) == 0 {
		return
	}
	t.line("  what to do:")
	for _, advice := range p.Advice {
		t.line("    - %s", advice)
	}
}

func (t *text) holder(h *report.Holder) {
	var sockets []string
	for state, n := range h.Sockets {
		sockets = append(sockets, fmt.Sprintf("%d %s", n, inState(state)))
	}
	slices.Sort(sockets)
	t.line("  %s has open: %s", &h.Owner, strings.Join(sockets, ", "))
}

func (t *text) listener(l *report.ListenerReport) {
	t.line("  listening on %s %s", l.Place(), l.About())
	if by := l.By(); by != "" {
		t.line("    by %s", by)
	}
	t.line("    if it were restarted: %s", l.Restart.Text(t.paint))
}

// binds writes neighbours with the same answers as one.
func (t *text) binds(binds []report.BindReport) {
	binds = slices.DeleteFunc(slices.Clone(binds), func(b report.BindReport) bool { return b.OtherHalf })
	for len(binds) > 0 {
		answers := t.answers(&binds[0])
		places := []string{binds[0].Place()}
		n := 1
		for ; n < len(binds) && t.answers(&binds[n]) == answers; n++ {
			places = append(places, binds[n].Place())
		}
		t.line("  bind to %s", strings.Join(places, " or "))
		t.line("%s", answers)
		binds = binds[n:]
	}
}

func (t *text) answers(b *report.BindReport) string {
	with, without, and := "with SO_REUSEADDR", "without SO_REUSEADDR", ""
	if t.report.ReusePort {
		and = ", with SO_REUSEPORT"
	}
	first, second := b.Without.Text(t.paint), b.With.Text(t.paint)
	if first == second {
		return fmt.Sprintf("    %s or without%s: %s", with, and, first)
	}
	return fmt.Sprintf("    %s%s: %s\n    %s%s:    %s", without, and, first, with, and, second)
}

// inState is the state of a socket in words.
func inState(state string) string {
	if state == "close" {
		return "bound"
	}
	return strings.ToUpper(state)
}
