package status

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// A PortsPage is what /ports shows. Its JSON form is documented in docs/pages.md.
type PortsPage struct {
	Version           int            `json:"version"`
	Time              time.Time      `json:"time"`
	Ports             []PortRow      `json:"ports"` // the worst first
	PortsLeftOut      int            `json:"ports_left_out"`
	PortsNotWatched   int            `json:"ports_not_watched"` // for --watch.max-ports
	Namespaces        []NamespaceRow `json:"namespaces"`        // the exporter's own first, then the fullest
	NamespacesLeftOut int            `json:"namespaces_left_out"`
	Parts             []PartReport   `json:"parts"`
	PartsLeftOut      int            `json:"parts_left_out"`
	Features          []sock.Feature `json:"features"`

	problems map[Problem]int // of all ports, by their worst one
	total    int
}

// A PortRow is one watched port.
type PortRow struct {
	Netns            string            `json:"netns"`
	Port             uint16            `json:"port"`
	Protocol         string            `json:"protocol"`
	Name             string            `json:"name"`
	Source           ports.Source      `json:"source"`
	Problems         []Problem         `json:"problems"` // the worst first
	Outcome          Outcome           `json:"outcome"`
	Verdict          []Sentence        `json:"verdict"`
	Listeners        []ListenerRow     `json:"listeners"` // nil: not known
	ListenersLeftOut int               `json:"listeners_left_out"`
	Gone             []GoneRow         `json:"gone"`
	Binds            []BindReport      `json:"binds"` // nil: not known
	Sockets          map[string]uint64 `json:"sockets"`
	TimeWait         *TimeWait         `json:"time_wait"`
	UDP              *UDPReport        `json:"udp"` // nil: not known, or TCP
	Advice           []string          `json:"advice"`
}

// A Sentence is a verdict in words.
type Sentence struct {
	What    string  `json:"what"` // a restart, or a bind
	Outcome Outcome `json:"outcome"`
	Text    string  `json:"text"`
}

// A ListenerRow is a group of listeners.
type ListenerRow struct {
	ListenerReport
	Queue      uint64  `json:"accept_queue"`
	QueueLimit uint64  `json:"accept_queue_limit"`
	QueueRatio float64 `json:"accept_queue_ratio"`
	Drops      *uint64 `json:"drops"`
}

// A GoneRow is a listener that went less than the retention ago.
type GoneRow struct {
	Address   netip.Addr `json:"address"`
	Ifindex   uint32     `json:"ifindex"`
	ReuseAddr Flag       `json:"reuseaddr"`
	ReusePort Flag       `json:"reuseport"`
	Restart   Answer     `json:"restart"`
	Owner     *Owner     `json:"owner"`
}

// TimeWait is what is in TIME_WAIT on a port.
type TimeWait struct {
	Sockets          uint64  `json:"sockets"`
	RemainingSeconds float64 `json:"remaining_seconds"`
}

// A Problem is what is wrong with a port, in a word.
type Problem string

// The problems, the worst first.
const (
	Down           Problem = "down"            // nobody listens, and who would is blocked
	NoListener     Problem = "no_listener"     // on a port that was asked for
	NoSocket       Problem = "no_socket"       // on a UDP port that was asked for
	QueueFull      Problem = "queue_full"      // an accept queue is
	RestartBlocked Problem = "restart_blocked" // it listens, and could not again
	Dropping       Problem = "dropping"        // a UDP port has dropped datagrams, and has some to read
	NotKnown       Problem = "unknown"         // whether it could
	ListenerGone   Problem = "listener_gone"   // where one was
	OnlyIPv6       Problem = "only_ipv6"       // the other half of the server may have failed
	NoReuseAddr    Problem = "no_reuseaddr"    // a listener lacks it
	Fine           Problem = ""
)

var problems = []Problem{
	Down, NoListener, NoSocket, QueueFull, RestartBlocked, Dropping, NotKnown, ListenerGone, OnlyIPv6, NoReuseAddr, Fine,
}

func (p Problem) rank() int { return slices.Index(problems, p) }

// troubles are problems, by rank.
type troubles [16]bool

