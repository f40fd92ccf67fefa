package status

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// Version is that of the JSON form. It grows when a field changes its meaning or goes.
const Version = 1

// A Query says what a report is about.
type Query struct {
	// Addresses to bind to; none: those that listen on the port, or else the wildcards.
	Addresses []Address

	// ReuseAddr says that the server sets SO_REUSEADDR: whose outcome it is.
	ReuseAddr bool

	// Holders are the processes that have sockets open on a port, which do not listen.
	Holders map[uint16][]Holder

	// Unseen is what the snapshot could not show, in words.
	Unseen []string
}

// An Address to bind to, and a device (SO_BINDTODEVICE, or the scope of a link-local address).
type Address struct {
	Addr      netip.Addr
	Ifindex   uint32
	Interface string
}

// A Report is the verdict of the moment. Its JSON form is documented in docs/check.md.
type Report struct {
	Version   int          `json:"version"`
	Outcome   Outcome      `json:"outcome"` // the worst of all ports
	ReuseAddr bool         `json:"reuseaddr"`
	Ports     []PortReport `json:"ports"` // by number
	Unseen    []string     `json:"unseen"`
}

// A PortReport is the verdict on one port.
type PortReport struct {
	Port      uint16           `json:"port"`
	Outcome   Outcome          `json:"outcome"` // the worst of all addresses, for a server with or without SO_REUSEADDR, as Report.ReuseAddr says
	Listeners []ListenerReport `json:"listeners"`
	Binds     []BindReport     `json:"binds"`
	Holders   []Holder         `json:"holders"`
	Advice    []string         `json:"advice"`
}

// A ListenerReport is a group of listeners, and what a restart of it would meet.
type ListenerReport struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	V6Only    Flag       `json:"v6only"` // unknown for IPv4
	Sockets   uint64     `json:"sockets"`
	ReuseAddr Flag       `json:"reuseaddr"`
	ReusePort Flag       `json:"reuseport"`
	UID       *uint32    `json:"uid"`
	Owner     *Owner     `json:"owner"`   // nil where it is not known
	Restart   Answer     `json:"restart"` // listeners aside
}

// A Holder is a process with sockets open that do not listen: connections, or bound ones.
type Holder struct {
	Owner   Owner             `json:"owner"`
	Sockets map[string]uint64 `json:"sockets"` // by state, as in the metrics
}

// A BindReport is what a bind() to an address would be answered now, for a binder without
// SO_REUSEPORT; listeners count.
type BindReport struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	V6Only    Flag       `json:"v6only"` // unknown for IPv4
	Without   Answer     `json:"without_reuseaddr"`
	With      Answer     `json:"with_reuseaddr"`

	// half is of a bind that was not asked for, and shown for being answered otherwise: the
	// IPv6 half of a server that opens IPv4 and IPv6 apart.
	half bool

	// The same, listeners aside: what is left to do once they are closed.
	withoutAside, withAside bindrule.Verdict
}

// NewReport judges every port that the snapshot watches. Its error is that of the snapshot.
func NewReport(s *snapshot.Snapshot, q Query) (*Report, error) {
	if err := cmp.Or(s.Verdicts.Err, s.Listeners.Err); err != nil {
		return nil, err
	}
	r := &Report{Version: Version, Outcome: Free, ReuseAddr: q.ReuseAddr, Ports: []PortReport{}, Unseen: append([]string{}, q.Unseen...)}
	for i := range s.Verdicts.Data {
		p := newPortReport(&s.Verdicts.Data[i], s.Listeners.Data, q)
		r.Outcome = worse(r.Outcome, p.Outcome)
		r.Ports = append(r.Ports, p)
	}
	return r, nil
}

func newPortReport(v *verdict.Port, groups []ports.Group, q Query) PortReport {
	p := PortReport{Port: v.Number, Outcome: Free, Listeners: []ListenerReport{}, Holders: append([]Holder{}, q.Holders[v.Number]...)}
	for _, g := range groups {
		if g.Port == v.Number {
			p.Listeners = append(p.Listeners, newListenerReport(v, &g))
		}
	}
	for _, r := range requests(v, groups, q.Addresses) {
		b := newBindReport(&v.Port, r)
		p.Outcome = worse(p.Outcome, b.answer(q.ReuseAddr).Outcome)
		p.Binds = append(p.Binds, b)
	}
	p.Advice = advice(&p, &v.Port)
	return p
}

