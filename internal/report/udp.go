package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/udpcause"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/words"
)

// A UDPPort is the verdict on one UDP port.
type UDPPort struct {
	Port      uint16       `json:"port"`
	Outcome   Outcome      `json:"outcome"` // the answer to the Question, for the flags of the Query
	InUse     bool         `json:"in_use"`  // something has an address that is asked about
	Restart   *Outcome     `json:"restart"` // the worst of the servers; nil: there is none
	Sockets   []UDPSocket  `json:"sockets"` // that anybody can send to
	Connected uint64       `json:"connected"`
	Binds     []BindReport `json:"binds"`
	Diagnosis *Diagnosis   `json:"diagnosis"` // of the Outcome; nil: it is free
	Shared    *Diagnosis   `json:"shared"`    // nil: different servers do not share it
	Split     *Diagnosis   `json:"split"`     // nil: IPv4 and IPv6 are in the same hands
	Advice    []string     `json:"advice"`

	Decides *Answer `json:"-"` // the answer that decides the outcome
}

// A UDPSocket is the sockets of one address and device.
type UDPSocket struct {
	Address   netip.Addr    `json:"address"`
	Interface string        `json:"interface"`
	V6Only    bindrule.Flag `json:"v6only"` // unknown for IPv4
	Sockets   uint64        `json:"sockets"`
	ReuseAddr bindrule.Flag `json:"reuseaddr"`
	ReusePort bindrule.Flag `json:"reuseport"`
	UID       *uint32       `json:"uid"`
	Owner     *Owner        `json:"owner"`  // nil: not known
	Kernel    bool          `json:"kernel"` // the kernel made it for itself
	Client    bool          `json:"client"` // the kernel has chosen the port
	Restart   Answer        `json:"restart"`

	use string // of Kernel
}

// newUDPAnswer is an Answer that no timer ends.
func newUDPAnswer(v *bindrule.Verdict, d *diagnosis.Diagnosis) Answer {
	a := Answer{
		Outcome: Outcome(v.Outcome.String()), Until: UntilUnknown, Blockers: []Blocker{},
		Diagnosis: NewDiagnosis(d), brief: d.Brief, why: d.Why,
	}
	switch a.Outcome {
	case Free:
		a.Until, a.BlockedSeconds, a.AtMostSeconds = UntilNow, new(0.0), new(0.0)
	case Blocked:
		a.Until = UntilClosed
	}
	return a
}

// NewUDP judges one UDP port.
func NewUDP(p *udp.Port, q *Query) UDPPort {
	on := udpBinder{port: p, q: q}
	if q.bare(p.Number) {
		// A client that got the port by chance is gone soon, and its program would take any other.
		on.aside = func(s *udp.Socket) bool { return s.Chosen }
	}
	out := UDPPort{Port: p.Number, Outcome: Free, Sockets: []UDPSocket{}, Advice: []string{}}
	groups := p.Groups()
	restart := &Answer{Outcome: Free}
	for i := range groups {
		g := &groups[i]
		if on.aside != nil && on.aside(&g.Socket) {
			continue
		}
		s := newUDPSocket(g)
		s.Restart = on.restart(g)
		out.Sockets = append(out.Sockets, s)
		if on.asks(g) {
			out.InUse = true
			restart = worseAnswer(restart, &s.Restart)
			out.Restart = &restart.Outcome
		}
	}
	for i := range p.Sockets {
		if p.Sockets[i].Connected() {
			out.Connected += p.Sockets[i].Count
		}
	}
	out.Binds = on.binds(groups)
	decides := restart
	if !q.Restart || !out.InUse {
		decides = &Answer{Outcome: Free}
		for i := range out.Binds {
			decides = worseAnswer(decides, out.Binds[i].answer(q.ReuseAddr))
		}
	}
	out.Decides, out.Outcome, out.Diagnosis = decides, decides.Outcome, decides.Diagnosis
	if shared, ok := p.Shared(); ok {
		d := udpcause.Shared(p.Number, shared.Owners(), shared.Flag)
		out.Shared = NewDiagnosis(&d)
	}
	out.Split = newSplit(p.Servers(), q.Split)
	for _, d := range []*Diagnosis{out.Split, restart.Diagnosis, decides.Diagnosis, out.Shared} {
		if d != nil && !slices.Contains(out.Advice, d.Line()) {
			out.Advice = append(out.Advice, d.Line())
		}
	}
	return out
}

func newUDPSocket(g *udp.Group) UDPSocket {
	s := UDPSocket{
		Address: g.Addr, Interface: words.Printable(g.Interface), V6Only: v6only(g.Addr, g.V6Only == bindrule.Yes), Sockets: g.Sockets,
		ReuseAddr: g.ReuseAddr, ReusePort: g.ReusePort, Owner: NewOwner(&g.Owner), Kernel: g.Kernel, Client: g.Chosen,
		use: words.KernelUse(g.Handler),
	}
	if g.UID.Known {
		s.UID = &g.UID.ID
	}
	return s
}

