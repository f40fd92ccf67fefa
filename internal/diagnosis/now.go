package diagnosis

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// ofNow is the diagnosis of a call that has not been made, and would fail or may fail.
func ofNow(f *Facts) Diagnosis {
	if len(f.Blockers) == 0 {
		return ofDoubtful(f)
	}
	d := ofSockets(f)
	bound := f.mayLast(d.End)
	if bound != nil {
		d.End = End{}
	}
	d.Brief = f.brief(d.End, bound)
	d.Why = d.Brief
	if f.Running && d.Code == codes.AcceptedConnection || f.Call == Restart && d.Code == codes.InheritedListener {
		d.Why = d.Sentence // the server closes its connections as it stops: how many there are is not the point
	}
	if f.HalfFree {
		d.Remedy += " Nothing is in the way of the IPv6 half (::): a server that opens 0.0.0.0 and :: apart may start with that half only."
	}
	return d
}

// ofDoubtful is for a call of which nobody knows whether it would fail.
func ofDoubtful(f *Facts) Diagnosis {
	if f.Running && !f.Partial && len(f.Doubtful) > 0 && allCloseWait(f.Doubtful) {
		return f.ofCloseWait()
	}
	d := Diagnosis{Code: codes.Unknown, Sentence: "not all sockets were seen"}
	if len(f.Doubtful) > 0 {
		d.Sentence, d.State = "it depends on flags of "+counted(f.Doubtful), f.Doubtful[0].State.String()
		if end := endOf(f.Doubtful); end.Kind == EndTime && !f.Partial {
			d.Sentence += ", gone in " + words.Wait(end.Left)
			d.Remedy = "Wait " + words.Wait(end.Left) + ": then they are gone, whatever their flags are."
		}
	}
	d.Brief, d.Why = d.Sentence, d.Sentence
	return d
}

// ofCloseWait is for a server that runs, and whose open connections are all in CLOSE_WAIT.
func (f *Facts) ofCloseWait() Diagnosis {
	d := Diagnosis{
		Code: codes.AcceptedConnection, End: End{Kind: EndKernel}, State: f.Doubtful[0].State.String(),
		Sentence: f.accepted(f.Doubtful), Remedy: f.remedyOfCloseWait(),
	}
	d.Why = counted(f.Doubtful) + " " + verb(f.Doubtful, "ends", "end") + " with the server, at once if the " +
		verb(f.Doubtful, "peer answers", "peers answer") + ", else when the kernel gives up"
	d.Brief = d.Why
	return d
}

// heldByCaller says that only the server that is to restart has the sockets open.
func (f *Facts) heldByCaller(sockets []Blocker) bool {
	return f.Running && !slices.ContainsFunc(sockets, func(b Blocker) bool { return b.Holder.Known() && b.Holder.PID != f.By.PID })
}

// mayLast says when the doubtful sockets are gone, if they may block for longer than the others.
func (f *Facts) mayLast(end End) *End {
	if end.Kind != EndTime && end.Kind != EndAtLeast {
		return nil
	}
	doubtful := f.Doubtful
	if f.Running { // its end closes those in CLOSE_WAIT
		doubtful = slices.DeleteFunc(slices.Clone(doubtful), func(b Blocker) bool { return b.State == sock.StateCloseWait })
	}
	bound := End{Kind: EndUnknown}
	if !f.Partial {
		bound = endOf(doubtful)
	}
	if bound.Kind == EndTime && bound.Left <= end.Left {
		return nil
	}
	return &bound
}

func (f *Facts) brief(end End, bound *End) string {
	line := counted(f.Blockers)
	connections := slices.DeleteFunc(slices.Clone(f.Blockers), func(b Blocker) bool { return b.State == sock.StateListen })
	if names := Holders(connections); len(names) > 0 && !f.heldByCaller(connections) {
		line += ", open in " + strings.Join(words.FirstOf(names), ", ")
	}
	switch {
	case bound != nil && bound.Kind == EndTime:
		return line + ", for " + words.Wait(bound.Left) + " at most"
	case bound != nil:
		return line + ", for how long is not known"
	case end.Kind == EndTime:
		return line + ", for " + words.Wait(end.Left)
	case end.Kind == EndAtLeast:
		return line + ", for at least " + words.Wait(end.Left)
	case end.Kind == EndKernel:
		return line + ", until the kernel gives them up"
	default:
		return line + ", until closed"
	}
}

