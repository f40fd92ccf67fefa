// Package udpcause explains binds to a UDP port that fail, or would fail. It is pure.
package udpcause

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// a cause is what is known of the bind.
type cause struct{ *diagnosis.Facts }

// Of is the diagnosis of a bind to a UDP port that other sockets have.
func Of(of *diagnosis.Facts) diagnosis.Diagnosis {
	f := cause{of}
	if len(f.Blockers) == 0 {
		return f.notSeen()
	}
	d, groups := f.Decide(f.classify)
	sockets := groups[d.Code]
	d.Sentence, d.Remedy, d.End = f.holders(sockets)+f.flagNote(d.Code, sockets), f.remedy(d.Code, sockets), diagnosis.UntilClosed()
	if rest := len(f.Blockers) - len(sockets); rest > 0 {
		d.Sentence += "; " + words.Plural(uint64(rest), "other socket") + " would block it too"
	}
	d.Brief, d.Why = f.brief(), d.Sentence
	return d
}

// brief names who has sockets in the way, and where.
func (f *cause) brief() string {
	line := f.Who(f.Blockers)
	if f.Blockers[0].Kernel {
		line = "the kernel itself" + kernelUse(f.Blockers)
	}
	return line + " on " + f.Where(f.Blockers)
}

// notSeen is for a bind that no socket explains, or may fail. The error alone says what it was.
func (f *cause) notSeen() diagnosis.Diagnosis {
	d := diagnosis.Simple(codes.UDPInUse, diagnosis.UntilClosed(), "another UDP socket has the port")
	switch {
	case f.Seen == diagnosis.Now:
		d = diagnosis.Diagnosis{Code: codes.Unknown, Sentence: "not all sockets were seen"}
		if len(f.Doubtful) > 0 {
			d.Sentence = "it depends on flags of " + words.Plural(diagnosis.Total(f.Doubtful), "UDP socket")
		}
		d.Brief, d.Why = d.Sentence, d.Sentence
	case f.Seen == diagnosis.NotSeen:
		d.Sentence += ", and the exporter has not looked for it"
	case f.Err != nil:
		d.Sentence += "; the sockets on it could not be seen: " + words.OneLine(f.Err.Error())
	default:
		d.Sentence, d.Afterwards = "another UDP socket had the port, and was gone before the exporter could look", true
	}
	return d
}

// classify is the code of one blocker.
func (f *cause) classify(b *diagnosis.Blocker) codes.Code {
	lacks := func(wanted, old bindrule.Flag) bool {
		return wanted != old && wanted != bindrule.FlagUnknown && old != bindrule.FlagUnknown
	}
	sameUser := !b.UID.Known || !f.Request.UID.Known || b.UID == f.Request.UID
	switch {
	case b.Own:
		return codes.UDPOwnSocket
	case b.Kernel:
		return codes.UDPKernelSocket
	case f.Seen == diagnosis.Now: // the flags of the bind are an assumption
		return codes.UDPInUse
	case f.Request.ReusePort == bindrule.Yes && b.ReusePort == bindrule.Yes && !sameUser:
		return codes.UDPReuseOtherUser
	case lacks(f.Request.ReuseAddr, b.ReuseAddr), lacks(f.Request.ReusePort, b.ReusePort):
		return codes.UDPReuseMissing
	default:
		return codes.UDPInUse
	}
}

// holders says who has the port. Connected sockets, which a QUIC server has many of, are only counted.
func (f *cause) holders(sockets []diagnosis.Blocker) string {
	var open, connected []diagnosis.Blocker
	for i := range sockets {
		if sockets[i].State == sock.StateEstablished {
			connected = append(connected, sockets[i])
		} else {
			open = append(open, sockets[i])
		}
	}
	switch {
	case len(open) == 0:
		return f.connected(connected)
	case len(connected) > 0:
		return f.open(open) + ", with " + words.Plural(diagnosis.Total(connected), "connected socket")
	default:
		return f.open(open)
	}
}

func (f *cause) open(sockets []diagnosis.Blocker) string {
	if sockets[0].Kernel {
		return "the kernel itself has " + f.Where(sockets) + kernelUse(sockets)
	}
	verb := " has "
	if len(diagnosis.Holders(sockets)) > 1 {
		verb = " have "
	}
	line := f.Who(sockets)
	if sockets[0].Own {
		line += " itself"
	}
	line += verb + f.Where(sockets)
	if opener := &sockets[0].Opener; opener.Known() {
		line += ", which " + diagnosis.Process(opener) + " opened, and that is gone"
	}
	if sockets[0].Outgoing {
		line += " (a client: the kernel chose the port for it)"
	}
	return line
}