func (t *troubles) set(p Problem, there bool) {
	if there {
		t[p.rank()] = true
	}
}

func (t *troubles) worst() Problem {
	for i, p := range problems {
		if t[i] {
			return p
		}
	}
	return Fine
}

func (t *troubles) list() []Problem {
	out := []Problem{}
	for i, p := range problems {
		if t[i] {
			out = append(out, p)
		}
	}
	return out
}

// A candidate is a port that may be shown. What it takes to show it is made later: there can
// be hundreds of thousands.
type candidate struct {
	ns  *snapshot.Namespace
	i   int // of its watched ports
	udp bool
}

func (c candidate) troubles() troubles {
	if c.udp {
		state := udpStateOf(c.ns, c.i)
		return state.troubles()
	}
	state := stateOf(c.ns, c.i)
	return state.troubles()
}

func (c candidate) row() PortRow {
	if c.udp {
		state := udpStateOf(c.ns, c.i)
		return state.row()
	}
	state := stateOf(c.ns, c.i)
	return state.row()
}

// A portState is what a snapshot has of one port. What is nil is not known.
type portState struct {
	ns       *snapshot.Namespace
	port     ports.Port
	tcp      *ports.PortSockets
	verdicts *verdict.Port

	listenersKnown bool
	listeners      []ports.Group
}

func newPortsPage(s *snapshot.Snapshot, q pageQuery) *PortsPage {
	page := &PortsPage{
		Version: Version, Time: stamp(q.now), Ports: []PortRow{}, Namespaces: []NamespaceRow{}, Parts: []PartReport{},
		Features: append([]sock.Feature{}, q.features...), problems: make(map[Problem]int),
	}
	byProblem := make([][]candidate, len(problems))
	consider := func(c candidate, port ports.Port) {
		if q.wantsPort(port.Number) {
			found := c.troubles()
			rank := found.worst().rank()
			byProblem[rank] = append(byProblem[rank], c)
		}
	}
	failures := connectFailures(&s.Binds)
	for ns := range s.Namespaces() {
		if !q.wants(ns) {
			continue
		}
		page.Parts = append(page.Parts, parts(ns)...)
		page.Namespaces = append(page.Namespaces, newNamespaceRow(ns, failures))
		page.PortsNotWatched += ns.Watch.Data.Dropped + ns.UDP.Data.Watch.Dropped
		for i, port := range ns.Watch.Data.Ports {
			consider(candidate{ns: ns, i: i}, port)
		}
		for i, port := range ns.UDP.Data.Watch.Ports {
			if state := udpStateOf(ns, i); !state.passed() {
				consider(candidate{ns: ns, i: i, udp: true}, port)
			}
		}
	}
	for rank, candidates := range byProblem {
		page.problems[problems[rank]] = len(candidates)
		page.total += len(candidates)
		for _, c := range candidates[:min(len(candidates), maxRows-len(page.Ports))] {
			page.Ports = append(page.Ports, c.row())
		}
	}
	page.PortsLeftOut = page.total - len(page.Ports)
	fullestFirst(page.Namespaces)
	page.Namespaces, page.NamespacesLeftOut = bounded(page.Namespaces, maxNamespaces)
	if !s.Binds.Off() { // where it is, a feature says why
		page.Parts = appendPart(page.Parts, "", "connect", s.Binds.Err, false)
	}
	page.Parts, page.PartsLeftOut = bounded(page.Parts, maxParts)
	return page
}

// stamp is a time as it is shown: nobody needs nanoseconds.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func stateOf(ns *snapshot.Namespace, i int) portState {
	s := portState{ns: ns, port: ns.Watch.Data.Ports[i], listenersKnown: ns.Listeners.Err == nil}
	if ns.TCP.Err == nil && i < len(ns.TCP.Data) {
		s.tcp = &ns.TCP.Data[i]
	}
	if ns.Verdicts.Err == nil && i < len(ns.Verdicts.Data) {
		s.verdicts = &ns.Verdicts.Data[i]
	}
	if !s.listenersKnown {
		return s
	}
	groups := ns.Listeners.Data // sorted by port
	first, _ := slices.BinarySearchFunc(groups, int(s.port.Number), func(g ports.Group, n int) int { return int(g.Port) - n })
	last, _ := slices.BinarySearchFunc(groups, int(s.port.Number)+1, func(g ports.Group, n int) int { return int(g.Port) - n })
	s.listeners = groups[first:last]
	return s
}

