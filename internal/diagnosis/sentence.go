package diagnosis

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// sentence says what the sockets of one code are, and who holds them.
func (f *Facts) sentence(code codes.Code, sockets []Blocker) string {
	switch code {
	case codes.OwnListener:
		return f.ownListener(sockets)
	case codes.InheritedListener:
		return f.inherited(sockets)
	case codes.ReusePortOtherUser:
		return f.Who(sockets) + " listens on " + f.Where(sockets) + " with SO_REUSEPORT as " + UIDs(sockets) +
			", and the new socket belongs to uid " + strconv.FormatUint(uint64(f.Request.UID.ID), 10)
	case codes.ReusePortMissing:
		which := "the new socket sets SO_REUSEPORT, and that listener does not"
		if f.Request.ReusePort != bindrule.Yes {
			which = "that listener sets SO_REUSEPORT, and the new socket does not"
		}
		return f.listens(sockets) + "; " + which
	case codes.OtherListener:
		return f.listens(sockets)
	case codes.SelfConnection:
		return f.Who(sockets) + " is connected to itself on " + f.Endpoint(&sockets[0])
	case codes.BoundOnly:
		return f.Who(sockets) + " has bound " + f.Where(sockets) + " and does not listen" + f.flagNote(sockets)
	case codes.OutgoingConnection:
		return f.outgoing(sockets)
	case codes.AcceptedConnection, codes.Unknown:
		return f.accepted(sockets)
	case codes.Closing:
		return count(sockets, "connection") + " of " + f.server() + " " + verb(sockets, "waits for its peer", "wait for their peers") +
			" (" + states(sockets) + ")" + f.flagNote(sockets)
	default:
		return f.timeWait(sockets)
	}
}

func (f *Facts) inherited(sockets []Blocker) string {
	if opener := &sockets[0].Opener; opener.Known() {
		return f.Who(sockets) + " still has the listening socket on " + f.Where(sockets) + " open that " + Process(opener) + " opened, which is gone"
	}
	return f.Who(sockets) + " has the listening socket on " + f.Where(sockets) + " open, but has not opened it, and nobody waits for its connections: whoever opened it does not have it any more"
}

func (f *Facts) ownListener(sockets []Blocker) string {
	who := "the process"
	if f.Process != "" {
		who = words.Name(f.Process)
	}
	line := who + " itself listens on " + f.Where(sockets) + " already"
	if addr := sockets[0].Addr; addr.Is6() && addr.IsUnspecified() && f.Request.Addr.Is4() {
		line += ", and that socket covers IPv4 too (no IPV6_V6ONLY)"
	}
	return line
}

func (f *Facts) listens(sockets []Blocker) string {
	verb := " listens on "
	if len(Holders(sockets)) > 1 || sockets[0].Holder.Processes > 1 {
		verb = " listen on "
	}
	return f.Who(sockets) + verb + f.Where(sockets)
}

func (f *Facts) outgoing(sockets []Blocker) string {
	b := &sockets[0]
	if n := Total(sockets); n > 1 || !b.Peer.IsValid() {
		return count(sockets, "outgoing connection") + " (" + states(sockets) + ") " + verb(sockets, "uses", "use") +
			" the port as source port" + heldBy(sockets)
	}
	line := "an outgoing connection"
	if b.Holder.Known() {
		line += " of " + Process(&b.Holder)
	}
	return line + fmt.Sprintf(" from %s to %s (%s) uses the port as its source port", f.Endpoint(b), b.Peer, state(b)) + left(sockets)
}

func (f *Facts) accepted(sockets []Blocker) string {
	line := count(sockets, "connection") + " that the old server accepted " + verb(sockets, "is", "are") + " still open (" + states(sockets)
	switch {
	case f.Running:
		line = count(sockets, "connection") + " of the server " + verb(sockets, "is", "are") + " open (" + states(sockets)
	case f.openerUnseen():
		line = count(sockets, "connection") + " on the port " + verb(sockets, "is", "are") + " open (" + states(sockets)
	}
	if peers := peers(sockets); peers != "" {
		line += ", peer " + peers
	}
	line += ")"
	if !f.heldByCaller(sockets) {
		line += heldBy(sockets)
	}
	switch {
	case f.Running && allCloseWait(sockets):
		line += "; the peer has closed " + verb(sockets, "it", "each") + " and the server has not: " + verb(sockets, "it ends", "they end") + " with the server, without TIME_WAIT, as soon as the peer confirms that"
	case f.Running:
		line += ", and those that it closes first stay in TIME_WAIT for 60 s"
	}
	return line + f.flagNote(sockets)
}

// allCloseWait says that the peers have closed all of the connections first: none of them goes to TIME_WAIT.
func allCloseWait(sockets []Blocker) bool {
	return !slices.ContainsFunc(sockets, func(b Blocker) bool { return b.State != sock.StateCloseWait })
}

func (f *Facts) server() string {
	if f.Running {
		return "the server"
	}
	return "the old server"
}

func (f *Facts) timeWait(sockets []Blocker) string {
	line := count(sockets, "connection") + " " + verb(sockets, "is", "are") + " in TIME_WAIT" + left(sockets)
	return line + f.flagNote(sockets)
}

