package sockfiles

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/loaderr"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

//go:generate go tool bpf2go -cc clang-14 -target bpfel,bpfeb -no-global-types sockfiles sockfiles.c -- -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable

const (
	// seqBufSize is the buffer of bpf_seq_read in kernel/bpf/bpf_iter.c. One read returns no more.
	seqBufSize = 8 * 4096
	// recordSize is the size of struct record in sockfiles.c.
	recordSize = 32
	// clockTick is the unit of times in procfs: USER_HZ.
	clockTick = 10 * time.Millisecond

	// A read ends after MAX_ITER_OBJECTS of kernel/bpf/bpf_iter.c, a million descriptors, if it has
	// not filled the buffer before. A Search makes at most maxLong reads that end so.
	maxLong = 32
	// maxThreads is how many sockets of threads other than main ones a Search passes.
	maxThreads = 1 << 18
)

// ErrTooMany is the error of a Search that would pass too many descriptors.
var ErrTooMany = errors.New("too many descriptors for a search for sockets")

// A Reader searches for sockets. Its methods may be called from any goroutine.
type Reader struct {
	objs sockfilesObjects
	link *link.Iter

	mu         sync.Mutex // of buf
	buf        [seqBufSize]byte
	maxThreads int
}

// New makes a Reader, and tries it. The error is a *sock.UnavailableError. The caller closes the Reader.
// types may be nil.
func New(types *btf.Cache) (*Reader, error) {
	r := &Reader{maxThreads: maxThreads}
	unavailable := sock.UnavailableError{
		Feature: "socket owners", Mode: "bpf",
		Reason: sock.ReasonUnsupported, Need: "eBPF iterators over descriptors, Linux 5.11 and later",
	}
	if err := loadSockfilesObjects(&r.objs, &ebpf.CollectionOptions{Cache: types}); err != nil {
		return nil, loaderr.Explain(unavailable, fmt.Errorf("load: %w", err))
	}
	var err error
	if r.link, err = link.AttachIter(link.IterOptions{Program: r.objs.Sockfiles}); err != nil {
		_ = r.objs.Close()
		return nil, loaderr.Explain(unavailable, fmt.Errorf("attach: %w", err))
	}
	if err := r.try(); err != nil {
		_ = r.Close()
		unavailable.Reason, unavailable.Need, unavailable.Err = sock.ReasonPIDNamespace, "the host's pid and time namespaces", err
		return nil, &unavailable
	}
	return r, nil
}

// Close closes the Reader.
func (r *Reader) Close() error { return errors.Join(r.link.Close(), r.objs.Close()) }

// try searches for a socket of this process.
func (r *Reader) try() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	start, err := linux.ProcessStart("/proc", os.Getpid())
	if err != nil {
		return err
	}
	holders, err := r.Search(context.Background(), func(inode uint32) bool { return uint64(inode) == st.Ino })
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(holders, func(h linux.SocketHolder) bool { return h.PID == os.Getpid() && h.Start == start }) {
		return fmt.Errorf("own socket found in %v, want process %d, started at %d", holders, os.Getpid(), start)
	}
	return nil
}

// Search returns the processes that have wanted sockets open. A socket is found once in each process.
func (r *Reader) Search(ctx context.Context, wanted func(inode uint32) bool) ([]linux.SocketHolder, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	file, err := r.link.Open()
	if err != nil {
		return nil, fmt.Errorf("search for sockets: %w", err)
	}
	defer file.Close()
	s := search{wanted: wanted, seen: make(map[found]bool), at: make(map[thread]int)}
	for long := 0; ctx.Err() == nil; {
		n, err := file.Read(r.buf[:])
		switch {
		case errors.Is(err, io.EOF):
			return s.holders, nil
		case err != nil && !errors.Is(err, unix.EAGAIN): // EAGAIN: a million descriptors, and no socket
			return nil, fmt.Errorf("search for sockets: %w", err)
		}
		if n < seqBufSize/2 {
			long++
		}
		s.add(r.buf[:max(0, n)])
		if long > maxLong || s.threads > r.maxThreads {
			return nil, ErrTooMany
		}
	}
	return nil, ctx.Err()
}

type (
	found struct {
		pid   int
		inode uint32
	}
	thread struct{ pid, tid int }
)

// A search is what one Search has found so far.
type search struct {
	wanted  func(inode uint32) bool
	holders []linux.SocketHolder
	at      map[thread]int // in holders
	seen    map[found]bool
	threads int // sockets of threads other than main ones
}

// add takes records of sockfiles.c.
func (s *search) add(records []byte) {
	native := binary.NativeEndian
	for b := records; len(b) >= recordSize; b = b[recordSize:] {
		t := thread{int(native.Uint32(b[8:])), int(native.Uint32(b[12:]))}
		if t.tid != t.pid {
			s.threads++
		}
		fd := linux.SocketFD{FD: int(native.Uint32(b[20:])), Inode: native.Uint32(b[16:]), Inherited: native.Uint32(b[24:]) != 0}
		key := found{t.pid, fd.Inode}
		if !s.wanted(fd.Inode) || s.seen[key] {
			continue
		}
		s.seen[key] = true
		i, ok := s.at[t]
		if !ok {
			i = len(s.holders)
			s.at[t] = i
			h := linux.SocketHolder{PID: t.pid, Start: native.Uint64(b) / uint64(clockTick)}
			if t.tid != t.pid {
				h.Thread = t.tid
			}
			s.holders = append(s.holders, h)
		}
		s.holders[i].FDs = append(s.holders[i].FDs, fd)
	}
}
