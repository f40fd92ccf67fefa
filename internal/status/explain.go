package status

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// Explain says in one line, without its end, why a bind() has failed.
func Explain(c *failures.Conflict) string {
	who := "a process"
	if c.Process != "" {
		who = name(c.Process)
	}
	place := ownerPlace(&Owner{Unit: c.Owner.Unit, Container: c.Owner.ShortContainer()})
	if place != "" {
		place = ", " + place
	}
	where := netip.AddrPortFrom(c.Request.Addr, c.Port)
	line := fmt.Sprintf("bind to %s by %s (pid %d%s) failed: ", where, who, c.PID, place) + inWords(c.Request, c.Port, c.Blockers, c.Err)
	if len(c.OtherHalf) > 0 {
		line += "; " + otherHalf(c)
	}
	return line
}

// inWords says what was in the way of a bind().
func inWords(r bindrule.Request, port uint16, blockers []bindrule.Socket, err error) string {
	switch {
	case len(blockers) > 0:
		return blockedBy(r, port, blockers)
	case err != nil:
		return "what is on the port could not be seen: " + plain(err.Error())
	default:
		return "what was in the way was gone when the exporter looked, or cannot be seen"
	}
}

// blockedBy says which sockets stop a bind() to the port, and which flag is missing where.
func blockedBy(r bindrule.Request, port uint16, blockers []bindrule.Socket) string {
	var what, why []string
	for _, cause := range verdict.Causes() {
		sockets := slices.DeleteFunc(slices.Clone(blockers), func(s bindrule.Socket) bool { return verdict.CauseOf(&s) != cause })
		if len(sockets) == 0 {
			continue
		}
		switch cause {
		case verdict.CauseListener:
			what = append(what, owned(sockets, port, "listens on", "listen on"))
			why = append(why, againstListeners(r, sockets))
		case verdict.CauseBound:
			what = append(what, owned(sockets, port, "is bound, without listening, to", "are bound, without listening, to"))
			why = append(why, flags(r, sockets))
		case verdict.CauseConnection:
			what = append(what, connections(sockets)+opened(sockets))
			why = append(why, flags(r, sockets))
		case verdict.CauseTimeWait:
			what = append(what, counted(count(sockets), "socket", "sockets")+" in TIME_WAIT"+opened(sockets)+last(sockets))
			why = append(why, flags(r, sockets))
		}
	}
	why = slices.DeleteFunc(why, func(s string) bool { return s == "" })
	slices.Sort(why)
	why = slices.Compact(why)
	return strings.Join(append([]string{strings.Join(what, ", and ")}, why...), "; ")
}

func otherHalf(c *failures.Conflict) string {
	this, that := "IPv6", "IPv4"
	if c.Request.Addr.Unmap().Is4() {
		this, that = that, this
	}
	listening := make([]string, len(c.OtherHalf))
	for i, a := range c.OtherHalf {
		listening[i] = a.String()
	}
	verb := " listens"
	if len(listening) > 1 {
		verb = " listen"
	}
	return "only the " + this + " half failed, for " + that + " " + strings.Join(listening, " and ") + verb
}

// owned says where sockets are that have an owner.
func owned(sockets []bindrule.Socket, port uint16, one, many string) string {
	subject, verb := "another socket", one
	if n := count(sockets); n > 1 {
		subject, verb = strconv.FormatUint(n, 10)+" other sockets", many
	}
	where, uids := make([]string, 0, len(sockets)), make([]string, 0, len(sockets))
	for _, s := range sockets {
		where = append(where, netip.AddrPortFrom(s.Addr, port).String())
		if s.UID.Known {
			uids = append(uids, strconv.FormatUint(uint64(s.UID.ID), 10))
		}
	}
	out := subject + " " + verb + " " + some(where)
	if len(uids) > 0 {
		out += " (uid " + some(uids) + ")"
	}
	return out
}

const maxListed = 3

