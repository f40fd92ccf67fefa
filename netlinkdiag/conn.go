package netlinkdiag

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Config configures a Conn. The zero Config, and nil, mean the network namespace of the
// calling thread and the defaults.
type Config struct {
	// NetNS is the file descriptor of the network namespace to dump, 0 for that of
	// the calling thread. Dial duplicates it; the caller keeps its own.
	NetNS int

	// Retries is how often an interrupted dump is begun anew: 0 means 3, a
	// negative value never.
	Retries int

	// Open replaces the kernel; see package diagtest. nil opens a netlink socket.
	Open func() (Transport, error)
}

// A Transport carries a request to a kernel and its answers back.
type Transport interface {
	// Send sends one request and returns it with its sequence number filled in.
	Send(netlink.Message) (netlink.Message, error)
	// Receive waits for a datagram and copies it to b.
	Receive(b []byte) (int, error)
	// SetReadDeadline ends a waiting Receive, and later ones, with os.ErrDeadlineExceeded.
	SetReadDeadline(time.Time) error
	Close() error
}

const defaultRetries = 3

// bufferSize holds any datagram of a dump: the kernel fills at most 32 KiB at a time
// (netlink_dump).
const bufferSize = 64 << 10

// A Conn dumps the sockets of one network namespace. Its methods may be called from
// several goroutines; dumps take turns, so a consumer must not start a second dump on
// the Conn that it is ranging over.
type Conn struct {
	open    func() (Transport, error)
	release func() error
	retries int
	buf     []byte

	// turn holds one token; whoever has it may use transport.
	turn      chan struct{}
	transport Transport // nil after a dump that did not end cleanly
	closed    bool
}

// Dial opens a connection. The error wraps the errno: os.ErrPermission where the
// namespace may not be entered, a *ModuleError where the kernel has no sock_diag.
func Dial(cfg *Config) (*Conn, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	c := &Conn{
		open:    cfg.Open,
		release: func() error { return nil },
		retries: cfg.Retries,
		buf:     make([]byte, bufferSize),
		turn:    make(chan struct{}, 1),
	}
	if c.retries == 0 {
		c.retries = defaultRetries
	}
	if c.open == nil {
		if err := c.useKernel(cfg.NetNS); err != nil {
			return nil, err
		}
	}
	transport, err := c.open()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open sock_diag: %w", err), c.release())
	}
	c.transport = transport
	c.turn <- struct{}{}
	return c, nil
}

// useKernel makes c open its netlink sockets in the namespace, now and later.
func (c *Conn) useKernel(netns int) error {
	if netns == 0 {
		c.open = func() (Transport, error) { return openKernel(0) }
		return nil
	}
	// Not 0, which a process without standard input has free: see Config.NetNS.
	fd, err := unix.FcntlInt(uintptr(netns), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicate network namespace descriptor: %w", err)
	}
	c.open = func() (Transport, error) { return openKernel(fd) }
	c.release = func() error { return unix.Close(fd) }
	return nil
}

// Close closes the connection. It waits for a running dump to end.
func (c *Conn) Close() error {
	<-c.turn
	defer func() { c.turn <- struct{}{} }()
	if c.closed {
		return ErrClosed
	}
	c.closed = true
	return errors.Join(c.drop(), c.release())
}

// drop closes the transport; the kernel forgets a dump that is under way, and what it
// had queued.
func (c *Conn) drop() error {
	if c.transport == nil {
		return nil
	}
	t := c.transport
	c.transport = nil
	return t.Close()
}

// Dump streams the sockets that the request asks for. Each range over it is a dump of
// its own. A non-nil error, always the last thing yielded but for ErrRestarted, is an
// *Error that wraps the cause: a *ModuleError, a *MessageError, ErrInterrupted, ErrClosed,
// an errno such as ENOBUFS, or the error of ctx.
//
// A context that ends stops the dump before the next datagram (some 370 sockets). A walk
// on which the filter matches nothing fills no datagram: the kernel is then waited for.
func (c *Conn) Dump(ctx context.Context, req Request) iter.Seq2[Socket, error] {
	req = req.withDefaults()
	return func(yield func(Socket, error) bool) {
		select {
		case <-c.turn:
			defer func() { c.turn <- struct{}{} }()
		case <-ctx.Done():
			yield(Socket{}, req.error("open", context.Cause(ctx)))
			return
		}
		d := &dump{conn: c, ctx: ctx, yield: yield, retries: max(c.retries, 0)}
		if err := d.run(req); err != nil && !errors.Is(err, errStopped) {
			yield(Socket{}, err)
		}
	}
}

func (r Request) error(op string, err error) error {
	return &Error{Op: op, Protocol: r.Protocol, Family: r.Family, Err: err}
}

// errStopped: the consumer left the loop.
var errStopped = errors.New("stopped")