func (f *cause) connected(sockets []diagnosis.Blocker) string {
	if b := &sockets[0]; diagnosis.Total(sockets) == 1 && b.Peer.IsValid() {
		return f.Who(sockets) + " has " + f.Endpoint(b) + ", connected to " + b.Peer.String()
	}
	line := f.Who(sockets) + " has " + words.Plural(diagnosis.Total(sockets), "connected socket") + " on " + f.Where(sockets)
	if sockets[0].Outgoing {
		line += " (of a client: the kernel chose the port for it)"
	}
	return line
}

// flagNote says which flag differs.
func (f *cause) flagNote(code codes.Code, sockets []diagnosis.Blocker) string {
	b := &sockets[0]
	switch code {
	case codes.UDPReuseOtherUser:
		return " with SO_REUSEPORT as " + diagnosis.UIDs(sockets) + ", and the new socket belongs to uid " + strconv.FormatUint(uint64(f.Request.UID.ID), 10)
	case codes.UDPReuseMissing:
	default:
		return ""
	}
	var both []string
	note := func(flag string, wanted, old bindrule.Flag) {
		switch {
		case wanted == bindrule.Yes && old == bindrule.No:
			both = append(both, "the new socket sets "+flag+", and that one does not")
		case wanted == bindrule.No && old == bindrule.Yes:
			both = append(both, "that socket sets "+flag+", and the new one does not")
		}
	}
	note("SO_REUSEADDR", f.Request.ReuseAddr, b.ReuseAddr)
	note("SO_REUSEPORT", f.Request.ReusePort, b.ReusePort)
	return "; " + strings.Join(both, "; ")
}

func (f *cause) remedy(code codes.Code, sockets []diagnosis.Blocker) string {
	names := diagnosis.Holders(sockets)
	switch {
	case code == codes.UDPOwnSocket:
		return f.RemedyOfOwn(sockets)
	case code == codes.UDPKernelSocket, code == codes.UDPReuseOtherUser:
		return code.Remedy()
	case sockets[0].Outgoing:
		return f.CloseFirst(sockets, "Restart the client") + " " + f.Reserve()
	case f.Seen == diagnosis.Now && len(names) > 0: // a healthy server, as far as anybody knows
		return "To run another server here, stop " + words.And(words.FirstOf(names)) + " first, or use another port or address."
	case f.SameProgram(&sockets[0]):
		return "The program runs already: stop that instance before you start another one."
	case len(names) > 0 && code == codes.UDPReuseMissing:
		return "Stop " + words.And(words.FirstOf(names)) + ", or use another port or address. If they are to share the port, both must set the flag."
	case len(names) > 0:
		return "Stop " + words.And(words.FirstOf(names)) + ", or use another port or address."
	case sockets[0].Holder.Absence == owner.NoProcess:
		return "No process shows the socket: it may be the kernel's own (VXLAN, WireGuard, NFS), or on its way between processes. Use another port or address, or find its program by uid."
	default:
		return fmt.Sprintf("`ss -Huanp 'sport = :%d'`, as root on the host, may name the program. Stop it, or use another port or address.", f.Port)
	}
}

// kernelUse says what the kernel uses the sockets for, by the functions that get their packets.
func kernelUse(sockets []diagnosis.Blocker) string {
	var uses []string
	for i := range sockets {
		if use := words.KernelUse(sockets[i].Handler); use != "" && !slices.Contains(uses, use) {
			uses = append(uses, use)
		}
	}
	if len(uses) == 0 {
		return ""
	}
	return " (" + strings.Join(uses, ", ") + ")"
}

// Shared is the diagnosis of a UDP port that different servers share by a flag.
func Shared(port uint16, servers []owner.Owner, flag string) diagnosis.Diagnosis {
	return diagnosis.Simple(codes.UDPShared, diagnosis.UntilChanged(), fmt.Sprintf("%s share UDP %s by %s: each unicast datagram reaches only one of them",
		diagnosis.Names(servers), words.Port(port), flag))
}