// counted counts sockets by state and flag.
func counted(sockets []Blocker) string {
	type kind struct {
		state sock.State
		flag  bindrule.Flag
	}
	counts := make(map[kind]uint64)
	for i := range sockets {
		counts[kind{sockets[i].State, sockets[i].ReuseAddr}] += sockets[i].Count
	}
	var kinds []kind
	for k := range counts {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b kind) int {
		return cmp.Or(cmp.Compare(a.state.String(), b.state.String()), cmp.Compare(a.flag, b.flag))
	})
	var parts []string
	for _, k := range kinds {
		part := words.Plural(counts[k], "socket")
		if k.state == sock.StateClose {
			part += " bound but not listening"
		} else {
			part += " in " + strings.ToUpper(k.state.String())
		}
		if k.flag != bindrule.FlagUnknown {
			part += " " + ReuseAddr(k.flag)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// ReuseAddr says whether sockets have the flag.
func ReuseAddr(f bindrule.Flag) string {
	switch f {
	case bindrule.Yes:
		return "with SO_REUSEADDR"
	case bindrule.No:
		return "without SO_REUSEADDR"
	default:
		return "with SO_REUSEADDR unknown"
	}
}

// Halves are those who listen on the wildcard addresses of a port.
type Halves struct {
	IPv4, IPv6 []owner.Owner // empty: nobody, or not known

	// Missing is the family that nothing listens on; 0: none. Failed says that a bind for it failed.
	Missing sock.Family
	Failed  bool
}

// OfSplit is the diagnosis of a port whose halves are not in the same hands.
func OfSplit(h *Halves) Diagnosis {
	d := Simple(codes.SplitPort, UntilChanged(), "")
	if h.Missing == 0 {
		d.Sentence = "IPv4 is served by " + Names(h.IPv4) + ", and IPv6 by " + Names(h.IPv6)
		return d
	}
	present, other := h.IPv4, sock.FamilyIPv4
	if h.Missing == sock.FamilyIPv4 {
		present, other = h.IPv6, sock.FamilyIPv6
	}
	missing := FamilyName(h.Missing)
	d.Sentence = "only " + FamilyName(other) + " is served"
	if len(present) > 0 {
		d.Holder = present[0]
		d.Sentence += ", by " + Names(present)
	}
	switch {
	case h.Failed:
		d.Sentence += "; a bind for " + missing + " failed, and nothing listens on it"
		d.Remedy = "Restart the server when the port is free for " + missing + ": it binds each family once, as it starts."
	default:
		d.Sentence += ": the listener on :: has IPV6_V6ONLY. If " + missing + " should be served, that half of the server is missing"
		d.Remedy = "If the server is to serve " + missing + ", restart it when the port is free for " + missing + "."
	}
	return d
}

// FamilyName is an address family in words.
func FamilyName(f sock.Family) string {
	if f == sock.FamilyIPv4 {
		return "IPv4"
	}
	return "IPv6"
}

// Names names processes, the first few of them.
func Names(owners []owner.Owner) string {
	var out []string
	for i := range owners {
		out = append(out, Process(&owners[i]))
	}
	slices.Sort(out)
	return words.And(words.FirstOf(slices.Compact(out)))
}

// OfNoReuseAddr is the diagnosis of a server that listens on these addresses without SO_REUSEADDR.
func OfNoReuseAddr(on []netip.Addr) Diagnosis {
	var places []string
	for _, a := range on {
		places = append(places, a.String())
	}
	return Simple(codes.NoReuseAddr, UntilChanged(), "the listener on "+words.And(words.FirstOf(places))+
		" lacks SO_REUSEADDR: each connection that it closes first blocks its restart for 60 s (TIME_WAIT)")
}

// OfHalf says that only one half of a server failed to bind to addr: its other half listens.
func OfHalf(addr netip.Addr, listening []netip.AddrPort) string {
	this, that := "IPv6", "IPv4"
	if addr.Unmap().Is4() {
		this, that = that, this
	}
	places := make([]string, len(listening))
	for i, a := range listening {
		places[i] = a.String()
	}
	verb := " listens"
	if len(places) > 1 {
		verb = " listen"
	}
	return "only the " + this + " half failed, for " + that + " " + strings.Join(places, " and ") + verb
}