// troubles are what is wrong.
func (s *portState) troubles() (found troubles) {
	listening, known := len(s.listeners) > 0, s.listenersKnown || s.verdicts != nil
	found.set(NotKnown, s.verdicts == nil)
	if s.verdicts != nil {
		for i := range s.verdicts.Restarts {
			r := &s.verdicts.Restarts[i]
			listening = listening || r.Listening
			found.set(RestartBlocked, r.Listening && r.Outcome == bindrule.Blocked)
			found.set(NoReuseAddr, r.Listening && r.ReuseAddr == bindrule.No)
			found.set(Down, !r.Listening && r.Outcome == bindrule.Blocked)
			found.set(ListenerGone, !r.Listening)
			found.set(NotKnown, r.Outcome == bindrule.Unknown)
		}
		for i := range s.verdicts.Binds {
			b := &s.verdicts.Binds[i]
			nobody := len(s.verdicts.Restarts) == 0 && !b.ReuseAddr
			found.set(Down, nobody && b.Outcome == bindrule.Blocked)
			found.set(NotKnown, nobody && b.Outcome == bindrule.Unknown)
		}
	}
	found.set(NoListener, known && !listening && s.port.Source == ports.SourceFlag)
	halves := 0
	for i := range s.listeners {
		g := &s.listeners[i]
		found.set(QueueFull, g.QueueRatio >= 1)
		found.set(NoReuseAddr, g.ReuseAddr == bindrule.No)
		if g.V6Only && g.Address == netip.IPv6Unspecified() {
			halves++
		}
	}
	found.set(OnlyIPv6, halves > 0 && halves == len(s.listeners))
	return found
}

// row makes what is shown of the port.
func (s *portState) row() PortRow {
	found := s.troubles()
	r := PortRow{
		Netns: s.ns.Label(), Port: s.port.Number, Protocol: "tcp", Name: s.port.Name, Source: s.port.Source,
		Problems: found.list(), Outcome: Unknown, Gone: []GoneRow{}, Advice: []string{},
	}
	if s.tcp != nil {
		r.Sockets, r.TimeWait = socketCounts(s.tcp), s.timeWait()
	}
	groups, leftOut := bounded(s.listeners, maxListeners)
	r.ListenersLeftOut = leftOut
	verdicts := s.verdicts
	if verdicts == nil {
		verdicts = new(verdict.Port)
		verdicts.Number = s.port.Number
	}
	report := newPortReport(verdicts, groups, Query{})
	if s.listenersKnown {
		r.Listeners = make([]ListenerRow, len(groups))
		for i := range groups {
			r.Listeners[i] = s.listener(&groups[i], &report.Listeners[i])
		}
	}
	if s.verdicts == nil {
		r.Verdict = []Sentence{{What: "restart", Outcome: Unknown, Text: "unknown: " + whyMissing(s.ns.Verdicts.Err)}}
		return r
	}
	r.Binds, r.Advice = report.Binds, report.Advice
	r.judge(s.verdicts, &report)
	return r
}

func whyMissing(err error) string {
	if err == nil {
		return "not judged"
	}
	return plain(err.Error())
}

func (s *portState) listener(g *ports.Group, report *ListenerReport) ListenerRow {
	l := ListenerRow{ListenerReport: *report, Queue: g.Queue, QueueLimit: g.QueueLimit, QueueRatio: g.QueueRatio}
	if g.DropsKnown {
		l.Drops = &g.Drops
	}
	if s.verdicts == nil {
		l.ReuseAddr, l.ReusePort = Flag(g.ReuseAddr), Flag(g.ReusePort)
	}
	return l
}

const startAgain = "start again"

