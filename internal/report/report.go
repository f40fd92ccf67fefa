package report

import (
	"cmp"
	"net/netip"
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/words"
)

// Version is the version of the JSON form. It grows when a field changes its meaning or goes.
const Version = 1

// A Question is what the outcomes answer.
type Question string

// The questions.
const (
	NewBind Question = "bind"    // would a new bind() succeed, beside what listens?
	Restart Question = "restart" // would what listens bind again after it closed? Where nothing listens: NewBind
)

// A Query says what a report should contain. The zero value asks for a new bind on all ports.
type Query struct {
	// Targets are what is asked about, with each port of the snapshot in one of them. None: all ports.
	Targets []Target

	// Restart asks the question Restart.
	Restart bool

	// ReuseAddr and ReusePort say what a server sets that binds anew, and UID which user runs it.
	// UID matters only with ReusePort.
	ReuseAddr, ReusePort bool
	UID                  bindrule.UID

	// Open are, by port, the open sockets that do not listen, as far as they were looked for.
	Open map[uint16][]facts.Open

	// Split are ports whose halves are known to be apart, by failed binds too. They are those of the
	// port that NewPort judges.
	Split []split.Port

	// LocalPorts is net.ipv4.ip_local_port_range. It is empty where it is not known.
	LocalPorts sock.PortRange

	// PrivilegedBelow says that who asks has no privilege to bind to ports below this one
	// (net.ipv4.ip_unprivileged_port_start). 0: has it, or it is not known.
	PrivilegedBelow int

	// Unseen is what the snapshot could not show, in words.
	Unseen []string
}

// A Report is the verdict of the moment. docs/check.md documents its JSON form.
type Report struct {
	Version   int          `json:"version"`
	Question  Question     `json:"question"`
	Outcome   Outcome      `json:"outcome"` // the worst of all ports
	ReuseAddr bool         `json:"reuseaddr"`
	ReusePort bool         `json:"reuseport"`
	Ports     []PortReport `json:"ports"` // by number
	UDP       []UDPPort    `json:"udp"`   // by number; only those that were asked for, and none that is free
	Unseen    []string     `json:"unseen"`
}

// A PortReport is the verdict on one port.
type PortReport struct {
	Port      uint16           `json:"port"`
	Outcome   Outcome          `json:"outcome"` // the answer to the Question, for the flags of the Query
	InUse     bool             `json:"in_use"`  // something listens on an address that is asked about
	Restart   *Outcome         `json:"restart"` // the worst of what listens there; nil: nothing does
	Listeners []ListenerReport `json:"listeners"`
	Binds     []BindReport     `json:"binds"`
	Holders   []Holder         `json:"holders"`
	Diagnosis *Diagnosis       `json:"diagnosis"` // of the Outcome; nil: it is free
	Split     *Diagnosis       `json:"split"`     // nil: IPv4 and IPv6 are in the same hands
	Advice    []string         `json:"advice"`

	decides         *Answer
	told            []*Diagnosis // in Advice
	privilegedBelow int          // as in Query

	// Restarts are the answers for the listeners, and for those that closed a short time ago.
	Restarts []RestartReport `json:"-"`
}

// A ListenerReport is a group of listeners, and whether a restart of it could bind.
type ListenerReport struct {
	Address   netip.Addr    `json:"address"`
	Interface string        `json:"interface"`
	V6Only    bindrule.Flag `json:"v6only"` // unknown for IPv4
	Sockets   uint64        `json:"sockets"`
	ReuseAddr bindrule.Flag `json:"reuseaddr"`
	ReusePort bindrule.Flag `json:"reuseport"`
	UID       *uint32       `json:"uid"`
	Owner     *Owner        `json:"owner"`  // nil: not known
	Owners    []Owner       `json:"owners"` // the first few, and Owner before all
	LeftOut   int           `json:"owners_left_out"`
	Restart   Answer        `json:"restart"` // does not count listeners

	asked bool // it listens on an address that is asked about
}

