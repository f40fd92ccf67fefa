package diagtest

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/internal/bytecode"
)

// A Request is a dump request as the kernel reads it.
type Request struct {
	Type       netlink.HeaderType // SOCK_DIAG_BY_FAMILY, or 18 (TCPDIAG_GETSOCK)
	Sequence   uint32
	Family     netlinkdiag.Family // FamilyAny for TCPDIAG_GETSOCK
	Protocol   netlinkdiag.Protocol
	States     netlinkdiag.StateSet
	Extensions netlinkdiag.Extension
	Bytecode   []byte // INET_DIAG_REQ_BYTECODE
}

// TCPDiagGetSock is the type of the request for both families, TCPDIAG_GETSOCK.
const TCPDiagGetSock = 18

func parseRequest(m netlink.Message) (Request, error) {
	req := Request{Type: m.Header.Type, Sequence: m.Header.Sequence}
	var size int
	switch m.Header.Type {
	case TCPDiagGetSock:
		if size = 60; len(m.Data) < size {
			return req, fmt.Errorf("inet_diag_req of %d bytes", len(m.Data))
		}
		req.Protocol = netlinkdiag.ProtocolTCP
		req.Extensions = netlinkdiag.Extension(m.Data[3])
		req.States = netlinkdiag.StateSet(binary.NativeEndian.Uint32(m.Data[52:]))
	case unix.SOCK_DIAG_BY_FAMILY:
		if size = 56; len(m.Data) < size {
			return req, fmt.Errorf("inet_diag_req_v2 of %d bytes", len(m.Data))
		}
		req.Family = netlinkdiag.Family(m.Data[0])
		req.Protocol = netlinkdiag.Protocol(m.Data[1])
		req.Extensions = netlinkdiag.Extension(m.Data[2])
		req.States = netlinkdiag.StateSet(binary.NativeEndian.Uint32(m.Data[4:]))
	default:
		return req, fmt.Errorf("unknown request type %d", m.Header.Type)
	}
	attrs, err := netlink.UnmarshalAttributes(m.Data[size:])
	if err != nil {
		return req, err
	}
	for _, a := range attrs {
		if a.Type == 1 {
			req.Bytecode = a.Data
		}
	}
	if req.Bytecode != nil {
		_, err = bytecode.Audit(req.Bytecode)
	}
	return req, err
}

// Dump returns the answer of Linux to the request: the sockets of the requested family and
// states that pass the bytecode, 40 in each datagram.
func Dump(req Request, sockets []netlinkdiag.Socket) []Datagram {
	const perDatagram = 40 // less than 8 KiB, as in the first of the kernel's
	var (
		out  []Datagram
		data []byte
		n    int
	)
	for _, s := range sockets {
		asked := s.State
		if asked == netlinkdiag.StateClose && req.Protocol == netlinkdiag.ProtocolTCP {
			asked = netlinkdiag.StateBoundInactive
		}
		if !req.States.Has(asked) ||
			req.Family != netlinkdiag.FamilyAny && req.Family != s.Family ||
			!passes(req.Bytecode, s) {
			continue
		}
		data = append(data, Socket(req, s)...)
		if n++; n%perDatagram == 0 {
			out, data = append(out, Datagram{Data: data}), nil
		}
	}
	return append(out, Datagram{Data: append(data, Done(req.Sequence, 0)...)})
}

func passes(program []byte, s netlinkdiag.Socket) bool {
	if program == nil {
		return true
	}
	pass, _ := bytecode.Run(program, s.Local.Port(), s.Remote.Port())
	return pass
}

// Socket returns the message that reports a socket.
func Socket(req Request, s netlinkdiag.Socket) []byte {
	b := make([]byte, 72)
	b[0], b[1], b[2], b[3] = byte(s.Family), byte(s.State), byte(s.Timer), s.Retransmits
	binary.BigEndian.PutUint16(b[4:], s.Local.Port())
	binary.BigEndian.PutUint16(b[6:], s.Remote.Port())
	copy(b[8:24], s.Local.Addr().AsSlice())
	copy(b[24:40], s.Remote.Addr().AsSlice())
	for i, v := range []uint32{
		s.Ifindex, uint32(s.Cookie), uint32(s.Cookie >> 32), uint32(s.Expires.Milliseconds()),
		s.RQueue, s.WQueue, s.UID, s.Inode,
	} {
		binary.NativeEndian.PutUint32(b[40+4*i:], v)
	}
	if s.Family == netlinkdiag.FamilyIPv6 && netlinkdiag.States(netlinkdiag.StateListen, netlinkdiag.StateClose).Has(s.State) {
		v6only := byte(0)
		if s.V6Only {
			v6only = 1
		}
		b = append(b, Attribute(11, []byte{v6only})...)
	}
	if s.HasMem && req.Extensions&netlinkdiag.ExtensionSKMemInfo != 0 {
		var mem []byte
		for _, v := range []uint32{
			s.Mem.RmemAlloc, s.Mem.Rcvbuf, s.Mem.WmemAlloc, s.Mem.Sndbuf, s.Mem.FwdAlloc,
			s.Mem.WmemQueued, s.Mem.Optmem, s.Mem.Backlog, s.Mem.Drops,
		} {
			mem = binary.NativeEndian.AppendUint32(mem, v)
		}
		b = append(b, Attribute(7, mem)...)
	}
	return Message(uint16(req.Type), unix.NLM_F_MULTI, req.Sequence, b)
}

// Attribute returns a netlink attribute, padded to 4 bytes.
func Attribute(typ uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	return pad(append(b, value...))
}

// Message returns a netlink message, padded to 4 bytes.
func Message(typ, flags uint16, seq uint32, data []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return pad(append(b, data...))
}

// Interrupted sets NLM_F_DUMP_INTR in the message, and returns it.
func Interrupted(message []byte) []byte {
	flags := binary.NativeEndian.Uint16(message[6:])
	binary.NativeEndian.PutUint16(message[6:], flags|unix.NLM_F_DUMP_INTR)
	return message
}

// Done returns the message that ends a dump. errno is 0 where the dump succeeded.
func Done(seq uint32, errno unix.Errno) []byte {
	return Message(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))
}

// Error returns the message that refuses a request.
func Error(seq uint32, errno unix.Errno) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
	return Message(unix.NLMSG_ERROR, 0, seq, append(b, make([]byte, 16)...))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