// judge says what a restart would meet or, where no listener is known, a bind.
func (r *PortRow) judge(v *verdict.Port, report *PortReport) {
	r.Outcome = Free
	var words sentences
	for i := range v.Restarts {
		restart := &v.Restarts[i]
		answer := newAnswer(&v.Port, &restart.Verdict.Verdict)
		r.Outcome = worse(r.Outcome, answer.Outcome)
		what := "restart"
		if !restart.Listening {
			what = startAgain
			if len(r.Gone) < maxListeners {
				r.Gone = append(r.Gone, GoneRow{
					Address: restart.Address, Ifindex: restart.Ifindex,
					ReuseAddr: Flag(restart.ReuseAddr), ReusePort: Flag(restart.ReusePort), Restart: answer,
					Owner: restartOwner(restart),
				})
			}
		}
		words.add(what, restart.Address.String(), &answer)
	}
	if len(v.Restarts) == 0 {
		for i := range report.Binds {
			b := &report.Binds[i]
			r.Outcome = worse(r.Outcome, b.Without.Outcome)
			if b.half {
				continue
			}
			if t := new(text); t.answer(&b.Without) == t.answer(&b.With) {
				words.add("bind with SO_REUSEADDR or without", b.place(), &b.With)
				continue
			}
			words.add("bind without SO_REUSEADDR", b.place(), &b.Without)
			words.add("bind with SO_REUSEADDR", b.place(), &b.With)
		}
	}
	r.Verdict = words.all()
}

// sentences join addresses of which the same is said.
type sentences struct {
	list []placedSentence
}

type placedSentence struct {
	Sentence
	places []string
}

func (s *sentences) add(what, place string, a *Answer) {
	one := Sentence{What: what, Outcome: a.Outcome, Text: new(text).answer(a)}
	same := slices.IndexFunc(s.list, func(o placedSentence) bool { return o.Sentence == one })
	if same < 0 {
		s.list = append(s.list, placedSentence{one, []string{place}})
		return
	}
	s.list[same].places = append(s.list[same].places, place)
}

// all are the sentences, the worst first; the addresses where not all are alike.
func (s *sentences) all() []Sentence {
	different := make(map[string]int)
	for i := range s.list {
		different[s.list[i].What]++
	}
	out := make([]Sentence, len(s.list))
	for i, p := range s.list {
		out[i] = p.Sentence
		if different[p.What] > 1 || p.What == startAgain {
			slices.Sort(p.places)
			out[i].What += " on " + strings.Join(some3(slices.Compact(p.places)), ", ")
		}
	}
	slices.SortStableFunc(out, func(a, b Sentence) int {
		if a.Outcome == b.Outcome {
			return 0
		}
		return compareBool(worse(a.Outcome, b.Outcome) == b.Outcome, worse(a.Outcome, b.Outcome) == a.Outcome)
	})
	return out
}

func some3(items []string) []string {
	if len(items) <= maxListed {
		return items
	}
	return append(items[:maxListed:maxListed], fmt.Sprintf("%d more", len(items)-maxListed))
}

// timeWait is as in the dump, but for the time: the kernel's timers are late, which the
// verdicts know.
func (s *portState) timeWait() *TimeWait {
	const tw = netlinkdiag.StateTimeWait
	left := max(s.tcp.IPv4.TimeWaitRemaining, s.tcp.IPv6.TimeWaitRemaining)
	if s.verdicts != nil {
		for i := range s.verdicts.Port.Sockets {
			if o := &s.verdicts.Port.Sockets[i]; o.State == sock.State(tw) {
				left = max(left, o.Expires)
			}
		}
	}
	n := s.tcp.IPv4.States[tw] + s.tcp.IPv6.States[tw]
	if n == 0 {
		left = 0 // in the other walk of the table there was one
	}
	return &TimeWait{Sockets: n, RemainingSeconds: *seconds(left)}
}

// socketCounts are those of both families, by state: only states that a socket is in.
func socketCounts(p *ports.PortSockets) map[string]uint64 {
	out := make(map[string]uint64)
	for state := range p.IPv4.States {
		if n := p.IPv4.States[state] + p.IPv6.States[state]; n > 0 {
			out[netlinkdiag.State(state).String()] = n
		}
	}
	return out
}
