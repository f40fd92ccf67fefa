// Package unixsocket makes Unix sockets for tests.
package unixsocket

import (
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// Open opens a Unix socket in the namespace, which does not block, and binds it unless name is empty. It is
// closed when the test ends.
func Open(t testing.TB, ns *kerneltest.NetNS, typ int, name string) int {
	t.Helper()
	fd := -1
	err := ns.Run(func() (err error) {
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

// Listen listens on a Unix socket, with a backlog of 5.
func Listen(t testing.TB, ns *kerneltest.NetNS, name string) int {
	t.Helper()
	fd := Open(t, ns, unix.SOCK_STREAM, name)
	if err := unix.Listen(fd, 5); err != nil {
		t.Fatal(err)
	}
	return fd
}