// flagNote says which sockets lack SO_REUSEADDR: both sides need it.
func (f *Facts) flagNote(sockets []Blocker) string {
	theirs := common(sockets, func(b *Blocker) bindrule.Flag { return b.ReuseAddr })
	lacks := ""
	switch theirs {
	case bindrule.No:
		lacks = verb(sockets, "it was", "they were") + " opened without SO_REUSEADDR"
	case bindrule.Yes:
		lacks = verb(sockets, "it was", "they were") + " opened with SO_REUSEADDR"
	}
	switch {
	case f.Seen == Now && f.Call == Bind: // what the new socket sets is an assumption
		if lacks == "" {
			return ""
		}
		return "; " + lacks + ", and both sides need the flag"
	case f.Request.ReuseAddr == bindrule.Yes && theirs == bindrule.No:
		return "; the new socket sets SO_REUSEADDR, but " + lacks
	case f.Request.ReuseAddr == bindrule.No && theirs == bindrule.No:
		return "; " + lacks + ", and the new socket lacks it too"
	case f.Request.ReuseAddr == bindrule.No && theirs == bindrule.Yes:
		return "; " + lacks + ", but the new socket lacks it"
	case f.Request.ReuseAddr == bindrule.No:
		return "; the new socket lacks SO_REUSEADDR"
	default:
		return ""
	}
}

// others says in short what else blocks the call.
func others(groups map[codes.Code][]Blocker, told codes.Code) string {
	var rest []Blocker
	for code, sockets := range groups {
		if code != told {
			rest = append(rest, sockets...)
		}
	}
	if len(rest) == 0 {
		return ""
	}
	return count(rest, "other socket") + " (" + states(rest) + ") " + verb(rest, "blocks", "block") + " it too"
}

// Who names the holders, or says what is known of why there is none.
func (f *Facts) Who(sockets []Blocker) string {
	switch names := Holders(sockets); {
	case len(names) > 0 && f.MoreHolders > 0 && sockets[0].State == sock.StateListen:
		return words.And(append(names, strconv.Itoa(f.MoreHolders)+" more"))
	case len(names) > 0:
		return words.And(words.FirstOf(names))
	case sockets[0].Own && f.Process != "":
		return words.Name(f.Process)
	case sockets[0].Holder.Absence == owner.NoProcess:
		return "a socket that no process shows"
	default:
		return "a process of " + UIDs(sockets)
	}
}

// Holders names the processes that are known to have the sockets.
func Holders(sockets []Blocker) []string {
	var names []string
	for i := range sockets {
		if h := &sockets[i].Holder; h.Known() {
			names = append(names, Process(h))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func heldBy(sockets []Blocker) string {
	names := Holders(sockets)
	if len(names) == 0 {
		return ""
	}
	return ", held by " + words.And(words.FirstOf(names))
}

// Process names a process.
func Process(o *owner.Owner) string {
	return words.Process(o.Process, o.PID, placeOf(o), max(o.Processes-1, 0))
}

func placeOf(o *owner.Owner) words.Place {
	return words.Place{Unit: o.ShownUnit(), Pod: o.Named.PodName(), Container: o.ShownContainer()}
}

// UIDs are the users of the sockets.
func UIDs(sockets []Blocker) string {
	var ids []string
	for i := range sockets {
		if uid := sockets[i].UID; uid.Known && uid.ID != sock.OtherUID {
			ids = append(ids, strconv.FormatUint(uint64(uid.ID), 10))
		}
	}
	if len(ids) == 0 {
		return "an unknown user"
	}
	return "uid " + words.Few(ids)
}

// Where are the addresses of the sockets.
func (f *Facts) Where(sockets []Blocker) string {
	var out []string
	for i := range sockets {
		out = append(out, f.Endpoint(&sockets[i]))
	}
	return words.Few(out)
}

// Endpoint is the address and port of a socket.
func (f *Facts) Endpoint(b *Blocker) string {
	switch {
	case b.Elsewhere == sock.FamilyIPv4:
		return words.Port(f.Port) + " of other IPv4 addresses"
	case b.Elsewhere == sock.FamilyIPv6:
		return words.Port(f.Port) + " of other IPv6 addresses"
	case !b.Addr.IsValid():
		return words.Port(f.Port)
	default:
		return netip.AddrPortFrom(b.Addr, f.Port).String()
	}
}

func peers(sockets []Blocker) string {
	var out []string
	for i := range sockets {
		if p := sockets[i].Peer; p.IsValid() {
			out = append(out, p.String())
		}
	}
	return words.Few(out)
}

func state(b *Blocker) string { return strings.ToUpper(b.State.String()) }

// states counts the sockets by state.
func states(sockets []Blocker) string {
	counts := make(map[string]uint64)
	for i := range sockets {
		counts[state(&sockets[i])] += sockets[i].Count
	}
	var out []string
	for name, n := range counts {
		out = append(out, fmt.Sprintf("%d %s", n, name))
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Compare(a[strings.IndexByte(a, ' '):], b[strings.IndexByte(b, ' '):])
	})
	return strings.Join(out, ", ")
}

// Total is the number of sockets.
func Total(sockets []Blocker) (n uint64) {
	for i := range sockets {
		n += sockets[i].Count
	}
	return n
}

func count(sockets []Blocker, what string) string { return words.Plural(Total(sockets), what) }

func verb(sockets []Blocker, one, many string) string {
	if Total(sockets) == 1 {
		return one
	}
	return many
}

// left says how long the sockets in TIME_WAIT stay.
func left(sockets []Blocker) string {
	var last time.Duration
	for i := range sockets {
		last = max(last, sockets[i].Expires)
	}
	switch {
	case last <= 0:
		return ""
	case Total(sockets) == 1:
		return ", for " + words.Wait(last)
	default:
		return ", the last one for " + words.Wait(last)
	}
}

// common is the flag of all sockets, or unknown if they differ.
func common(sockets []Blocker, flag func(*Blocker) bindrule.Flag) bindrule.Flag {
	of := flag(&sockets[0])
	for i := range sockets {
		if flag(&sockets[i]) != of {
			return bindrule.FlagUnknown
		}
	}
	return of
}