// A RestartReport says whether a restart of a listener could bind. A restart closes the
// listeners, so they do not count.
type RestartReport struct {
	Address   netip.Addr    `json:"address"`
	Ifindex   uint32        `json:"ifindex"`
	ReuseAddr bindrule.Flag `json:"reuseaddr"`
	ReusePort bindrule.Flag `json:"reuseport"`
	Answer    Answer        `json:"restart"`
	Owner     *Owner        `json:"owner"`
	Listening bool          `json:"-"` // false: the listener closed a short time ago
}

// A BindReport is what bind() to an address would answer now, to a binder with or without
// SO_REUSEPORT as the Query says. Listeners count.
type BindReport struct {
	Address   netip.Addr    `json:"address"`
	Interface string        `json:"interface"`
	V6Only    bindrule.Flag `json:"v6only"` // unknown for IPv4
	Without   Answer        `json:"without_reuseaddr"`
	With      Answer        `json:"with_reuseaddr"`

	// OtherHalf says that the query does not ask for this bind. It is the IPv6 half of a server
	// that opens IPv4 and IPv6 separately, and its answers differ from those for both together.
	OtherHalf bool `json:"-"`

	asked Address
}

// New judges every port that the snapshot watches. Its error is the snapshot's.
//
// Ports on which nothing is share their answers, so that a range of all ports takes some megabytes.
func New(s *snapshot.Snapshot, q Query) (*Report, error) {
	if err := cmp.Or(s.Verdicts.Err, s.Listeners.Err); err != nil {
		return nil, err
	}
	r := &Report{
		Version: Version, Question: NewBind, Outcome: Free, ReuseAddr: q.ReuseAddr, ReusePort: q.ReusePort,
		Ports: make([]PortReport, len(s.Verdicts.Data)), UDP: []UDPPort{}, Unseen: append([]string{}, q.Unseen...),
	}
	if q.Restart {
		r.Question = Restart
	}
	groups := make(map[uint16][]ports.Group)
	for _, g := range s.Listeners.Data {
		groups[g.Port] = append(groups[g.Port], g)
	}
	var empty *PortReport
	for i := range s.Verdicts.Data {
		v, p := &s.Verdicts.Data[i], &r.Ports[i]
		isEmpty := nothingOn(v, groups[v.Number], &q)
		if isEmpty && empty != nil && q.alike(empty.Port, v.Number) {
			*p = *empty
			p.Port = v.Number
		} else {
			*p = NewPort(v, groups[v.Number], &q)
		}
		if isEmpty {
			empty = p
		}
		r.Outcome = Worse(r.Outcome, p.Outcome)
	}
	return r, nil
}

// alike says that the same addresses are asked about on two ports.
func (q *Query) alike(a, b uint16) bool {
	namedA, othersA := q.addresses(a)
	namedB, othersB := q.addresses(b)
	return othersA == othersB && slices.Equal(namedA, namedB)
}

// nothingOn says that a port has nothing of its own in a report but its number.
func nothingOn(v *verdict.Port, groups []ports.Group, q *Query) bool {
	return len(v.Port.Sockets)+len(v.Restarts)+len(groups)+len(q.Open[v.Number]) == 0 && !v.Port.Incomplete
}

// NewPort judges one port. groups are its listeners.
func NewPort(v *verdict.Port, groups []ports.Group, q *Query) PortReport {
	look := facts.Look{
		Number: v.Number, Port: &v.Port, Listeners: groups, Open: q.Open[v.Number],
		Host: diagnosis.Host{Listened: len(groups)+len(v.Restarts) > 0, LocalPorts: q.LocalPorts, UnprivilegedPortStart: -1},
	}
	p := PortReport{Port: v.Number, Outcome: Free, Listeners: []ListenerReport{}, Holders: holders(q.Open[v.Number]), privilegedBelow: q.PrivilegedBelow}
	for i := range v.Restarts {
		r := &v.Restarts[i]
		p.Restarts = append(p.Restarts, RestartReport{
			Address: r.Address, Ifindex: r.Ifindex, ReuseAddr: r.ReuseAddr, ReusePort: r.ReusePort,
			Answer: restartAnswer(&look, r), Owner: NewOwner(&r.Owner), Listening: r.Listening,
		})
	}
	for i := range groups {
		p.Listeners = append(p.Listeners, newListener(&v.Port, &groups[i], p.Restarts))
	}
	p.Binds = newBinds(&look, v, groups, q)
	p.answer(q)
	p.Split = newSplit(groups, q.Split)
	p.advise(q, onlyIPv6(groups))
	return p
}

