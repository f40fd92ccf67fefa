// Package ring reads a ring buffer of events, and has it mapped into memory only while there are some.
package ring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// A Ring is a ring buffer. Mapped into memory, it takes twice its size.
type Ring struct {
	Idle time.Duration // how long it stays mapped after its last event

	events *ebpf.Map
	file   *os.File // a descriptor of events that the Go runtime polls

	mu     sync.Mutex // guards what follows
	closed bool
	reader *ringbuf.Reader // nil while not mapped
}

// New does not map the ring yet. The map stays that of the caller, who closes it after the Ring.
func New(events *ebpf.Map) (*Ring, error) {
	fd, err := unix.FcntlInt(uintptr(events.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("set O_NONBLOCK: %w", err)
	}
	return &Ring{Idle: time.Minute, events: events, file: os.NewFile(uintptr(fd), "ring")}, nil
}

// Read waits for the next event. It is not called by two goroutines at the same time. The error is
// [os.ErrDeadlineExceeded] after the deadline, if there is one, and [os.ErrClosed] once the ring is closed.
func (r *Ring) Read(deadline time.Time, record *ringbuf.Record) error {
	for {
		reader, err := r.open(deadline)
		if err != nil {
			return err
		}
		until := time.Now().Add(r.Idle)
		last := !deadline.IsZero() && deadline.Before(until)
		if last {
			until = deadline
		}
		reader.SetDeadline(until)
		if err := reader.ReadInto(record); last || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := r.unmap(); err != nil {
			return err
		}
	}
}

// open waits until there is an event, and maps the ring unless it is mapped.
func (r *Ring) open(deadline time.Time) (*ringbuf.Reader, error) {
	r.mu.Lock()
	reader := r.reader
	r.mu.Unlock()
	if reader != nil {
		return reader, nil
	}
	if err := r.wait(deadline); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, os.ErrClosed
	}
	reader, err := ringbuf.NewReader(r.events)
	if err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	r.reader = reader
	return reader, nil
}

// wait waits until there is an event.
func (r *Ring) wait(deadline time.Time) error {
	err := r.poll(deadline)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	return err
}

func (r *Ring) poll(deadline time.Time) error {
	conn, err := r.file.SyscallConn()
	if err != nil {
		return err
	}
	var ready bool
	var pollErr error
	look := func(fd uintptr) {
		n, err := 0, error(unix.EINTR)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}
		ready, pollErr = n > 0, err
	}
	// After a deadline the runtime does not look.
	if err := conn.Control(look); err != nil || ready || pollErr != nil {
		return errors.Join(err, pollErr)
	}
	if err := r.file.SetReadDeadline(deadline); err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) (done bool) {
		look(fd)
		return ready || pollErr != nil
	})
	return errors.Join(err, pollErr)
}

func (r *Ring) unmap() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == nil {
		return nil
	}
	err := r.reader.Close()
	r.reader = nil
	return err
}

// Mapped says whether the ring is mapped into memory.
func (r *Ring) Mapped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reader != nil
}

// Close ends a waiting Read.
func (r *Ring) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	return errors.Join(r.unmap(), r.file.Close())
}