// A dump is one range over Conn.Dump.
type dump struct {
	conn    *Conn
	ctx     context.Context
	yield   func(Socket, error) bool
	retries int  // left
	yielded bool // a socket, since the start or the last ErrRestarted
}

// run answers the request, beginning anew where the kernel calls for it.
func (d *dump) run(req Request) error {
	for walks := req.walks(); ; {
		err := d.runWalks(walks)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrInterrupted) && d.retries > 0:
			d.retries--
			if d.yielded && !d.yield(Socket{}, ErrRestarted) {
				return errStopped
			}
			d.yielded = false
		case len(walks) == 1 && walks[0].Family == FamilyAny && !d.yielded && refusedCompat(err):
			walks = req.perFamily()
		default:
			return err
		}
	}
}

// refusedCompat: the kernel answered, but does not know TCPDIAG_GETSOCK, or has no module
// for it, which the request of today tells apart.
func refusedCompat(err error) bool {
	var refusal *Error
	return errors.As(err, &refusal) && refusal.Op == "dump" &&
		(errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT))
}

func (d *dump) runWalks(walks []Request) error {
	for _, req := range walks {
		if op, err := d.walk(req); err != nil {
			if errors.Is(err, errStopped) {
				return err
			}
			return req.error(op, err)
		}
	}
	return nil
}

// walk sends one request and yields its sockets. Whatever ends it early costs the
// transport: leftovers of this dump must not reach the next.
func (d *dump) walk(req Request) (op string, err error) {
	if d.conn.closed {
		return "open", ErrClosed
	}
	if d.ctx.Err() != nil {
		return "open", context.Cause(d.ctx)
	}
	m, err := req.message()
	if err != nil {
		return "send", err
	}
	if d.conn.transport == nil {
		if d.conn.transport, err = d.conn.open(); err != nil {
			return "open", err
		}
	}
	t := d.conn.transport
	stop := context.AfterFunc(d.ctx, func() { _ = t.SetReadDeadline(time.Unix(1, 0)) })
	ended := false
	defer func() {
		if !stop() || !ended {
			_ = d.conn.drop()
		}
	}()

	if m, err = t.Send(m); err != nil {
		return "send", d.cause(err)
	}
	op, err = d.receive(t, m.Header.Sequence)
	if op == "dump" {
		err = moduleError(req, err)
	}
	ended = err == nil || op == "dump"
	return op, err
}

// receive reads datagrams until the dump with the given sequence number has ended.
func (d *dump) receive(t Transport, seq uint32) (op string, err error) {
	for {
		n, err := t.Receive(d.conn.buf)
		if err != nil {
			return "receive", d.cause(err)
		}
		if d.ctx.Err() != nil {
			return "receive", context.Cause(d.ctx)
		}
		done, op, err := d.datagram(d.conn.buf[:n], seq)
		if done || err != nil {
			return op, err
		}
	}
}

// cause prefers the context's error to the deadline that it set.
func (d *dump) cause(err error) error {
	if d.ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(d.ctx)
	}
	return err
}

// datagram yields the sockets of one datagram. done: the dump is over.
func (d *dump) datagram(b []byte, seq uint32) (done bool, op string, err error) {
	var s Socket
	for len(b) > 0 {
		var f frame
		if f, b, err = nextFrame(b); err != nil {
			return false, "decode", err
		}
		switch {
		case f.seq != seq:
			return false, "decode", &MessageError{Reason: fmt.Sprintf("sequence number %d, want %d", f.seq, seq)}
		case f.flags&netlink.DumpInterrupted != 0:
			return false, "receive", ErrInterrupted
		}
		switch f.typ {
		case unix.NLMSG_NOOP:
		case unix.NLMSG_OVERRUN:
			return false, "receive", unix.ENOBUFS
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			errno, err := f.errno()
			if err != nil {
				return false, "decode", err
			}
			if errno != 0 {
				return true, "dump", errno
			}
			if f.typ == unix.NLMSG_DONE {
				return true, "", nil
			}
		case unix.SOCK_DIAG_BY_FAMILY, tcpDiagGetSock:
			if err := s.decode(f.data); err != nil {
				return false, "decode", err
			}
			d.yielded = true
			if !d.yield(s, nil) {
				return false, "", errStopped
			}
		default:
			return false, "decode", &MessageError{Reason: fmt.Sprintf("unknown type %d", f.typ)}
		}
	}
	return false, "", nil
}

// moduleError translates the errnos by which the kernel says that it has no handler:
// ENOENT (inet_diag_lock_handler, __sock_diag_cmd), EOPNOTSUPP (the compat request).
func moduleError(req Request, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) && slices.Contains([]unix.Errno{unix.ENOENT, unix.EOPNOTSUPP}, errno) {
		return &ModuleError{Module: req.module(), Err: errno}
	}
	return err
}
