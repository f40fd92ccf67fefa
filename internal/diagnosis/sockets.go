package diagnosis

import (
	"slices"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// ofSockets is the diagnosis of a call that sockets on the port block.
func ofSockets(f *Facts) Diagnosis {
	if len(f.Blockers) == 0 {
		return notSeen(f)
	}
	d, groups := f.Decide(f.classify)
	first, sockets := d.Code, groups[d.Code]
	d.Sentence, d.Remedy, d.End = f.sentence(first, sockets), f.remedy(first, sockets), endOf(f.Blockers)
	if f.Call == Listen && isListenerCode(first) {
		d.Code = codes.SecondListen
		d.Remedy = codes.SecondListen.Remedy()
	}
	if rest := others(groups, first); rest != "" {
		d.Sentence += "; " + rest
	}
	return d
}

// Decide classifies the blockers. The sockets of the first code decide the diagnosis, which has its code and what
// these sockets are.
func (f *Facts) Decide(classify func(*Blocker) codes.Code) (Diagnosis, map[codes.Code][]Blocker) {
	groups := make(map[codes.Code][]Blocker)
	first := codes.Unknown
	for i := range f.Blockers {
		code := classify(&f.Blockers[i])
		groups[code] = append(groups[code], f.Blockers[i])
		if code.Before(first) {
			first = code
		}
	}
	sockets := groups[first]
	d := Diagnosis{Code: first, Afterwards: f.Seen == Afterwards, State: sockets[0].State.String()}
	if holder := f.holderOf(sockets); holder != nil {
		d.Holder = *holder
	}
	if sockets[0].Peer.IsValid() {
		d.Peer = sockets[0].Peer.String()
	}
	return d, groups
}

func isListenerCode(c codes.Code) bool { return c.Before(codes.SecondListen) && c != codes.OwnListener }

// classify is the code of one blocker.
func (f *Facts) classify(b *Blocker) codes.Code {
	switch {
	case b.State == sock.StateListen:
		return f.classifyListener(b)
	case b.State == sock.StateClose:
		return codes.BoundOnly
	case f.isSelf(b):
		return codes.SelfConnection
	case f.isOutgoing(b):
		return codes.OutgoingConnection
	case b.State == sock.StateTimeWait && f.Request.ReuseAddr == bindrule.Yes:
		return codes.TimeWaitOldFlags
	case b.State == sock.StateTimeWait:
		return codes.TimeWait
	case b.Kind == sock.KindTimeWait || isOrphan(b):
		return codes.Closing
	case f.openerUnseen() && b.ReuseAddr != bindrule.Yes:
		return codes.Unknown
	default:
		return codes.AcceptedConnection
	}
}

// openerUnseen says that a connection that is open now may be an old server's, or a client's: nobody has
// seen a server on the port.
func (f *Facts) openerUnseen() bool {
	return f.Seen != AtFailure && !f.Running && !f.Host.Listened
}

func (f *Facts) classifyListener(b *Blocker) codes.Code {
	sameUser := !b.UID.Known || !f.Request.UID.Known || b.UID == f.Request.UID
	switch {
	case b.Own:
		return codes.OwnListener
	case b.Opener.Known(), b.Holder.Inherited:
		return codes.InheritedListener
	case f.Request.ReusePort == bindrule.Yes && b.ReusePort == bindrule.Yes && !sameUser:
		return codes.ReusePortOtherUser
	case f.Request.ReusePort == bindrule.Yes && b.ReusePort == bindrule.No:
		return codes.ReusePortMissing
	case f.Request.ReusePort == bindrule.No && b.ReusePort == bindrule.Yes && f.namesake(b):
		return codes.ReusePortMissing
	default:
		return codes.OtherListener
	}
}

func (f *Facts) isSelf(b *Blocker) bool {
	return b.Peer.IsValid() && b.Peer.Port() == f.Port && b.Peer.Addr().Unmap() == b.Addr.Unmap() && b.State != sock.StateTimeWait
}

// isOutgoing says whether this side opened the connection. A client that binds to port 0 before it
// connects leaves no trace. So a live connection on a port for clients, where nothing listened, counts
// as a client's. TIME_WAIT does not: it may be of a server that stopped before the exporter started,
// and the advice for that is right for both.
func (f *Facts) isOutgoing(b *Blocker) bool {
	switch {
	case b.Outgoing, b.State == sock.StateSynSent:
		return true
	case f.Host.Listened, b.ReuseAddr == bindrule.Yes, b.Kind == sock.KindTimeWait:
		return false
	default:
		return f.Host.LocalPorts.Contains(f.Port)
	}
}

// isOrphan: the kernel closes the connection on its own. No process has it open.
func isOrphan(b *Blocker) bool {
	switch b.State {
	case sock.StateFinWait1, sock.StateFinWait2, sock.StateClosing, sock.StateLastAck:
		return !b.Held
	default:
		return false
	}
}

// holderOf is the first process that is known to hold one of the sockets. The event knows the whole name of the
// caller, also where it was ending as its socket was looked for.
func (f *Facts) holderOf(sockets []Blocker) *owner.Owner {
	i := slices.IndexFunc(sockets, func(b Blocker) bool { return b.Holder.Known() })
	switch {
	case sockets[0].Own && f.By.Known():
		return &f.By
	case i >= 0:
		return &sockets[i].Holder
	default:
		return nil
	}
}
