package netlinkdiag

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const sizeofMsg = 72 // struct inet_diag_msg

// A frame is one netlink message of a datagram. data points into the datagram.
type frame struct {
	typ   uint16
	flags netlink.HeaderFlags
	seq   uint32
	data  []byte
}

// nextFrame returns the first message of a datagram, and the rest of the datagram.
func nextFrame(b []byte) (f frame, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return frame{}, nil, &MessageError{Reason: "header truncated", Len: len(b), Want: unix.SizeofNlMsghdr}
	}
	size := binary.NativeEndian.Uint32(b)
	if size < unix.SizeofNlMsghdr {
		return frame{}, nil, &MessageError{Reason: "length less than a header", Len: int(size), Want: unix.SizeofNlMsghdr}
	}
	if uint64(size) > uint64(len(b)) {
		return frame{}, nil, &MessageError{Reason: "message truncated", Len: len(b), Want: int(size)}
	}
	f = frame{
		typ:   binary.NativeEndian.Uint16(b[4:]),
		flags: netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		data:  b[unix.SizeofNlMsghdr:size],
	}
	return f, b[min(align4(int(size)), len(b)):], nil
}

// errno reads the first field of NLMSG_ERROR and NLMSG_DONE: 0 or a negative errno.
func (f frame) errno() (unix.Errno, error) {
	if len(f.data) < 4 {
		return 0, &MessageError{Reason: "error code truncated", Len: len(f.data), Want: 4}
	}
	code := int32(binary.NativeEndian.Uint32(f.data))
	if code > 0 || code < -4095 {
		return 0, &MessageError{Reason: "error code out of range"}
	}
	return unix.Errno(-code), nil
}

// decode fills s from a struct inet_diag_msg and its attributes. It keeps nothing of b.
func (s *Socket) decode(b []byte) error {
	if len(b) < sizeofMsg {
		return &MessageError{Reason: "inet_diag_msg truncated", Len: len(b), Want: sizeofMsg}
	}
	*s = Socket{
		Family:      Family(b[0]),
		State:       State(b[1]),
		Timer:       Timer(b[2]),
		Retransmits: b[3],
		Ifindex:     binary.NativeEndian.Uint32(b[40:]),
		Cookie:      uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32,
		Expires:     time.Duration(binary.NativeEndian.Uint32(b[52:])) * time.Millisecond,
		RQueue:      binary.NativeEndian.Uint32(b[56:]),
		WQueue:      binary.NativeEndian.Uint32(b[60:]),
		UID:         binary.NativeEndian.Uint32(b[64:]),
		Inode:       binary.NativeEndian.Uint32(b[68:]),
	}
	if s.State == 0 || s.State >= NumStates {
		return &MessageError{Reason: "unknown state " + itoa(s.State)}
	}
	sport, dport := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	switch s.Family {
	case FamilyIPv4:
		s.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:])), sport)
		s.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[24:])), dport)
	case FamilyIPv6:
		s.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])), sport)
		s.Remote = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:])), dport)
	default:
		return &MessageError{Reason: "unknown family " + itoa(s.Family)}
	}
	return s.decodeAttributes(b[sizeofMsg:])
}

// decodeAttributes reads the attributes that it knows and skips the others.
func (s *Socket) decodeAttributes(b []byte) error {
	for len(b) > 0 {
		a, rest, err := nextAttribute(b)
		if err != nil {
			return err
		}
		b = rest
		switch a.typ {
		case inetDiagSKMemInfo:
			if err := s.Mem.decode(a.value); err != nil {
				return err
			}
			s.HasMem = true
		case inetDiagSKV6Only:
			if len(a.value) < 1 {
				return &MessageError{Reason: "INET_DIAG_SKV6ONLY truncated", Len: 0, Want: 1}
			}
			s.V6Only = a.value[0] != 0
		}
	}
	return nil
}

// An attribute is one attribute of a message. value points into the datagram.
type attribute struct {
	typ   uint16
	value []byte
}

// nextAttribute returns the first attribute of a message, and the rest of them.
func nextAttribute(b []byte) (a attribute, rest []byte, err error) {
	if len(b) < unix.SizeofNlAttr {
		return attribute{}, nil, &MessageError{Reason: "attribute header truncated", Len: len(b), Want: unix.SizeofNlAttr}
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < unix.SizeofNlAttr || size > len(b) {
		return attribute{}, nil, &MessageError{Reason: "attribute truncated", Len: len(b), Want: max(size, unix.SizeofNlAttr)}
	}
	a = attribute{typ: binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask, value: b[unix.SizeofNlAttr:size]}
	return a, b[min(align4(size), len(b)):], nil
}

// decode reads the array of SK_MEMINFO_VARS. Later kernels may append to it.
func (m *MemInfo) decode(b []byte) error {
	const size = 9 * 4
	if len(b) < size {
		return &MessageError{Reason: "INET_DIAG_SKMEMINFO truncated", Len: len(b), Want: size}
	}
	*m = MemInfo{
		RmemAlloc:  binary.NativeEndian.Uint32(b[0:]),
		Rcvbuf:     binary.NativeEndian.Uint32(b[4:]),
		WmemAlloc:  binary.NativeEndian.Uint32(b[8:]),
		Sndbuf:     binary.NativeEndian.Uint32(b[12:]),
		FwdAlloc:   binary.NativeEndian.Uint32(b[16:]),
		WmemQueued: binary.NativeEndian.Uint32(b[20:]),
		Optmem:     binary.NativeEndian.Uint32(b[24:]),
		Backlog:    binary.NativeEndian.Uint32(b[28:]),
		Drops:      binary.NativeEndian.Uint32(b[32:]),
	}
	return nil
}

const nlaTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

func align4(n int) int { return (n + 3) &^ 3 }
