package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
)

// Wire constants of include/uapi/linux/inet_diag.h.
const (
	tcpDiagGetSock = 18
	sizeofSockID   = 48
	sizeofReq      = 4 + sizeofSockID + 8
	sizeofReqV2    = 8 + sizeofSockID

	// sizeofTimeWait is a TIME_WAIT socket on the wire: nlmsghdr, inet_diag_msg.
	sizeofTimeWait = 16 + 72
)

// withoutBoundInactive is what all but us ask for. Bound-inactive sockets stand in a table
// of their own (bhash2), which the kernel then walks as well.
const withoutBoundInactive = netlinkdiag.AllStates &^ (1 << netlinkdiag.StateBoundInactive)

// bothFamilies asks for both families in one walk (struct inet_diag_req).
func bothFamilies(states netlinkdiag.StateSet) netlink.Message {
	data := make([]byte, sizeofReq)
	binary.NativeEndian.PutUint32(data[4+sizeofSockID:], uint32(states))
	return dumpRequest(tcpDiagGetSock, data)
}

// perFamily asks for one family (struct inet_diag_req_v2).
func perFamily(family netlinkdiag.Family, states netlinkdiag.StateSet) netlink.Message {
	data := make([]byte, sizeofReqV2)
	data[0], data[1] = byte(family), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(data[4:], uint32(states))
	return dumpRequest(unix.SOCK_DIAG_BY_FAMILY, data)
}

func dumpRequest(typ netlink.HeaderType, data []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump}, Data: data}
}

// A bareLoop reads dumps and looks at nothing but their end: the least that any reader of
// sock_diag has to do.
type bareLoop struct {
	conn     *netlink.Conn
	raw      syscall.RawConn
	requests []netlink.Message
	received int // bytes, in the latest run

	buf  []byte
	n    int
	err  error
	read func(fd uintptr) bool
}

func dialBare(netns int, requests []netlink.Message) (*bareLoop, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	l := &bareLoop{conn: conn, raw: raw, requests: requests, buf: make([]byte, 64<<10)}
	l.read = l.readFD
	return l, nil
}

func (l *bareLoop) run(ctx context.Context) error {
	stop := interrupt(ctx, l.conn)
	defer stop()
	l.received = 0
	for _, req := range l.requests {
		m, err := l.conn.Send(req)
		if err != nil {
			return err
		}
		for done := false; !done; {
			if err := l.raw.Read(l.read); err != nil {
				return err
			}
			if l.err != nil {
				return l.err
			}
			l.received += l.n
			if done, err = endOfDump(l.buf[:l.n], m.Header.Sequence); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *bareLoop) readFD(fd uintptr) bool {
	for {
		l.n, l.err = unix.Read(int(fd), l.buf)
		if !errors.Is(l.err, unix.EINTR) {
			return !errors.Is(l.err, unix.EAGAIN)
		}
	}
}

// endOfDump looks for NLMSG_DONE where it has to be, at the end of a datagram: a header
// and an error code of 0. A kernel that refuses answers NLMSG_ERROR, at its beginning.
func endOfDump(b []byte, seq uint32) (bool, error) {
	const size = unix.SizeofNlMsghdr + 4
	if len(b) < size {
		return false, io.ErrUnexpectedEOF
	}
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		return false, unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])))
	}
	last := b[len(b)-size:]
	return binary.NativeEndian.Uint32(last) == size &&
		binary.NativeEndian.Uint16(last[4:]) == unix.NLMSG_DONE &&
		binary.NativeEndian.Uint32(last[8:]) == seq, nil
}

// interrupt ends what waits on conn when ctx ends.
func interrupt(ctx context.Context, conn *netlink.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
}

func TestEndOfDumpIsFoundAtTheEndOfADatagram(t *testing.T) {
	message := func(typ uint16, seq uint32, payload int, code int32) []byte {
		b := make([]byte, unix.SizeofNlMsghdr+payload)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint16(b[4:], typ)
		binary.NativeEndian.PutUint32(b[8:], seq)
		binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr:], uint32(code))
		return b
	}
	socket, done := message(unix.SOCK_DIAG_BY_FAMILY, 7, 72, 0), message(unix.NLMSG_DONE, 7, 4, 0)
	for name, tt := range map[string]struct {
		datagram []byte
		want     bool
		err      error
	}{
		"sockets":           {append(socket, socket...), false, nil},
		"sockets, then end": {append(socket, done...), true, nil},
		"end alone":         {done, true, nil},
		"of another dump":   {append(socket, message(unix.NLMSG_DONE, 6, 4, 0)...), false, nil},
		"refusal":           {message(unix.NLMSG_ERROR, 7, 20, -int32(unix.ENOENT)), false, unix.ENOENT},
		"cut short":         {done[:19], false, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := endOfDump(tt.datagram, 7)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%v, %v, want %v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}