// restartAnswer answers for a server that closes its listeners. An inherited listener is of no server that
// could close it: the server that starts meets it.
func restartAnswer(look *facts.Look, r *verdict.Restart) Answer {
	request := bindrule.Request{Addr: r.Address, Ifindex: r.Ifindex, ReuseAddr: r.ReuseAddr, ReusePort: r.ReusePort}
	verdict, running := &r.Verdict.Verdict, r.Listening
	for i := range look.Listeners {
		g := &look.Listeners[i]
		if g.Address == r.Address && g.Ifindex == r.Ifindex && facts.Inherited(&g.Owner) {
			request.V6Only, request.UID = bindrule.FlagOf(g.V6Only), g.UID
			beside := look.Port.Bind(request)
			verdict, running = &beside, false
		}
	}
	return newAnswer(look.Port, verdict, func() diagnosis.Diagnosis { return look.Restart(request, verdict, r.Owner, running) })
}

// answer answers the question of the query.
func (p *PortReport) answer(q *Query) {
	named, others := q.addresses(p.Port)
	restart := Free
	for i := range p.Listeners {
		l := &p.Listeners[i]
		l.asked = others || slices.ContainsFunc(named, l.serves)
		if l.asked {
			p.InUse, restart = true, Worse(restart, l.Restart.Outcome)
		}
	}
	if p.InUse {
		p.Restart = &restart
	}
	p.decides = &Answer{Outcome: Free}
	for i := range p.Binds {
		b := &p.Binds[i]
		if !q.Restart || !p.InUse || !others && !p.served(b.asked) {
			p.decides = worseAnswer(p.decides, b.answer(q.ReuseAddr))
		}
	}
	for i := range p.Listeners {
		if l := &p.Listeners[i]; q.Restart && l.asked {
			p.decides = worseAnswer(p.decides, &l.Restart)
		}
	}
	p.Outcome = p.decides.Outcome
}

// Decides is the answer that decides the outcome: the worst of those to the question.
func (p *PortReport) Decides() *Answer { return p.decides }

// served says whether something listens that is in the way of a bind to the address.
func (p *PortReport) served(a Address) bool {
	return slices.ContainsFunc(p.Listeners, func(l ListenerReport) bool { return l.serves(a) })
}

func (b *BindReport) answer(reuseAddr bool) *Answer {
	if reuseAddr {
		return &b.With
	}
	return &b.Without
}

// OnlyIPv6 says whether the listeners serve IPv6 on the wildcard, and IPv4 nowhere.
func OnlyIPv6(groups []ports.Group) bool {
	return len(groups) > 0 && !slices.ContainsFunc(groups, func(g ports.Group) bool {
		return g.Address != netip.IPv6Unspecified() || !g.V6Only
	})
}

func newListener(port *bindrule.Port, g *ports.Group, restarts []RestartReport) ListenerReport {
	l := ListenerReport{
		Address: g.Address, Interface: words.Printable(g.Interface), V6Only: v6only(g.Address, g.V6Only), Sockets: g.Sockets,
		Owner: NewOwner(&g.Owner), Owners: newOwners(g), LeftOut: g.OthersMore, Restart: Answer{Outcome: Unknown, Until: UntilUnknown, Blockers: []Blocker{}},
	}
	for _, s := range port.Sockets {
		if s.State == sock.StateListen && s.Addr == g.Address && s.Ifindex == g.Ifindex && s.UID.Known {
			l.UID = &s.UID.ID
		}
	}
	for i := range restarts {
		if r := &restarts[i]; r.Address == g.Address && r.Ifindex == g.Ifindex {
			l.ReuseAddr, l.ReusePort, l.Restart = r.ReuseAddr, r.ReusePort, r.Answer
		}
	}
	return l
}

