package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A SocketFD is a descriptor of a process that refers to a socket.
type SocketFD struct {
	FD    int
	Inode uint32 // of the socket, in sockfs

	// Inherited says that the process has the socket from another one, which had the same user, and that
	// nobody waits for what the socket has: it was inherited. False where that is not known.
	Inherited bool
}

// A SocketHolder is a process that has sockets open.
type SocketHolder struct {
	PID    int
	Start  uint64 // in clock ticks after boot
	Thread int    // that has the descriptors; 0: the main one
	FDs    []SocketFD
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
			if fd, err := strconv.Atoi(name); err == nil && !f(SocketFD{FD: fd, Inode: inode}) {
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

// SocketsOf returns the wanted sockets that a process has open, and the thread that shows them if the
// main thread does not. proc is where procfs is mounted.
func SocketsOf(ctx context.Context, proc string, pid int, wanted func(inode uint32) bool) (held []SocketFD, thread int, err error) {
	process := filepath.Join(proc, strconv.Itoa(pid))
	held, some, err := socketsIn(ctx, filepath.Join(process, "fd"), wanted)
	if some || err != nil {
		return held, 0, err
	}
	for _, thread := range ThreadsOfEnded(proc, pid) {
		held, some, err := socketsIn(ctx, filepath.Join(process, "task", strconv.Itoa(thread), "fd"), wanted)
		if some || err != nil {
			return held, thread, err
		}
	}
	return nil, 0, nil
}

// socketsIn returns the wanted sockets in a directory of descriptors, and whether it has any socket.
func socketsIn(ctx context.Context, dir string, wanted func(inode uint32) bool) (held []SocketFD, sockets bool, err error) {
	err = SocketFDs(ctx, dir, func(s SocketFD) bool {
		sockets = true
		if wanted(s.Inode) {
			held = append(held, s)
		}
		return true
	})
	return held, sockets, err
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
