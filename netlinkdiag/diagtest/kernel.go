package diagtest

import (
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
)

// A Kernel answers requests. Set netlinkdiag.Config.Open to its Open method:
//
//	k := &diagtest.Kernel{Sockets: []netlinkdiag.Socket{...}}
//	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open})
//
// Set the fields before the first Open.
type Kernel struct {
	// Sockets are the TCP sockets of this kernel, where Answer is nil. StateClose
	// means bound-inactive.
	Sockets []netlinkdiag.Socket

	// Answer, if set, returns what the client receives for a request.
	Answer func(Request) []Datagram

	// OpenError, if set, returns the error of the nth Open, or nil. n counts from 1.
	OpenError func(n int) error

	mu       sync.Mutex
	opened   int
	live     int
	requests []Request
}

// A Datagram is the result of one Receive: bytes, or an error such as unix.ENOBUFS.
type Datagram struct {
	Data []byte
	Err  error
}

// Open opens a connection to the Kernel, for netlinkdiag.Config.Open.
func (k *Kernel) Open() (netlinkdiag.Transport, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opened++
	if k.OpenError != nil {
		if err := k.OpenError(k.opened); err != nil {
			return nil, err
		}
	}
	k.live++
	return &transport{kernel: k, wake: make(chan struct{})}, nil
}

// Opened returns the number of connections that were opened.
func (k *Kernel) Opened() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.opened
}

// Live returns the number of connections that are open.
func (k *Kernel) Live() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live
}

// Requests returns the requests that were received.
func (k *Kernel) Requests() []Request {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.requests)
}

func (k *Kernel) answer(req Request) []Datagram {
	k.mu.Lock()
	k.requests = append(k.requests, req)
	k.mu.Unlock()
	if k.Answer != nil {
		return k.Answer(req)
	}
	if req.Protocol != netlinkdiag.ProtocolTCP {
		return Dump(req, nil)
	}
	return Dump(req, k.Sockets)
}

// transport is one netlink socket: a queue of datagrams, and a deadline.
type transport struct {
	kernel *Kernel

	mu     sync.Mutex
	wake   chan struct{} // closed and renewed when the deadline or closed changes
	seq    uint32
	queue  []Datagram
	due    time.Time // the deadline, if not zero
	closed bool
}

func (t *transport) Send(m netlink.Message) (netlink.Message, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return m, os.ErrClosed
	}
	t.seq++
	m.Header.Sequence = t.seq
	req, err := parseRequest(m)
	if err != nil {
		t.queue = append(t.queue, Datagram{Data: Error(t.seq, unix.EINVAL)})
		return m, nil
	}
	t.queue = append(t.queue, t.kernel.answer(req)...)
	return m, nil
}

func (t *transport) Receive(b []byte) (int, error) {
	for {
		t.mu.Lock()
		switch {
		case t.closed:
			t.mu.Unlock()
			return 0, os.ErrClosed
		case !t.due.IsZero() && !t.due.After(time.Now()):
			t.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(t.queue) > 0:
			d := t.queue[0]
			t.queue = t.queue[1:]
			t.mu.Unlock()
			return copy(b, d.Data), d.Err
		}
		wake := t.wake
		t.mu.Unlock()
		<-wake
	}
}

func (t *transport) SetReadDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due = at
	t.wakeAll()
	if wait := time.Until(at); wait > 0 {
		time.AfterFunc(wait, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.wakeAll()
		})
	}
	return nil
}

func (t *transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return os.ErrClosed
	}
	t.closed = true
	t.wakeAll()
	t.kernel.mu.Lock()
	defer t.kernel.mu.Unlock()
	t.kernel.live--
	return nil
}

// wakeAll makes waiting calls of Receive look again.
func (t *transport) wakeAll() {
	close(t.wake)
	t.wake = make(chan struct{})
}
