package diagnosis

import (
	"fmt"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// remedy is what to do about the sockets of one code.
func (f *Facts) remedy(code codes.Code, sockets []Blocker) string {
	switch code {
	case codes.OwnListener:
		return f.RemedyOfOwn(sockets)
	case codes.InheritedListener:
		unless := ""
		if !sockets[0].Opener.Known() { // it may be a server that got the socket, and is busy
			unless = " if it does not serve the port"
		}
		return "End " + f.Who(sockets) + unless + ", and open the server's socket with SOCK_CLOEXEC, so that children do not inherit it."
	case codes.OtherListener:
		return f.remedyOfOtherListener(sockets)
	case codes.SelfConnection:
		return f.CloseFirst(sockets, "Restart the client") + " The port then stays in TIME_WAIT for 60 s, and the bind works after that. " + f.Reserve()
	case codes.OutgoingConnection:
		return f.remedyOfOutgoing(sockets)
	case codes.AcceptedConnection, codes.Closing, codes.TimeWait, codes.TimeWaitOldFlags:
		return f.remedyByFlag(code, sockets)
	case codes.Unknown:
		return "The bind works once they are closed. If a server that is gone accepted them, set SO_REUSEADDR before bind(): then such connections do not block it. " +
			"If a client opened them, the flag does not help. " + f.Reserve()
	default:
		return code.Remedy()
	}
}

// RemedyOfOwn is what to do about a socket of the binder itself.
func (f *Facts) RemedyOfOwn(sockets []Blocker) string {
	b := &sockets[0]
	if b.Addr.Unmap() != f.Request.Addr.Unmap() && b.Addr.IsUnspecified() && b.Addr.Is6() {
		return "Set IPV6_V6ONLY on the socket that listens on ::, or do not listen on IPv4 as well."
	}
	if f.Request.Addr.Is6() && f.Request.Addr.IsUnspecified() && b.Addr.Unmap().Is4() {
		return "Set IPV6_V6ONLY on the new socket before it is bound to ::, or listen on :: only, which covers IPv4 too."
	}
	if b.Addr.Unmap() == f.Request.Addr.Unmap() {
		return "Remove one of the two listen addresses from the configuration: they are the same."
	}
	return codes.OwnListener.Remedy()
}

func (f *Facts) remedyOfOtherListener(sockets []Blocker) string {
	names := Holders(sockets)
	if f.SameProgram(&sockets[0]) {
		return "The program runs already: stop that instance before you start another one." + leftOver(&sockets[0].Holder)
	}
	switch {
	case f.Seen == Now && len(names) > 0: // a healthy server, as far as anybody knows
		return "To run another server here, stop " + words.And(words.FirstOf(names)) + " first, or use another port or address."
	case len(names) > 0:
		remedy := "Stop " + words.And(words.FirstOf(names)) + ", or use another port or address."
		if len(names) == 1 && f.namesake(&sockets[0]) {
			remedy += otherInstance(&sockets[0].Holder)
		}
		return remedy
	case sockets[0].Holder.Absence == owner.NoProcess:
		return "The socket is the kernel's own (NFS), registered with io_uring, in a thread with descriptors of its own, or on its way through a Unix socket. Use another port or address, or find its program by uid."
	case sockets[0].Holder.Absence == owner.Refused:
		return "No process shows the socket, but a security module hides some processes, from `ss` too. Use another port or address, or find its program by uid."
	case sockets[0].Holder.Absence == owner.Hidden:
		return fmt.Sprintf("Not all processes could be looked into; `ss -Htlnp 'sport = :%d'`, as root on the host, may name it.", f.Port)
	case f.Seen == Now:
		return fmt.Sprintf("`ss -Htlnp 'sport = :%d'`, as root on the host, names the process.", f.Port)
	}
	return codes.OtherListener.Remedy()
}

// CloseFirst names the process that has to close its socket.
func (f *Facts) CloseFirst(sockets []Blocker, otherwise string) string {
	if names := Holders(sockets); len(names) > 0 {
		return "Restart " + words.And(words.FirstOf(names)) + "."
	}
	return otherwise + "."
}

// Reserve says how to keep the kernel from choosing the port.
func (f *Facts) Reserve() string {
	return fmt.Sprintf("Reserve the port, so that the kernel does not choose it for a client: add %d to net.ipv4.ip_local_reserved_ports.", f.Port)
}

func (f *Facts) remedyOfOutgoing(sockets []Blocker) string {
	now := "Wait until the connection is closed"
	if Total(sockets) > 1 {
		now = "Wait until the connections are closed"
	}
	if names := Holders(sockets); len(names) > 0 {
		now += ", or end " + words.And(words.FirstOf(names))
	}
	now += ". The bind works then, or 60 s later if this side closes first (TIME_WAIT)."
	if end := endOf(sockets); end.Kind == EndTime {
		now = "Wait " + words.Wait(end.Left) + "."
	}
	if common(sockets, func(b *Blocker) bindrule.Flag { return b.ReuseAddr }) == bindrule.Yes {
		return now + " With SO_REUSEADDR on the new socket it works now. " + f.Reserve()
	}
	return now + " SO_REUSEADDR does not help: the connection does not have it. " + f.Reserve()
}

// remedyByFlag: sockets that do not listen do not block where both sides set SO_REUSEADDR.
func (f *Facts) remedyByFlag(code codes.Code, sockets []Blocker) string {
	lacking := withoutReuseAddr(f.Blockers)
	wait := endText(endOf(lacking))
	after := ""
	if names := Holders(sockets); code == codes.AcceptedConnection && len(names) > 0 && f.Seen != Now {
		wait += ", or end " + words.And(words.FirstOf(names)) + ", which has the old connections open"
	}
	if slices.ContainsFunc(lacking, func(b Blocker) bool { return b.State == sock.StateEstablished }) {
		after = " If this side closes a connection first, 60 s of TIME_WAIT follow."
	}
	switch {
	case code == codes.AcceptedConnection && f.Running:
		return f.remedyOfRestart()
	case len(lacking) > 0 && !slices.ContainsFunc(lacking, func(b Blocker) bool { return b.ReuseAddr == bindrule.No }):
		return "Wait " + wait + ". SO_REUSEADDR on the new socket helps at once if they were opened with it, which could not be seen."
	case f.Request.ReuseAddr == bindrule.Yes:
		return "Wait " + wait + ". Connections that are opened from now on do not block a restart, because the server sets SO_REUSEADDR." + after
	case len(lacking) == 0:
		return "Set SO_REUSEADDR before bind(): then the bind works at once."
	default:
		return "Set SO_REUSEADDR before bind(). This time also wait " + wait + ": the flag does not help against connections that were opened without it." + after
	}
}

// remedyOfRestart is for a server that runs, whose open connections lack SO_REUSEADDR. It closes them
// as it stops.
func (f *Facts) remedyOfRestart() string {
	const stop = "Stop the server, wait 60 s after its last connection is closed, and start it."
	if f.Request.ReuseAddr == bindrule.Yes {
		return stop + " Connections that are opened from now on do not block a restart, because the server sets SO_REUSEADDR."
	}
	if len(withoutReuseAddr(f.Blockers)) == 0 {
		return "Set SO_REUSEADDR before bind(): then open connections do not block a restart."
	}
	return "Set SO_REUSEADDR before bind(). For the restart that brings the flag: s" + stop[1:]
}

// remedyOfCloseWait is for a server that runs, whose open connections are all in CLOSE_WAIT.
func (f *Facts) remedyOfCloseWait() string {
	remedy := "Find out why the server does not close connections that the peer has closed: it leaks descriptors. " +
		"When the server ends, the kernel closes them: the bind works as soon as the peers have confirmed that. " +
		"Where a peer does not answer, the connection stays in LAST_ACK until the kernel gives it up, mostly within minutes (net.ipv4.tcp_orphan_retries)."
	if f.Request.ReuseAddr != bindrule.Yes {
		remedy += " Set SO_REUSEADDR before bind(): then open connections do not block a restart."
	}
	return remedy
}

func withoutReuseAddr(sockets []Blocker) []Blocker {
	var out []Blocker
	for i := range sockets {
		if sockets[i].ReuseAddr != bindrule.Yes {
			out = append(out, sockets[i])
		}
	}
	return out
}

// endText follows "wait".
func endText(e End) string {
	switch e.Kind {
	case EndTime:
		return words.Wait(max(e.Left, time.Millisecond))
	case EndAtLeast:
		return "at least " + words.Wait(e.Left) + " (if the peer closes meanwhile, 60 s of TIME_WAIT follow)"
	case EndKernel:
		return "until the kernel gives the connections up, mostly within minutes (net.ipv4.tcp_orphan_retries, net.ipv4.tcp_fin_timeout)"
	default:
		return "until they are closed"
	}
}