// A binder judges binds to a port.
type binder struct {
	look    *facts.Look
	q       *Query
	hadIPv6 bool // something listened on `::` a short time ago
}

// newBinds judges the addresses that are asked for. Where a group listens on one, the bind has
// the IPV6_V6ONLY of the group.
func newBinds(look *facts.Look, v *verdict.Port, groups []ports.Group, q *Query) []BindReport {
	on := binder{look, q, slices.ContainsFunc(v.Restarts, func(r verdict.Restart) bool { return r.Address == netip.IPv6Unspecified() })}
	again := func(g *ports.Group) BindReport {
		return on.bind(Address{g.Address, g.Ifindex, words.Printable(g.Interface)}, g.V6Only)
	}
	named, others := q.addresses(v.Number)
	var out []BindReport
	for _, a := range named {
		i := slices.IndexFunc(groups, func(g ports.Group) bool { return g.Address == a.Addr && g.Ifindex == a.Ifindex })
		if i >= 0 {
			out = append(out, again(&groups[i]))
		} else {
			out = append(out, on.server(a)...)
		}
	}
	if !others {
		return out
	}
	if len(groups) == 0 || OnlyIPv6(groups) { // the IPv4 half of a server may have failed
		out = append(out, on.bind(Address{Addr: netip.IPv4Unspecified()}, false))
	}
	if len(groups) == 0 {
		return append(out, on.server(Address{Addr: netip.IPv6Unspecified()})...)
	}
	for i := range groups {
		if bind := again(&groups[i]); !slices.ContainsFunc(out, func(b BindReport) bool { return b.asked == bind.asked }) {
			out = append(out, bind)
		}
	}
	return out
}

// server judges a bind to an address on which nobody listens. For `::` it adds the bind
// that leaves IPv4 alone, if the answers to that are others.
func (on *binder) server(a Address) []BindReport {
	bind := on.bind(a, false)
	if a.Addr != netip.IPv6Unspecified() {
		return []BindReport{bind}
	}
	half := on.bind(a, true)
	if half.Without.Outcome == bind.Without.Outcome && half.With.Outcome == bind.With.Outcome {
		return []BindReport{bind}
	}
	half.OtherHalf = true
	return []BindReport{bind, half}
}

func (on *binder) bind(a Address, only6 bool) BindReport {
	request := bindrule.Request{
		Addr: a.Addr, Ifindex: a.Ifindex, V6Only: bindrule.FlagOf(only6), ReusePort: bindrule.FlagOf(on.q.ReusePort), UID: on.q.UID,
	}
	answer := func(reuseAddr bool) Answer {
		request.ReuseAddr = bindrule.FlagOf(reuseAddr)
		v := on.look.Port.Bind(request)
		return newAnswer(on.look.Port, &v, func() diagnosis.Diagnosis { return on.look.Bind(request, &v, on.halfFree(request)) })
	}
	return BindReport{Address: a.Addr, Interface: a.Interface, V6Only: v6only(a.Addr, only6), Without: answer(false), With: answer(true), asked: a}
}

// halfFree says that nothing is in the way of IPv6 alone, where a server had both wildcards.
func (on *binder) halfFree(r bindrule.Request) bool {
	if r.Addr != netip.IPv4Unspecified() || len(on.look.Listeners) > 0 || !on.hadIPv6 {
		return false
	}
	r.Addr, r.V6Only = netip.IPv6Unspecified(), bindrule.Yes
	v := on.look.Port.Bind(r)
	return v.Outcome == bindrule.Free
}

func v6only(a netip.Addr, on bool) bindrule.Flag {
	if a.Is4() {
		return bindrule.FlagUnknown
	}
	return bindrule.FlagOf(on)
}
