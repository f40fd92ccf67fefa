// Package facts puts together what is known of a failed call: the event of the tracer, with the
// sockets that the kernel captured, and what the exporter saw afterwards. internal/diagnosis turns the
// facts into words.
//
// The package is pure.
package facts

import (
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/verdict"
)

// An Observation is what was known of a port when the exporter looked.
type Observation struct {
	Seen   bindrule.Port // after the call; empty where the kernel captured everything
	Err    error         // why not everything was seen
	UDP    *udp.Port     // seen after the call; nil: nobody has looked
	Host   diagnosis.Host
	Owners map[uint32]owner.Owner // by inode of the socket

	// Listeners are those that were seen after the call.
	Listeners []ports.Listener
	// LocalSockets are sockets that have the local ports, by inode: a sample.
	LocalSockets []uint32
	// Addresses are those that bind() refused.
	Addresses map[Local]sock.Address
}

// A Local is a local address. The device is that of an IPv6 link-local one.
type Local struct {
	Addr    netip.Addr
	Ifindex uint32
}

// LocalOf is the address of a call.
func LocalOf(e *bindtrace.Event) Local {
	l := Local{Addr: e.Addr.WithZone("")}
	if l.Addr.Is6() && l.Addr.IsLinkLocalUnicast() {
		l.Ifindex = uint32(e.Ifindex)
		if zone, err := strconv.ParseUint(e.Addr.Zone(), 10, 32); err == nil {
			l.Ifindex = uint32(zone)
		}
	}
	return l
}

// AsksForSockets says that sockets on the port explain the failure. A bind to port 0 fails when no port is
// free at all.
func AsksForSockets(e *bindtrace.Event) bool {
	return e.Op != bindtrace.OpConnect && e.Errno == unix.EADDRINUSE && e.PortKnown && e.Port != 0 &&
		(e.Protocol == sock.TCP || e.Protocol == sock.MPTCP || e.Protocol == sock.UDP)
}

// AsksForAddress says that the state of the local address explains the failure.
func AsksForAddress(e *bindtrace.Event) bool {
	return e.Op == bindtrace.OpBind && e.Errno == unix.EADDRNOTAVAIL && e.PortKnown
}

// Looks says that a look at the host could show why the call failed, or that the log tells it. Other errors say
// that the call itself was wrong.
func Looks(e *bindtrace.Event) bool {
	switch {
	case !e.PortKnown:
		return false
	case e.Op != bindtrace.OpBind || e.Errno == unix.EADDRNOTAVAIL || e.Errno == unix.EACCES || e.Errno == unix.EPERM:
		return true
	default:
		return AsksForSockets(e) || e.Errno == unix.EADDRINUSE && e.Port == 0
	}
}

// RequestOf is the bind that a call asked for.
func RequestOf(e *bindtrace.Event) bindrule.Request {
	return bindrule.Request{
		Addr:      e.Addr.WithZone(""), // which is in Ifindex too, since __inet6_bind
		Ifindex:   uint32(e.Ifindex),
		V6Only:    bindrule.FlagOf(e.V6Only),
		ReuseAddr: bindrule.FlagOf(e.ReuseAddr),
		ReusePort: bindrule.FlagOf(e.ReusePort),
		UID:       bindrule.UIDOf(e.UID),
	}
}

// CodeOf is the diagnosis of a failed call by its event alone.
func CodeOf(e *bindtrace.Event) codes.Code {
	facts := Of(e, bindrule.Request{}, owner.Owner{})
	d := diagnosis.Of(&facts)
	return d.Code
}

