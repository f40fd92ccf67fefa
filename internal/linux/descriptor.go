package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A SocketFD is a descriptor of a process that refers to a socket.
type SocketFD struct {
	FD    int
	Inode uint32 // of the socket, in sockfs
}

const (
	// fdChunk bounds how many names of a directory are in memory at a time.
	fdChunk = 512
	// linkSize is more than the link of a socket takes. A longer link is not that of a socket.
	linkSize = 32
)

// SocketFDs calls f for each descriptor of a process that refers to a socket, until f returns
// false. dir is /proc/PID/fd. The error is an os.ErrPermission where the process may not be looked
// into, and that of ctx where ctx ended first. A descriptor that is closed meanwhile is left out.
//
// procfs.Proc.FileDescriptorTargets is no alternative. It keeps all links of a process in memory:
// 84 MB for half a million descriptors, where SocketFDs takes 12 MB. And it cannot tell a
// descriptor that was closed meanwhile from one that may not be read.
func SocketFDs(ctx context.Context, dir string, f func(SocketFD) bool) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for ctx.Err() == nil {
		names, err := d.Readdirnames(fdChunk)
		for _, name := range names {
			inode, err := socketInode(d, name)
			if errors.Is(err, os.ErrPermission) {
				return err // every other descriptor would get it, too
			}
			if err != nil {
				continue
			}
			if fd, err := strconv.Atoi(name); err == nil && !f(SocketFD{fd, inode}) {
				return nil
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", dir, err)
		}
	}
	return ctx.Err()
}

// OpenSocketFDs returns those of the descriptors that still refer to the same socket. dir is
// /proc/PID/fd.
func OpenSocketFDs(dir string, fds []SocketFD) ([]SocketFD, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var open []SocketFD
	for _, s := range fds {
		if inode, err := socketInode(d, strconv.Itoa(s.FD)); err == nil && inode == s.Inode {
			open = append(open, s)
		}
	}
	return open, nil
}

// SocketInode returns the inode of the socket that a descriptor refers to: /proc/PID/fd/N.
func SocketInode(path string) (uint32, error) { return socketInodeAt(unix.AT_FDCWD, path) }

var errNotSocket = errors.New("not a socket")

// socketInode reads the link of one descriptor (sockfs_dname).
func socketInode(dir *os.File, name string) (uint32, error) {
	return socketInodeAt(int(dir.Fd()), name)
}

func socketInodeAt(dir int, name string) (uint32, error) {
	var link [linkSize]byte
	n, err := unix.Readlinkat(dir, name, link[:])
	if err != nil {
		return 0, err
	}
	inode, ok := LinkInode("socket", string(link[:n]))
	if !ok || inode > math.MaxUint32 {
		return 0, errNotSocket
	}
	return uint32(inode), nil
}
