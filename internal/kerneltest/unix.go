package kerneltest

import (
	"testing"

	"golang.org/x/sys/unix"
)

// UnixSocket opens a Unix socket in the namespace, which does not block, and binds it unless name is empty. It is
// closed when the test ends.
func (n *NetNS) UnixSocket(t testing.TB, typ int, name string) int {
	t.Helper()
	fd := -1
	err := n.Run(func() (err error) {
		fd, err = unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if name == "" {
		return fd
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatalf("bind to %s: %v", name, err)
	}
	return fd
}

// ListenUnix listens on a Unix socket, with a backlog of 5.
func (n *NetNS) ListenUnix(t testing.TB, name string) int {
	t.Helper()
	fd := n.UnixSocket(t, unix.SOCK_STREAM, name)
	if err := unix.Listen(fd, 5); err != nil {
		t.Fatal(err)
	}
	return fd
}