// A udpBinder judges binds to a UDP port.
type udpBinder struct {
	port  *udp.Port
	q     *Query
	aside func(*udp.Socket) bool // sockets that do not count; nil: all do
}

func (on *udpBinder) restart(g *udp.Group) Answer {
	request, own := g.Restart()
	aside := func(s *udp.Socket) bool { return own(s) || on.aside != nil && on.aside(s) }
	d, v := facts.UDPBind(on.port, request, &g.Owner, aside)
	return newUDPAnswer(&v, &d)
}

func (on *udpBinder) bind(a Address) BindReport {
	answer := func(reuseAddr bool) Answer {
		d, v := facts.UDPBind(on.port, bindrule.Request{
			Addr: a.Addr, Ifindex: a.Ifindex, V6Only: bindrule.No,
			ReuseAddr: bindrule.FlagOf(reuseAddr), ReusePort: bindrule.FlagOf(on.q.ReusePort), UID: on.q.UID,
		}, (*owner.Owner)(nil), on.aside)
		return newUDPAnswer(&v, &d)
	}
	return BindReport{Address: a.Addr, Interface: a.Interface, Without: answer(false), With: answer(true)}
}

// binds are those to the addresses that are asked for: those that are in use, or the wildcards.
func (on *udpBinder) binds(groups []udp.Group) []BindReport {
	addresses, others := on.q.addresses(on.port.Number)
	if others {
		for i := range groups {
			a := Address{groups[i].Addr, groups[i].Ifindex, words.Printable(groups[i].Interface)}
			if (on.aside == nil || !on.aside(&groups[i].Socket)) && !slices.Contains(addresses, a) {
				addresses = append(addresses, a)
			}
		}
	}
	if len(addresses) == 0 {
		addresses = []Address{{Addr: netip.IPv4Unspecified()}, {Addr: netip.IPv6Unspecified()}}
	}
	out := []BindReport{}
	for _, a := range addresses {
		out = append(out, on.bind(a))
	}
	return out
}

// asks says whether the query is about the address of the group.
func (on *udpBinder) asks(g *udp.Group) bool {
	named, others := on.q.addresses(on.port.Number)
	l := ListenerReport{Address: g.Addr, Interface: words.Printable(g.Interface), V6Only: g.V6Only}
	return others || slices.ContainsFunc(named, l.serves)
}

// Headline is the first line about the port, without its subject.
func (p *UDPPort) Headline(reuseAddr bool) Headline {
	h := Headline{Outcome: Free}
	if p.InUse {
		for i := range p.Sockets {
			s := &p.Sockets[i]
			h.InUse = append(h.InUse, s.who())
			if s.Restart.Outcome.Compare(h.Outcome) > 0 {
				h.Outcome, h.Why = s.Restart.Outcome, s.Restart.why
			}
		}
		slices.Sort(h.InUse)
		h.InUse = slices.Compact(h.InUse)
		return h
	}
	for i := range p.Binds {
		if a := p.Binds[i].answer(reuseAddr); a.Outcome.Compare(h.Outcome) > 0 {
			h.Outcome, h.Why = a.Outcome, a.brief
		}
	}
	return h
}

// who says in few words whose socket it is.
func (s *UDPSocket) who() string {
	switch {
	case s.Kernel && s.use != "":
		return "the kernel (" + s.use + ")"
	case s.Kernel:
		return "the kernel"
	case s.Owner != nil:
		o := *s.Owner
		if o.Processes = 1; o.Place() != "" {
			o.PID = 0
		}
		return o.String()
	case s.UID != nil:
		return fmt.Sprintf("a socket of uid %d", *s.UID)
	default:
		return "a socket of an unknown user"
	}
}

// Place is the address and the device.
func (s *UDPSocket) Place() string { return place(s.Address, s.Interface, s.V6Only) }

// About says what is known about the sockets beside their address and owner.
func (s *UDPSocket) About() string {
	about := []string{diagnosis.ReuseAddr(s.ReuseAddr)}
	if s.ReusePort == bindrule.Yes {
		about = append(about, "with SO_REUSEPORT")
	}
	if s.Sockets > 1 {
		about = append(about, words.Plural(s.Sockets, "socket"))
	}
	if s.UID != nil {
		about = append(about, fmt.Sprintf("uid %d", *s.UID))
	}
	return strings.Join(about, ", ")
}

// By names who has the sockets. It is empty where nobody is known.
func (s *UDPSocket) By() string {
	switch {
	case s.Kernel:
		return s.who()
	case s.Owner == nil:
		return ""
	}
	return s.Owner.String()
}

// bare says that a port was asked for without its protocol, so that it is about TCP as well.
func (q *Query) bare(port uint16) bool {
	return len(q.Targets) > 0 && !slices.ContainsFunc(q.Targets, func(t Target) bool {
		return t.First <= port && port <= t.Last && t.UDP && t.NoTCP
	})
}
