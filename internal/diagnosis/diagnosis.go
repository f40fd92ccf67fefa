package diagnosis

import (
	"fmt"
	"net/netip"
	"syscall"

	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// A Diagnosis says why a call failed, or would fail.
type Diagnosis struct {
	Code codes.Code
	// Sentence says what was in the way and who holds it. It begins without a capital and ends
	// without a full stop.
	Sentence string
	// Brief counts what would block a call that has not been made, and says for how long. It follows
	// "blocked by", or "unknown:" where the code is Unknown. Why says the same, and follows "would fail:".
	Brief, Why string
	// Remedy is what to do, in sentences.
	Remedy string
	End    End
	// Holder has the socket that was in the way, as far as it is known. Peer is that of a
	// connection, and State the socket's.
	Holder owner.Owner
	Peer   string
	State  string
	// Afterwards says that what the sentence tells was not seen as the call failed, but a moment
	// later.
	Afterwards bool
}

// Line is the diagnosis in one line: sentence, end and remedy.
func (d *Diagnosis) Line() string {
	line := d.Sentence
	if d.Afterwards {
		line += " (seen after the call)"
	}
	if d.Remedy != "" {
		line += ". " + d.Remedy
	}
	return line
}

// Of returns the diagnosis of a failed call.
func Of(f *Facts) Diagnosis {
	switch {
	case f.Seen == Now:
		return ofNow(f)
	case f.Errno == syscall.EADDRINUSE || f.Call == Connect:
		return ofPort(f)
	default:
		return ofErrno(f)
	}
}

// Simple is the diagnosis of a code that says everything.
func Simple(code codes.Code, end End, sentence string) Diagnosis {
	return Diagnosis{Code: code, Sentence: sentence, Remedy: code.Remedy(), End: end}
}

// ofPort tells a lack of ports from a port that others have.
func ofPort(f *Facts) Diagnosis {
	switch {
	case f.OwnRange && f.Call == Connect:
		return Simple(codes.PortsExhaustedForSocket, UntilChanged(),
			"the socket limits itself to a few ports (IP_LOCAL_PORT_RANGE), and none of them is free for "+f.destination())
	case f.OwnRange:
		return Simple(codes.PortsExhaustedForSocket, UntilClosed(),
			"the socket limits itself to a few ports (IP_LOCAL_PORT_RANGE), and none of them is free for this address")
	case f.Call == Connect && f.Errno == syscall.EADDRNOTAVAIL:
		return f.withUsers(ofDestination(f))
	case f.Call == Connect:
		return f.withUsers(Simple(codes.PortsExhausted, UntilClosed(), "no port of net.ipv4.ip_local_port_range is free"+rangeText(f.Host.LocalPorts)))
	case f.PortKnown && f.Port == 0:
		return f.withUsers(Simple(codes.PortsExhausted, UntilClosed(), "no port of net.ipv4.ip_local_port_range is free for this address"+rangeText(f.Host.LocalPorts)))
	case f.Protocol == sock.UDP:
		return Simple(codes.UDPInUse, UntilClosed(), "another UDP socket has the port, and the exporter has not looked for it")
	case f.Protocol != sock.TCP && f.Protocol != sock.MPTCP:
		return Simple(codes.Unknown, End{}, "another socket has the port; the exporter looks for TCP sockets only")
	default:
		return ofSockets(f)
	}
}

// ofDestination explains a TCP connect() without a port. The kernel passes over ports that bind() took, and
// over those that a connection to the same destination has. Which it was is seen after the call.
func ofDestination(f *Facts) Diagnosis {
	taken := f.Host.Taken
	var d Diagnosis
	switch {
	case taken.Bound > 0 && taken.Chosen == 0:
		d = Simple(codes.PortsExhausted, UntilClosed(), "sockets that were bound to a port have every local port"+rangeText(f.Host.LocalPorts)+
			", so that none is free for "+f.destination()+" or for another destination")
	case taken.Chosen > 0:
		d = Simple(codes.PortsExhaustedForDest, UntilClosed(), "every local port"+rangeText(f.Host.LocalPorts)+" is in use for "+f.destination()+"; other destinations still work")
		if taken.Bound > 0 {
			d.Sentence += fmt.Sprintf(", without the ports that sockets were bound to (%d of %d that were looked at)", taken.Bound, taken.Bound+taken.Chosen)
		}
	default:
		return Simple(codes.PortsExhaustedForDest, UntilClosed(), "no local port"+rangeText(f.Host.LocalPorts)+" is free for "+f.destination())
	}
	d.Afterwards = true
	return d
}

func (f *Facts) destination() string {
	if !f.PortKnown || !f.Request.Addr.IsValid() {
		return "this destination"
	}
	return netip.AddrPortFrom(f.Request.Addr.Unmap(), f.Port).String()
}

func rangeText(r sock.PortRange) string {
	if r == (sock.PortRange{}) {
		return ""
	}
	return " (" + r.String() + ")"
}

// notSeen is the diagnosis where no socket explains the failure.
func notSeen(f *Facts) Diagnosis {
	d := Diagnosis{Code: codes.Unknown, Remedy: codes.Unknown.Remedy()}
	switch {
	case f.Err != nil:
		d.Sentence = "the sockets on the port could not be seen: " + words.OneLine(f.Err.Error())
	case f.Seen == NotSeen:
		d.Sentence = "the exporter has not looked for the blocking socket"
	case f.Partial:
		d.Sentence = "the exporter could not see all sockets on the port, and none of those that it saw explains the failure"
	default:
		d.Sentence = "the blocking socket was gone before the exporter could look"
	}
	return d
}