// Explain says why a call failed. What the kernel captured as it failed is
// right. What was seen afterwards counts only where the capture is not complete.
func (s *Observation) Explain(e *bindtrace.Event, request bindrule.Request, by owner.Owner) diagnosis.Diagnosis {
	facts := Of(e, request, by)
	facts.Host.Listened, facts.Host.LocalPorts, facts.Host.Taken = s.Host.Listened, s.Host.LocalPorts, s.Host.Taken
	facts.Host.Taken.Users = portUsers(s.LocalSockets, s.Owners)
	facts.Host.Address = s.Addresses[LocalOf(e)]
	if !AsksForSockets(e) {
		return diagnosis.Of(&facts)
	}
	facts.Err = s.Err
	if e.Protocol == sock.UDP {
		return s.explainUDP(&facts, e, request)
	}
	captured := s.captured(e, request)
	facts.Blockers, facts.Seen = captured, diagnosis.AtFailure
	if len(captured) == 0 || e.Captured != bindtrace.CaptureAll {
		facts.Partial = true
		if sockets := verdict.Explain(&s.Seen, request); len(captured) == 0 || len(sockets) > 0 {
			facts.Blockers, facts.Seen, facts.Partial = withDetails(&s.Seen.Bucket, sockets, captured), diagnosis.Afterwards, s.Seen.Incomplete
			s.name(facts.Blockers, &by)
		}
	}
	return diagnosis.Of(&facts)
}

// Of has what the event says.
func Of(e *bindtrace.Event, request bindrule.Request, by owner.Owner) diagnosis.Facts {
	by.Process, by.PID, by.Processes = e.Process, int(e.PID), 1 // also if it has ended
	return diagnosis.Facts{
		Call: CallOf(e.Op), Errno: e.Errno, Protocol: e.Protocol, Port: e.Port, PortKnown: e.PortKnown, OwnRange: e.OwnRange,
		Request: request, Process: e.Process, By: by, Host: HostOf(e),
	}
}

// HostOf is what the event says of the host.
func HostOf(e *bindtrace.Event) diagnosis.Host {
	return diagnosis.Host{UnprivilegedPortStart: e.UnprivilegedStart, PrivilegeLacked: e.PrivilegeLacked}
}

// CallOf is the call in the words of a diagnosis.
func CallOf(op bindtrace.Op) diagnosis.Call {
	switch op {
	case bindtrace.OpListen:
		return diagnosis.Listen
	case bindtrace.OpConnect:
		return diagnosis.Connect
	default:
		return diagnosis.Bind
	}
}

// Complete says that the kernel has captured everything that blocked the bind, and that nothing else has to
// be seen: what a socket of the kernel itself is for is seen afterwards.
func (s *Observation) Complete(e *bindtrace.Event, request bindrule.Request) bool {
	captured := s.captured(e, request)
	return e.Captured == bindtrace.CaptureAll && len(captured) > 0 &&
		!slices.ContainsFunc(captured, func(b diagnosis.Blocker) bool { return b.Kernel })
}

// captured are the sockets that the kernel captured, and that block the request by the rules of
// bind().
func (s *Observation) captured(e *bindtrace.Event, request bindrule.Request) []diagnosis.Blocker {
	port := bindrule.Port{Bucket: bindrule.Bucket{Known: true}}
	for i := range e.Blockers {
		port.Sockets = append(port.Sockets, socketOf(&e.Blockers[i]))
	}
	var blocking []int
	if e.Protocol == sock.UDP {
		rule := bindrule.UDPPort{Sockets: port.Sockets, InOrder: true, Crowded: bindrule.No}
		blocking = rule.Bind(request).Blockers
	} else {
		blocking = port.Bind(request).Blockers
	}
	var out []diagnosis.Blocker
	for _, i := range blocking {
		b := &e.Blockers[i]
		holder := s.Owners[uint32(b.Inode)]
		out = append(out, diagnosis.Blocker{
			Socket: port.Sockets[i], Peer: b.Peer, Outgoing: b.Outgoing, Own: b.Own, Held: b.Inode != 0, Kernel: b.Kernel,
			Holder: holder, Opener: goneOpener(&holder),
		})
	}
	return out
}

// Inherited says that a listening socket is left of a server that is gone: its owner has not opened it.
func Inherited(o *owner.Owner) bool {
	opener := goneOpener(o)
	return o.Inherited || opener.Known()
}

// goneOpener is the process that opened the socket, if it has ended. A daemon that puts itself into the
// background is the same program: nobody has inherited its socket.
func goneOpener(o *owner.Owner) owner.Owner {
	if o.Opener == nil || !o.Opener.Ended || o.Opener.SameProgram {
		return owner.Owner{}
	}
	return owner.Owner{
		Process: o.Opener.Process, Unit: o.Opener.Unit, Runtime: o.Opener.Runtime, Container: o.Opener.Container,
		Within: o.Opener.Within, Named: o.Opener.Named, PID: o.Opener.PID, Processes: 1,
	}
}

