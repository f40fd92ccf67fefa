package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// unixSockets makes two listeners with one path, of which clients reach the second, with a full
// accept queue. It returns what fails to bind there.
func (s states) unixSockets(ns *kerneltest.NetNS, dir string) (fail func() error) {
	s.t.Helper()
	at := &unix.SockaddrUnix{Name: filepath.Join(dir, "app.sock")}
	bind := func() (fd int, err error) {
		err = ns.Run(func() error {
			fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return errors.Join(err, unix.Bind(fd, at))
		})
		return fd, err
	}
	for _, last := range []bool{false, true} {
		fd, err := bind()
		if err := errors.Join(err, unix.Listen(fd, 2)); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = unix.Close(fd) })
		if last {
			break
		}
		if err := os.Remove(at.Name); err != nil {
			s.t.Fatal(err)
		}
	}
	for range 3 { // as many as find room
		client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			s.t.Cleanup(func() { _ = unix.Close(client) })
			err = unix.Connect(client, at)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return func() error {
		fd, err := bind()
		_ = unix.Close(fd)
		if !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind: %w, want EADDRINUSE", err)
		}
		return nil
	}
}
