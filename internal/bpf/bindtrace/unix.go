//go:build linux

package bindtrace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/ring"
	"sockstate_exporter/internal/linux"
)

// A UnixCount is the number of bind calls of Unix sockets that failed with an error since New.
type UnixCount struct {
	Netns uint32     // inode number of the network namespace; 0: not watched
	Errno unix.Errno // 0: an error without a class
	N     uint64
}

// A UnixEvent is one failed bind of a Unix socket.
type UnixEvent struct {
	Time           time.Time // when the call returned, by the wall clock at the time of ReadUnix
	PID, TID       uint32    // in the initial pid namespace
	UID, User      uint32    // as in Event
	CgroupID       uint64
	Process        string        // as in Event: any bytes
	Started        time.Duration // when the process started, after boot
	Netns, MountNS uint32        // inode numbers of the namespaces of the socket and of the process; 0: not known

	Errno unix.Errno
	Type  int // SOCK_STREAM and so on

	// Path is what the program asked for, or the abstract name: any bytes, at most 108. Empty where
	// the kernel would not have read it.
	Path     string
	Abstract bool
}

// unixReader reads the events of Unix sockets.
type unixReader struct {
	mu     sync.Mutex
	ring   *ring.Ring
	record ringbuf.Record
}

// unixRingSize is an eighth of the ring of the other events.
func unixRingSize(ringSize int) int {
	return 1 << bits.Len(uint(max(ringSize/8, os.Getpagesize())-1))
}

// UnixCounts appends the count of each errno and network namespace with at least one failure to dst.
// No sum over the namespaces falls.
func (t *Tracer) UnixCounts(dst []UnixCount) ([]UnixCount, error) {
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	err := t.whileOpen(func() error {
		for _, c := range t.slots.AppendTo(nil, true) {
			dst = append(dst, UnixCount{Netns: c.Netns, Errno: c.Errno, N: c.N})
		}
		return nil
	})
	return dst, err
}

// ReadUnix waits for the next event of a Unix socket, as Read does for others.
func (t *Tracer) ReadUnix(deadline time.Time, e *UnixEvent) error {
	t.unix.mu.Lock()
	defer t.unix.mu.Unlock()
	if err := t.unix.ring.Read(deadline, &t.unix.record); err != nil {
		return fmt.Errorf("read bind event of a Unix socket: %w", err)
	}
	boot, err := linux.BootTime()
	if err != nil {
		return err
	}
	return e.decode(t.unix.record.RawSample, boot)
}

// decode decodes struct unix_event of unix.h in native byte order.
func (e *UnixEvent) decode(record []byte, bootWall time.Time) error {
	var raw bpfUnixEvent
	if _, err := binary.Decode(record, binary.NativeEndian, &raw); err != nil {
		return fmt.Errorf("decode event: %w: %d bytes", errEventSize, len(record))
	}
	*e = UnixEvent{
		Time:     bootWall.Add(time.Duration(raw.BootNs)),
		PID:      raw.Pid,
		TID:      raw.Tid,
		UID:      raw.Uid,
		User:     raw.User,
		CgroupID: raw.CgroupId,
		Process:  linux.Uncut(text(raw.Comm[:]), text(raw.Exe[:])),
		Started:  time.Duration(raw.StartedNs),
		Netns:    raw.Netns,
		MountNS:  raw.Mntns,
		Errno:    unix.Errno(raw.Error),
		Type:     int(raw.Type),
	}
	path := raw.Path[:min(int(raw.PathLen), len(raw.Path))]
	switch {
	case len(path) == 0:
	case path[0] == 0:
		e.Path, e.Abstract = string(path[1:]), true
	default:
		path, _, _ = bytes.Cut(path, []byte{0})
		e.Path = string(path)
	}
	return nil
}