// some lists a few different ones.
func some(items []string) string {
	slices.Sort(items)
	items = slices.Compact(items)
	if len(items) > maxListed {
		return strings.Join(items[:maxListed], ", ") + ", ..."
	}
	return strings.Join(items, ", ")
}

func connections(sockets []bindrule.Socket) string {
	byState := make([]uint64, netlinkdiag.NumStates)
	for _, s := range sockets {
		if int(s.State) < len(byState) {
			byState[s.State] += s.Count
		}
	}
	var states []string
	for state, n := range byState {
		if n > 0 {
			states = append(states, fmt.Sprintf("%d %s", n, netlinkdiag.State(state)))
		}
	}
	return counted(count(sockets), "connection", "connections") + " (" + strings.Join(states, ", ") + ")"
}

// opened says whether the sockets have SO_REUSEADDR, where that is the same for all.
func opened(sockets []bindrule.Socket) string {
	switch common(sockets, func(s *bindrule.Socket) bindrule.Flag { return s.ReuseAddr }) {
	case bindrule.No:
		return ", opened without SO_REUSEADDR"
	case bindrule.Yes:
		return ", opened with SO_REUSEADDR"
	default:
		return ""
	}
}

// flags says on which side SO_REUSEADDR is missing: both need it.
func flags(r bindrule.Request, sockets []bindrule.Socket) string {
	theirs := common(sockets, func(s *bindrule.Socket) bindrule.Flag { return s.ReuseAddr })
	switch {
	case r.ReuseAddr == bindrule.FlagUnknown:
		return ""
	case r.ReuseAddr == bindrule.Yes:
		return "the new socket has SO_REUSEADDR, but the old ones need it too: as when a server restarts for the first time since it sets the flag"
	case theirs == bindrule.No:
		return "the new socket lacks SO_REUSEADDR too"
	default:
		return "the new socket lacks SO_REUSEADDR"
	}
}

// againstListeners says why no flag has helped.
func againstListeners(r bindrule.Request, listeners []bindrule.Socket) string {
	theirs := common(listeners, func(s *bindrule.Socket) bindrule.Flag { return s.ReusePort })
	switch {
	case r.ReusePort == bindrule.Yes && theirs == bindrule.Yes:
		return "SO_REUSEPORT shares a port among sockets of one user only"
	case r.ReusePort == bindrule.Yes:
		return "the new socket has SO_REUSEPORT, but the old one needs it too"
	case r.ReuseAddr == bindrule.Yes:
		return "SO_REUSEADDR does not help against a listener"
	default:
		return ""
	}
}

// common is the flag where all sockets have the same.
func common(sockets []bindrule.Socket, flag func(*bindrule.Socket) bindrule.Flag) bindrule.Flag {
	of := flag(&sockets[0])
	for i := range sockets {
		if flag(&sockets[i]) != of {
			return bindrule.FlagUnknown
		}
	}
	return of
}

func count(sockets []bindrule.Socket) (n uint64) {
	for _, s := range sockets {
		n += s.Count
	}
	return n
}

func counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// last says for how long the last of them stays.
func last(sockets []bindrule.Socket) string {
	var left time.Duration
	for _, s := range sockets {
		left = max(left, s.Expires)
	}
	if left <= 0 {
		return ""
	}
	which := ", the last one"
	if count(sockets) == 1 {
		which = ","
	}
	return fmt.Sprintf("%s for %d s", which, (left+time.Second-1)/time.Second)
}

// name shows what a process calls itself, which may be any bytes: a plain word as it is, all
// else in quotes.
func name(process string) string {
	safe := func(r rune) bool {
		return r < 0x80 && (r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("-_.:/+@", r))
	}
	if strings.IndexFunc(process, func(r rune) bool { return !safe(r) }) < 0 {
		return process
	}
	return strconv.QuoteToASCII(process)
}

// plain is text without what would break a line.
func plain(text string) string {
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
