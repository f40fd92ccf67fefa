package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// Explain says in one line why a bind() failed, without a newline at the end.
func Explain(c *failures.Conflict) string {
	who := "a process"
	if c.Process != "" {
		who = Name(c.Process)
	}
	place := NewOwner(&c.Owner).Place()
	if place != "" {
		place = ", " + place
	}
	where := netip.AddrPortFrom(c.Request.Addr, c.Port)
	line := fmt.Sprintf("bind to %s by %s (pid %d%s) failed: ", where, who, c.PID, place) + whatBlocked(c.Request, c.Port, c.Blockers, c.Err)
	if len(c.OtherHalf) > 0 {
		line += "; " + otherHalf(c)
	}
	return line
}

// WhyFailed says why a bind() failed; watched is about its network namespace.
func WhyFailed(f *failures.Recent, watched bool) string {
	switch {
	case f.Settled: // so the error is EADDRINUSE
		return whatBlocked(f.Request, f.Port, f.Blockers, nil)
	case f.Errno != syscall.EADDRINUSE:
		return errnoWords(f)
	case f.OwnRange:
		return "the socket limits itself to a few ports (IP_LOCAL_PORT_RANGE), and none of them was free for this address"
	case f.PortKnown && f.Port == 0:
		return "no port of net.ipv4.ip_local_port_range was free for this address"
	case !watched:
		return "not looked for: the network namespace is not watched"
	case f.Protocol != sock.TCP && f.Protocol != sock.MPTCP:
		return "another socket has the port; which one is looked for with TCP only"
	default:
		return "not looked for, or not yet"
	}
}

// errnoWords explains the error of a bind(), as bind(2) does.
func errnoWords(f *failures.Recent) string {
	switch f.Errno {
	case syscall.EADDRNOTAVAIL:
		return "the address is none of this network namespace's: an interface that is not up yet, or another host's address (net.ipv4.ip_nonlocal_bind allows it)"
	case syscall.EACCES:
		if f.PortKnown && f.Port < 1024 {
			return "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; a security module can refuse it, too"
		}
		return "a security module (SELinux, AppArmor, a BPF program) refused it"
	case syscall.EPERM:
		return "a security module or a cgroup's BPF program refused it"
	case syscall.EINVAL:
		return "the socket is bound already, or the address makes no sense for it"
	case syscall.EAFNOSUPPORT:
		return "the address is of another family than the socket"
	case syscall.ENODEV:
		return "the interface of the address's scope does not exist"
	case syscall.ENOBUFS, syscall.ENOMEM:
		return "the kernel was short of memory"
	default:
		return ""
	}
}

// whatBlocked says which sockets blocked a bind(), or why that is not known.
func whatBlocked(r bindrule.Request, port uint16, blockers []bindrule.Socket, err error) string {
	switch {
	case len(blockers) > 0:
		return blockedBy(r, port, blockers)
	case err != nil:
		return "what is on the port could not be seen: " + OneLine(err.Error())
	default:
		return "what was in the way was gone when the exporter looked, or cannot be seen"
	}
}

// blockedBy says which sockets block a bind() to the port, and which of them lack a flag.
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
			what = append(what, Plural(count(sockets), "socket")+" in TIME_WAIT"+opened(sockets)+last(sockets))
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

// owned says where the sockets are, and which users made them.
func owned(sockets []bindrule.Socket, port uint16, one, many string) string {
	subject, verb := "another socket", one
	if n := count(sockets); n > 1 {
		subject, verb = strconv.FormatUint(n, 10)+" other sockets", many
	}
	where, uids := make([]string, 0, len(sockets)), make([]string, 0, len(sockets))
	for _, s := range sockets {
		where = append(where, whereIs(&s, port))
		if s.UID.Known && s.UID.ID != sock.OtherUID {
			uids = append(uids, strconv.FormatUint(uint64(s.UID.ID), 10))
		}
	}
	out := subject + " " + verb + " " + few(where)
	if len(uids) > 0 {
		out += " (uid " + few(uids) + ")"
	}
	return out
}

func whereIs(s *bindrule.Socket, port uint16) string {
	switch s.Elsewhere {
	case sock.FamilyIPv4:
		return fmt.Sprintf("port %d of other IPv4 addresses", port)
	case sock.FamilyIPv6:
		return fmt.Sprintf("port %d of other IPv6 addresses", port)
	default:
		return netip.AddrPortFrom(s.Addr, port).String()
	}
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
	return Plural(count(sockets), "connection") + " (" + strings.Join(states, ", ") + ")"
}

// opened says whether the sockets have SO_REUSEADDR, if it is the same for all.
func opened(sockets []bindrule.Socket) string {
	flag := common(sockets, func(s *bindrule.Socket) bindrule.Flag { return s.ReuseAddr })
	if flag == bindrule.FlagUnknown {
		return ""
	}
	return ", opened " + reuseAddr(flag)
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

// againstListeners says why the flags of the new socket did not help.
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

// common is the flag of all sockets, or unknown if they differ.
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

// last says how long the last socket stays.
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
	return which + " for " + Wait(left.Seconds())
}