// name names who has the listeners that were seen after the call. by is the process that made it, if it was
// there: its own listener is another story.
func (s *Observation) name(blockers []diagnosis.Blocker, by *owner.Owner) {
	for i := range blockers {
		b := &blockers[i]
		inode := s.Listener(&b.Socket)
		if inode == 0 || b.Own || b.Holder.Known() {
			continue
		}
		b.Holder, b.Held = s.Owners[inode], true
		b.Opener, b.Own = goneOpener(&b.Holder), by.PID != 0 && b.Holder.PID == by.PID
	}
}

// portUsers counts the sockets of each process that is known, those with most of them first.
func portUsers(inodes []uint32, owners map[uint32]owner.Owner) []diagnosis.PortUser {
	var users []diagnosis.PortUser
	for _, inode := range inodes {
		o := owners[inode]
		if !o.Known() {
			continue
		}
		i := slices.IndexFunc(users, func(u diagnosis.PortUser) bool { return u.Owner.PID == o.PID })
		if i < 0 {
			i = len(users)
			users = append(users, diagnosis.PortUser{Owner: o})
		}
		users[i].Sockets++
	}
	slices.SortStableFunc(users, func(a, b diagnosis.PortUser) int { return b.Sockets - a.Sockets })
	return users
}

// Listener is the inode number of a listener that was seen after the call; 0: it is none, or one of several.
func (s *Observation) Listener(of *bindrule.Socket) (inode uint32) {
	if of.State != sock.StateListen || of.Count != 1 {
		return 0
	}
	for i := range s.Listeners {
		l := verdict.NewListener(&s.Listeners[i])
		if l.Addr == of.Addr && l.Ifindex == of.Ifindex && l.UID == of.UID {
			if inode != 0 {
				return 0
			}
			inode = s.Listeners[i].Inode
		}
	}
	return inode
}

// outgoing says that this side opened the connections: their program has named the port, or connect() has
// chosen it. The kernel program of bindtrace says the same of the sockets that it captures (is_outgoing).
func outgoing(s *bindrule.Socket, bucket *bindrule.Bucket) bool {
	switch s.State {
	case sock.StateListen, sock.StateClose:
		return false
	default:
		return s.NamedPort || bucket.Known && bucket.Chosen && s.ReuseAddr == bindrule.No && s.Kind != sock.KindRequest
	}
}

func socketOf(b *bindtrace.Blocker) bindrule.Socket {
	s := bindrule.Socket{
		Addr: b.Addr, Ifindex: b.Ifindex, V6Only: bindrule.FlagOf(b.V6Only),
		ReuseAddr: bindrule.FlagOf(b.ReuseAddr), ReusePort: bindrule.FlagOf(b.ReusePort),
		State: b.State, Kind: b.Kind, Count: 1, Expires: b.Expires,
	}
	if b.Kind == sock.KindFull {
		s.UID = bindrule.UIDOf(b.UID)
	}
	return s
}

// withDetails are sockets that were seen afterwards, with what the capture says of the same address and
// state. What holds for each of several connections is known, but not who has them all.
func withDetails(bucket *bindrule.Bucket, sockets []bindrule.Socket, captured []diagnosis.Blocker) []diagnosis.Blocker {
	out := make([]diagnosis.Blocker, len(sockets))
	for i := range sockets {
		out[i].Socket, out[i].Outgoing = sockets[i], outgoing(&sockets[i], bucket)
		alike := func(c diagnosis.Blocker) bool {
			return c.State == sockets[i].State && c.Kind == sockets[i].Kind && c.Addr == sockets[i].Addr && c.UID == sockets[i].UID
		}
		n := slices.IndexFunc(captured, alike)
		if n < 0 {
			continue
		}
		out[i].Outgoing, out[i].Held = out[i].Outgoing || captured[n].Outgoing, captured[n].Held
		if sockets[i].Count == 1 {
			out[i].Peer, out[i].Own, out[i].Holder, out[i].Opener = captured[n].Peer, captured[n].Own, captured[n].Holder, captured[n].Opener
		}
	}
	return out
}
