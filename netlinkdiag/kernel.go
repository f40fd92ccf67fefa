package netlinkdiag

import (
	"errors"
	"io"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel is the Transport to the running kernel: a netlink socket of mdlayher/netlink,
// read through its SyscallConn. The receive methods of the library peek at or copy every
// datagram. For a million sockets that takes two to three times as long as the dump itself.
// Send, SetReadDeadline and Close are those of netlink.Conn.
type kernel struct {
	*netlink.Conn
	raw syscall.RawConn

	// Arguments and results of read. They are fields, because a closure for each call would be
	// allocated.
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

// Receive reads one datagram. It calls read(2), because recvfrom(2) in x/sys/unix
// allocates the address of the sender. Without CAP_NET_ADMIN only the kernel can send
// here (netlink_sendmsg), and the sequence number is checked.
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

// readFD returns false when there is nothing to read yet. The runtime then calls it again.
func (k *kernel) readFD(fd uintptr) bool {
	for {
		k.n, k.err = unix.Read(int(fd), k.buf)
		if !errors.Is(k.err, unix.EINTR) {
			return !errors.Is(k.err, unix.EAGAIN)
		}
	}
}
