package sockflags

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// procChunk bounds how many directory entries are held at a time, and how long a
// context goes unasked.
const procChunk = 512

// findSockets calls found for every socket that a process has open, until found
// says false. Processes that end meanwhile or may not be looked into are left out.
func findSockets(ctx context.Context, found func(where place, inode uint32) bool) error {
	err := eachNumber(ctx, "/proc", func(_ *os.File, pid int) bool {
		return findSocketsOf(ctx, pid, found) && ctx.Err() == nil
	})
	if err != nil {
		return err
	}
	return ctx.Err()
}

func findSocketsOf(ctx context.Context, pid int, found func(where place, inode uint32) bool) bool {
	goOn := true
	link := make([]byte, 64)
	// An error means this process, which the others should not suffer for.
	_ = eachNumber(ctx, fmt.Sprintf("/proc/%d/fd", pid), func(dir *os.File, fd int) bool {
		n, err := unix.Readlinkat(int(dir.Fd()), strconv.Itoa(fd), link)
		if err != nil {
			return !errors.Is(err, unix.EACCES) // the same for all of them
		}
		if inode, ok := socketInode(link[:n]); ok {
			goOn = found(place{pid, fd}, inode)
		}
		return goOn
	})
	return goOn
}

// socketInode parses what a link in /proc/PID/fd says about a socket:
// "socket:[12345]".
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

// eachNumber calls f for every entry of a directory of procfs that is a number,
// until f says false.
func eachNumber(ctx context.Context, path string, f func(dir *os.File, number int) bool) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(procChunk)
		for _, name := range names {
			n, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			if !f(dir, n) {
				return nil
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read %s: %w", path, err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}
