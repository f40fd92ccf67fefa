package netlinkdiag

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A UnixRequest says which Unix sockets to dump. The zero UnixRequest asks for all of them.
type UnixRequest struct {
	// States to dump. 0 means AllStates. Unix sockets have the states of TCP that fit:
	// StateListen, StateEstablished (connected), and StateClose, which all others have, as
	// datagram sockets that are bound.
	States StateSet
}

// A UnixSocket is one Unix socket as the kernel reported it (struct unix_diag_msg).
type UnixSocket struct {
	Type   UnixType
	State  State
	Inode  uint32 // of the socket's file in sockfs; 0 where no process ever had it
	Cookie uint64 // identifies the socket for as long as the machine runs (SO_COOKIE)

	// Name is what bind(2) was called with, any bytes: a path, absolute or relative to where the
	// program was, or an abstract name without its leading 0. It stays when the file is renamed or
	// removed. Empty: the socket is not bound. A connection that was accepted has the name of its
	// listener.
	Name     string
	Abstract bool

	File    UnixFile // of a socket that is bound to a path
	HasFile bool

	// Peer is the Inode of the socket that this one is connected to; 0: not connected, or the peer
	// has no inode, as it waits for accept(2).
	Peer uint32

	// RQueue and WQueue are numbers of bytes. In StateListen, RQueue is the number of connections
	// that wait for accept(2), and WQueue the limit for them (the backlog, at most
	// net.core.somaxconn when listen(2) was called).
	RQueue, WQueue uint32

	// UID is that of the socket's inode: of the process that opened it, unless fchown(2) changed
	// it. Linux 5.3 and later have it.
	UID    uint32
	HasUID bool
}

// A UnixFile is the file of a socket, as the kernel knows it: what the path leads to may be another
// one by now (UNIX_DIAG_VFS).
type UnixFile struct {
	Inode uint32 // the lower 32 bits of the file's inode number
	// Major and Minor are the device of its file system (s_dev). stat(2) may have another one on
	// file systems with several, as Btrfs.
	Major, Minor uint32
}

// A UnixType is a type of socket.
type UnixType uint8

// The types, with the numbers of include/linux/net.h.
const (
	UnixStream    UnixType = unix.SOCK_STREAM
	UnixDatagram  UnixType = unix.SOCK_DGRAM
	UnixSeqpacket UnixType = unix.SOCK_SEQPACKET
)

func (t UnixType) String() string {
	names := [...]string{UnixStream: "stream", UnixDatagram: "dgram", UnixSeqpacket: "seqpacket"}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return "type(" + itoa(t) + ")"
}

// Wire constants of include/uapi/linux/unix_diag.h.
const (
	sizeofUnixReq = 24 // struct unix_diag_req
	sizeofUnixMsg = 16 // struct unix_diag_msg

	unixShow = 0x01 | 0x02 | 0x04 | 0x10 | 0x40 // UDIAG_SHOW_NAME, VFS, PEER, RQLEN, UID

	unixDiagName  = 0
	unixDiagVFS   = 1
	unixDiagPeer  = 2
	unixDiagRQLen = 4
	unixDiagUID   = 7
)

// DumpUnix streams the Unix sockets that the request asks for, as [Conn.Dump] does others.
// Connections that wait for accept(2) are not among them. A socket that comes or goes meanwhile may be
// missing, and another one come twice.
func (c *Conn) DumpUnix(ctx context.Context, req UnixRequest) iter.Seq2[UnixSocket, error] {
	if req.States == 0 {
		req.States = AllStates
	}
	return sockets(ctx, c, req, (*UnixSocket).decode, func(d *dump) error {
		return d.retry(func() error { return d.ask(req) })
	})
}

func (r UnixRequest) message() (netlink.Message, error) {
	m := netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, sizeofUnixReq),
	}
	m.Data[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(m.Data[4:], uint32(r.States))
	binary.NativeEndian.PutUint32(m.Data[12:], unixShow)
	return m, nil
}

func (UnixRequest) module() string { return "unix_diag" }

func (UnixRequest) error(op string, err error) error {
	return &Error{Op: op, Family: FamilyUnix, Err: err}
}

// decode fills s from a struct unix_diag_msg and its attributes. It keeps nothing of b.
func (s *UnixSocket) decode(b []byte) error {
	if len(b) < sizeofUnixMsg {
		return &MessageError{Reason: "unix_diag_msg truncated", Len: len(b), Want: sizeofUnixMsg}
	}
	*s = UnixSocket{
		Type:   UnixType(b[1]),
		State:  State(b[2]),
		Inode:  binary.NativeEndian.Uint32(b[4:]),
		Cookie: uint64(binary.NativeEndian.Uint32(b[8:])) | uint64(binary.NativeEndian.Uint32(b[12:]))<<32,
	}
	switch {
	case b[0] != unix.AF_UNIX:
		return &MessageError{Reason: "unknown family " + itoa(b[0])}
	case s.State == 0 || s.State >= NumStates:
		return &MessageError{Reason: "unknown state " + itoa(s.State)}
	}
	for b = b[sizeofUnixMsg:]; len(b) > 0; {
		a, rest, err := nextAttribute(b)
		if err == nil {
			err = s.decodeAttribute(a.typ, a.value)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

func (s *UnixSocket) decodeAttribute(typ uint16, value []byte) error {
	want := 0
	switch typ {
	case unixDiagVFS, unixDiagRQLen:
		want = 8
	case unixDiagPeer, unixDiagUID:
		want = 4
	}
	if len(value) < want {
		return &MessageError{Reason: "attribute of unix_diag truncated", Len: len(value), Want: want}
	}
	switch typ {
	case unixDiagName:
		s.decodeName(value)
	case unixDiagVFS:
		dev := binary.NativeEndian.Uint32(value[4:])
		// The kernel's own form of dev_t, not that of stat(2): MAJOR and MINOR of
		// include/linux/kdev_t.h.
		s.File = UnixFile{Inode: binary.NativeEndian.Uint32(value), Major: dev >> 20, Minor: dev & (1<<20 - 1)}
		s.HasFile = true
	case unixDiagPeer:
		s.Peer = binary.NativeEndian.Uint32(value)
	case unixDiagRQLen:
		s.RQueue, s.WQueue = binary.NativeEndian.Uint32(value), binary.NativeEndian.Uint32(value[4:])
	case unixDiagUID:
		s.UID, s.HasUID = binary.NativeEndian.Uint32(value), true
	}
	return nil
}

// decodeName reads sun_path: a path with a 0 behind it, or a 0 and an abstract name.
func (s *UnixSocket) decodeName(b []byte) {
	if s.Abstract = len(b) > 0 && b[0] == 0; s.Abstract {
		b = b[1:]
	} else {
		b = bytes.TrimSuffix(b, []byte{0})
	}
	s.Name = string(b)
}