func newListenerReport(v *verdict.Port, g *ports.Group) ListenerReport {
	l := ListenerReport{
		Address: g.Address, Interface: printable(g.Interface), V6Only: v6only(g.Address, g.V6Only), Sockets: g.Sockets,
		Owner: listenerOwner(g), Restart: unknownAnswer(),
	}
	for _, s := range v.Port.Sockets {
		if s.State == sock.StateListen && s.Addr == g.Address && s.Ifindex == g.Ifindex && s.UID.Known {
			l.UID = &s.UID.ID
		}
	}
	for i := range v.Restarts {
		r := &v.Restarts[i]
		if r.Address == g.Address && r.Ifindex == g.Ifindex {
			l.ReuseAddr, l.ReusePort = Flag(r.ReuseAddr), Flag(r.ReusePort)
			l.Restart = newAnswer(&v.Port, &r.Verdict.Verdict)
		}
	}
	return l
}

// A request is a bind() to judge, but for SO_REUSEADDR.
type request struct {
	Address
	v6only bool
	half   bool // as BindReport.half
}

// requests are the addresses that are asked for, each with the IPV6_V6ONLY of who listens there.
func requests(v *verdict.Port, groups []ports.Group, addresses []Address) []request {
	var listening []request
	for _, g := range groups {
		if g.Port == v.Number {
			listening = append(listening, request{Address: Address{g.Address, g.Ifindex, printable(g.Interface)}, v6only: g.V6Only})
		}
	}
	var out []request
	for _, a := range addresses {
		i := slices.IndexFunc(listening, func(l request) bool { return l.Addr == a.Addr && l.Ifindex == a.Ifindex })
		if i >= 0 {
			out = append(out, listening[i])
			continue
		}
		out = append(out, request{Address: a})
		out = appendHalf(out, v, a)
	}
	switch {
	case len(addresses) > 0:
		return out
	case len(listening) > 0 && !onlyIPv6(listening):
		return listening
	case len(listening) > 0:
		// The other half of a dual-stack server, which may have failed.
		return append([]request{{Address: Address{Addr: netip.IPv4Unspecified()}}}, listening...)
	}
	out = []request{{Address: Address{Addr: netip.IPv4Unspecified()}}, {Address: Address{Addr: netip.IPv6Unspecified()}}}
	return appendHalf(out, v, out[1].Address)
}

// appendHalf adds a bind to `::` that leaves IPv4 alone, where that is answered otherwise.
func appendHalf(requests []request, v *verdict.Port, a Address) []request {
	if a.Addr != netip.IPv6Unspecified() {
		return requests
	}
	half := request{Address: a, v6only: true, half: true}
	dual, alone := newBindReport(&v.Port, request{Address: a}), newBindReport(&v.Port, half)
	if dual.Without.Outcome == alone.Without.Outcome && dual.With.Outcome == alone.With.Outcome {
		return requests
	}
	return append(requests, half)
}

// onlyIPv6: IPv6 is served on the wildcard, and IPv4 nowhere.
func onlyIPv6(listening []request) bool {
	return !slices.ContainsFunc(listening, func(l request) bool { return l.Addr != netip.IPv6Unspecified() || !l.v6only })
}

func newBindReport(port *bindrule.Port, r request) BindReport {
	ask := bindrule.Request{Addr: r.Addr, Ifindex: r.Ifindex, V6Only: bindrule.FlagOf(r.v6only), ReusePort: bindrule.No}
	b := BindReport{Address: r.Addr, Interface: r.Interface, V6Only: v6only(r.Addr, r.v6only), half: r.half}
	ask.ReuseAddr = bindrule.No
	without := port.Bind(ask)
	ask.ReuseAddr = bindrule.Yes
	with := port.Bind(ask)
	b.Without, b.With = newAnswer(port, &without), newAnswer(port, &with)

	ask.ListenersAside = true
	b.withAside = port.Bind(ask)
	ask.ReuseAddr = bindrule.No
	b.withoutAside = port.Bind(ask)
	return b
}

func v6only(a netip.Addr, on bool) Flag {
	if a.Is4() {
		return Flag(bindrule.FlagUnknown)
	}
	return Flag(bindrule.FlagOf(on))
}

func (b *BindReport) answer(reuseAddr bool) *Answer {
	if reuseAddr {
		return &b.With
	}
	return &b.Without
}

// printable is a name as it may be written to a terminal.
func printable(name string) string {
	if !utf8.ValidString(name) || slices.ContainsFunc([]rune(name), func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

// stateName is that of the metrics.
func stateName(s sock.State) string { return netlinkdiag.State(s).String() }
