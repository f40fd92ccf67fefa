package pages

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sockstate_exporter/internal/pages/failed"
	"sockstate_exporter/internal/pages/missing"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/report/unixreport"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udprow"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/internal/words"
)

// A PortsPage is what /ports shows. docs/pages.md documents its JSON form.
type PortsPage struct {
	page
	Ports             []PortRow          `json:"ports"` // the worst first
	PortsLeftOut      int                `json:"ports_left_out"`
	PortsNotWatched   int                `json:"ports_not_watched"` // because of --watch.max-ports
	Namespaces        []NamespaceRow     `json:"namespaces"`        // the exporter's own first, then the fullest
	NamespacesLeftOut int                `json:"namespaces_left_out"`
	Unix              []unixreport.Place `json:"unix"` // of --watch.unix, those with a problem first
	missing.Report

	byProblem [len(problems)]int // ports, by the rank of their worst problem
	total     int
}

// A candidate is a port that the page may show. There can be hundreds of thousands, so the
// page makes rows of the worst ones only.
type candidate struct {
	ns     *snapshot.Namespace
	i      int // in its watched ports
	udp    bool
	failed *failed.Binds // nil: none
}

func (c candidate) problems() problemSet {
	if c.udp {
		port := udpPortOf(c.ns, c.i)
		return port.problems()
	}
	port := tcpPortOf(c.ns, c.i, c.failed)
	return port.problems()
}

func (c candidate) row() (r PortRow) {
	if c.udp {
		port := udpPortOf(c.ns, c.i)
		r = port.row()
	} else {
		port := tcpPortOf(c.ns, c.i, c.failed)
		r = port.row()
	}
	r.FailedBinds = c.failed
	return r
}

func newPortsPage(s *snapshot.Snapshot, q request) *PortsPage {
	p := &PortsPage{page: newPage("ports", q), Ports: []PortRow{}, Namespaces: []NamespaceRow{}, Report: missing.New(q.features, q.hint)}
	var byProblem [len(problems)][]candidate
	consider := func(c candidate, port watch.Port) {
		if q.WantsPort(port.Number) {
			found := c.problems()
			rank := found.worst()
			byProblem[rank] = append(byProblem[rank], c)
		}
	}
	failures, binds := connectFailures(&s.Binds), failed.New(&s.Binds.Data, q.now)
	for ns := range s.Namespaces() {
		if !q.WantsNetns(ns) {
			continue
		}
		p.AddNetns(ns)
		p.Namespaces = append(p.Namespaces, newNamespaceRow(ns, failures))
		p.PortsNotWatched += ns.Watch.Data.Dropped + ns.UDP.Data.Watch.Dropped
		for i, port := range ns.Watch.Data.Ports {
			consider(candidate{ns: ns, i: i, failed: binds.On(ns.Inode, port.Number, sock.TCP)}, port)
		}
		for i, port := range ns.UDP.Data.Watch.Ports {
			if u := udpPortOf(ns, i); !u.closed() {
				consider(candidate{ns: ns, i: i, udp: true, failed: binds.On(ns.Inode, port.Number, sock.UDP)}, port)
			}
		}
	}
	for rank, candidates := range byProblem {
		p.byProblem[rank] = len(candidates)
		p.total += len(candidates)
		for _, c := range candidates[:min(len(candidates), maxRows-len(p.Ports))] {
			p.Ports = append(p.Ports, c.row())
		}
	}
	p.PortsLeftOut = p.total - len(p.Ports)
	fullestFirst(p.Namespaces)
	p.Namespaces, p.NamespacesLeftOut = bounded(p.Namespaces, maxNamespaces)
	p.Unix = unixreport.Watched(s, len(q.Ports) == 0 && q.Netns == nil)
	if !s.Binds.Off() { // a feature says why it is off
		p.Add("", "connect", s.Binds.Err, false)
	}
	p.Bound()
	return p
}

// Title is the title of the page.
func (*PortsPage) Title() string { return "Ports" }

// Summary counts the ports by their worst problem.
func (p *PortsPage) Summary() string {
	out := words.Plural(uint64(p.total), "watched port")
	var kinds []string
	for rank, n := range p.byProblem {
		if n > 0 {
			kinds = append(kinds, fmt.Sprintf("%d %s", n, problems[rank].text))
		}
	}
	if len(kinds) == 0 {
		return out + "."
	}
	return out + ": " + strings.Join(kinds, ", ") + "."
}

// EmptyText says why there is no port.
func (p *PortsPage) EmptyText() string {
	switch {
	case len(p.FailedParts()) > 0:
		return "No watched port is known."
	case p.Filtered():
		return "No watched port is like that."
	default:
		return "No port is watched: nothing listens, and no --watch.port was given."
	}
}

