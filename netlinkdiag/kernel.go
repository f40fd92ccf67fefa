package netlinkdiag

import (
	"errors"
	"io"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel is the Transport to the running kernel: a netlink socket of mdlayher/netlink,
// read through its SyscallConn. The library's own receive paths peek at, or copy, every
// datagram; at a million sockets that costs two to three times the time of the dump itself.
// Send, SetReadDeadline and Close are netlink.Conn's own.
type kernel struct {
	*netlink.Conn
	raw syscall.RawConn

	// What read works on: a closure a call would be an allocation a call.
	buf  []byte
	n    int
	err  error
	read func(fd uintptr) bool
}

func openKernel(netns int) (Transport, error) {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: netns})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, &ModuleError{Module: "inet_diag", Err: unix.EPROTONOSUPPORT}
	}
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	k := &kernel{Conn: conn, raw: raw}
	k.read = k.readFD
	return k, nil
}

// Receive reads one datagram. It is read(2), as recvfrom(2) in x/sys/unix allocates the
// sender's address; nobody but the kernel may send here without CAP_NET_ADMIN
// (netlink_sendmsg), and the sequence number is checked.
func (k *kernel) Receive(b []byte) (int, error) {
	k.buf = b
	if err := k.raw.Read(k.read); err != nil {
		return 0, err
	}
	if k.err != nil {
		return 0, k.err
	}
	if k.n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return k.n, nil
}

// readFD is told to come again (false) when there is nothing to read yet.
func (k *kernel) readFD(fd uintptr) bool {
	for {
		k.n, k.err = unix.Read(int(fd), k.buf)
		if !errors.Is(k.err, unix.EINTR) {
			return !errors.Is(k.err, unix.EAGAIN)
		}
	}
}
