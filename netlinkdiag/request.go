package netlinkdiag

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Request says which sockets to dump. The zero Request asks for all TCP sockets of
// both families, in every state.
type Request struct {
	// Family to dump. The zero value, FamilyAny, means both: one walk of the kernel's
	// table for TCP, two dumps in turn for UDP.
	Family Family

	// Protocol to dump. 0 means ProtocolTCP.
	Protocol Protocol

	// States to dump. 0 means AllStates.
	States StateSet

	// Extensions to ask for. Only ExtensionSKMemInfo is decoded.
	Extensions Extension

	// Ports selects sockets by port, in the kernel. The zero filter selects all.
	Ports PortFilter
}

// An Extension is a set of optional attributes of a socket (idiag_ext).
type Extension uint8

// ExtensionSKMemInfo asks for Socket.Mem (INET_DIAG_SKMEMINFO).
const ExtensionSKMemInfo Extension = 1 << (inetDiagSKMemInfo - 1)

// Wire constants of include/uapi/linux/inet_diag.h that x/sys/unix does not have.
const (
	tcpDiagGetSock = 18 // the request of Linux 2.6, for both families

	sizeofSockID = 48
	sizeofReq    = 4 + sizeofSockID + 8 // struct inet_diag_req
	sizeofReqV2  = 8 + sizeofSockID     // struct inet_diag_req_v2

	inetDiagReqBytecode = 1

	inetDiagSKMemInfo = 7
	inetDiagSKV6Only  = 11
)

// withDefaults resolves the zero values.
func (r Request) withDefaults() Request {
	if r.Protocol == 0 {
		r.Protocol = ProtocolTCP
	}
	if r.States == 0 {
		r.States = AllStates
	}
	return r
}

// walks returns the requests that answer r together, in turn.
func (r Request) walks() []Request {
	if r.Family != FamilyAny || r.Protocol == ProtocolTCP {
		return []Request{r}
	}
	return r.perFamily()
}

func (r Request) perFamily() []Request {
	v4, v6 := r, r
	v4.Family, v6.Family = FamilyIPv4, FamilyIPv6
	return []Request{v4, v6}
}

// message encodes r. FamilyAny becomes the old TCPDIAG_GETSOCK request, the only one that
// the kernel answers for both families at once (inet_diag_rcv_msg_compat).
func (r Request) message() (netlink.Message, error) {
	program, err := r.Ports.compile()
	if err != nil {
		return netlink.Message{}, err
	}
	m := netlink.Message{Header: netlink.Header{
		Type:  unix.SOCK_DIAG_BY_FAMILY,
		Flags: netlink.Request | netlink.Dump,
	}}
	if r.Family == FamilyAny {
		m.Header.Type = tcpDiagGetSock
		m.Data = make([]byte, sizeofReq, sizeofReq+4+len(program))
		m.Data[3] = byte(r.Extensions)
		binary.NativeEndian.PutUint32(m.Data[4+sizeofSockID:], uint32(r.States))
	} else {
		m.Data = make([]byte, sizeofReqV2, sizeofReqV2+4+len(program))
		m.Data[0] = byte(r.Family)
		m.Data[1] = byte(r.Protocol)
		m.Data[2] = byte(r.Extensions)
		binary.NativeEndian.PutUint32(m.Data[4:], uint32(r.States))
	}
	if len(program) > 0 {
		m.Data = binary.NativeEndian.AppendUint16(m.Data, uint16(4+len(program)))
		m.Data = binary.NativeEndian.AppendUint16(m.Data, inetDiagReqBytecode)
		m.Data = append(m.Data, program...)
	}
	return m, nil
}

// module returns the name of the module that answers r.
func (r Request) module() string {
	if r.Protocol == ProtocolUDP {
		return "udp_diag"
	}
	return "tcp_diag"
}