// A PortRow is one watched port.
type PortRow struct {
	Netns            string                 `json:"netns"`
	Port             uint16                 `json:"port"`
	Protocol         string                 `json:"protocol"`
	Name             string                 `json:"name"`
	Source           watch.Source           `json:"source"`
	Problems         []Problem              `json:"problems"` // the worst first
	Outcome          report.Outcome         `json:"outcome"`
	Verdict          []report.Sentence      `json:"verdict"`
	Listeners        []ListenerRow          `json:"listeners"` // nil: not known
	ListenersLeftOut int                    `json:"listeners_left_out"`
	Gone             []report.RestartReport `json:"gone"`  // listeners that closed a short time ago
	Binds            []report.BindReport    `json:"binds"` // nil: not known
	Sockets          map[string]uint64      `json:"sockets"`
	TimeWait         *TimeWait              `json:"time_wait"`
	UDP              *udprow.Report         `json:"udp"` // nil: not known, or TCP
	Diagnosis        *report.Diagnosis      `json:"diagnosis"`
	Split            *report.Diagnosis      `json:"split"` // nil: not split, or not known
	Advice           []string               `json:"advice"`
	FailedBinds      *failed.Binds          `json:"failed_binds"` // nil: none
	Own              bool                   `json:"-"`            // the exporter's own
}

func newPortRow(ns *snapshot.Namespace, port *watch.Port, protocol sock.Protocol, found problemSet) PortRow {
	return PortRow{
		Netns: ns.Label(), Port: port.Number, Protocol: protocol.String(), Name: port.Name, Source: port.Source,
		Problems: found.list(), Outcome: report.Unknown, Verdict: []report.Sentence{}, Gone: []report.RestartReport{}, Advice: []string{},
	}
}

// A ListenerRow is a group of listeners.
type ListenerRow struct {
	report.ListenerReport
	Queue      uint64  `json:"accept_queue"`
	QueueLimit uint64  `json:"accept_queue_limit"`
	QueueRatio float64 `json:"accept_queue_ratio"`
	Drops      *uint64 `json:"drops"`
}

// TimeWait is what is in TIME_WAIT on a port.
type TimeWait struct {
	Sockets          uint64  `json:"sockets"`
	RemainingSeconds float64 `json:"remaining_seconds"`
}

// Level is the level of the worst problem.
func (r *PortRow) Level() Level {
	if len(r.Problems) == 0 {
		return good
	}
	return r.Problems[0].Level()
}

// SourceText says why the port is watched.
func (r *PortRow) SourceText() string {
	switch {
	case r.Source == watch.SourceFlag:
		return "--watch.port"
	case r.Source == watch.SourceFailure:
		return "a bind failed"
	case r.IsUDP():
		return "found open"
	default:
		return "found listening"
	}
}

// A Line is a line of the table: a listener, a family of UDP sockets, or neither.
type Line struct {
	Listener *ListenerRow
	UDP      *udprow.Line
}

// FailuresLink is the page with the failed binds of the port.
func (r *PortRow) FailuresLink() string {
	return "failures?" + url.Values{"port": {strconv.Itoa(int(r.Port))}, "netns": {r.Netns}}.Encode()
}

// Lines are the lines of the port, one or more.
func (r *PortRow) Lines() []Line {
	var out []Line
	if r.IsUDP() {
		for _, line := range r.UDP.Lines() {
			out = append(out, Line{UDP: &line})
		}
	}
	for i := range r.Listeners {
		out = append(out, Line{Listener: &r.Listeners[i]})
	}
	if len(out) == 0 || r.ListenersLeftOut > 0 {
		out = append(out, Line{})
	}
	return out
}

// NobodyText is for a line without a listener.
func (r *PortRow) NobodyText() string {
	switch {
	case r.UDP != nil:
		return "no socket"
	case r.Listeners == nil:
		return "not known"
	case r.ListenersLeftOut > 0:
		return fmt.Sprintf("and %d more", r.ListenersLeftOut)
	default:
		return "nobody"
	}
}

// LastText says who listened a short time ago, if nobody listens now.
func (r *PortRow) LastText() string {
	var last []string
	for i := range r.Gone {
		for _, text := range []string{r.Gone[i].Owner.Who(), r.Gone[i].Owner.Place()} {
			if text != "" && !slices.Contains(last, text) {
				last = append(last, text)
			}
		}
	}
	if len(r.Listeners) > 0 || len(last) == 0 {
		return ""
	}
	return "until lately " + strings.Join(words.FirstOf(last), ", ")
}

// Full says whether an accept queue of the group is full.
func (l *ListenerRow) Full() bool { return l.QueueRatio >= 1 }

// Flags are remarks on the group.
func (l *ListenerRow) Flags() []Tag {
	out := flagTags(l.ReuseAddr, l.ReusePort)
	if l.Sockets > 1 {
		out = append(out, Tag{words.Plural(l.Sockets, "socket"), none})
	}
	if l.UID != nil {
		out = append(out, Tag{fmt.Sprintf("uid %d", *l.UID), none})
	}
	return out
}
