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

// Config configures a Conn. nil and the zero Config mean the network namespace of the
// calling thread, and the defaults.
type Config struct {
	// NetNS is the file descriptor of the network namespace to dump. 0 means the
	// namespace of the calling thread. Dial duplicates the descriptor; the caller may
	// close its own.
	NetNS int

	// Retries is how often an interrupted dump is restarted. 0 means 3 times, a
	// negative value never.
	Retries int

	// Open opens a Transport in place of the running kernel; see package diagtest. nil
	// opens a netlink socket.
	Open func() (Transport, error)
}

// A Transport carries requests to a kernel, and its answers back.
type Transport interface {
	// Send sends one request and returns it with its sequence number filled in.
	Send(netlink.Message) (netlink.Message, error)
	// Receive waits for a datagram, copies it to b, and returns its length in bytes. What
	// does not fit into b is lost.
	Receive(b []byte) (int, error)
	// SetReadDeadline makes Receive fail with os.ErrDeadlineExceeded from that time on,
	// also a call that waits already. The zero time means no deadline.
	SetReadDeadline(time.Time) error
	Close() error
}

const defaultRetries = 3

// The kernel fills at most 32 KiB of a buffer, and at most 8 KiB where it has not seen a larger
// one yet; it wants room for 16 KiB (netlink_dump). Most network namespaces need no more.
const (
	firstBuffer = 16 << 10
	bufferSize  = 64 << 10
)

// A Conn dumps the sockets of one network namespace. Several goroutines may call its
// methods. One dump runs at a time, so the body of a range over a dump must not start
// another dump on the same Conn: it would wait forever.
type Conn struct {
	open    func() (Transport, error)
	release func() error
	retries int
	buf     []byte

	// turn holds one token. Its holder may use transport.
	turn      chan struct{}
	transport Transport // nil after a dump that did not end cleanly
	closed    bool
}

// Dial opens a connection. The error wraps the errno. It is os.ErrPermission where the
// caller may not enter the namespace, and a *ModuleError where the kernel lacks sock_diag.
func Dial(cfg *Config) (*Conn, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	c := &Conn{
		open:    cfg.Open,
		release: func() error { return nil },
		retries: cfg.Retries,
		buf:     make([]byte, firstBuffer),
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

// useKernel makes c open its netlink sockets in the namespace, the first and all later
// ones.
func (c *Conn) useKernel(netns int) error {
	if netns == 0 {
		c.open = func() (Transport, error) { return openKernel(0) }
		return nil
	}
	// The copy must not be 0, which means no namespace (Config.NetNS), and which is free in a
	// process without standard input.
	fd, err := unix.FcntlInt(uintptr(netns), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicate network namespace descriptor: %w", err)
	}
	c.open = func() (Transport, error) { return openKernel(fd) }
	c.release = func() error { return unix.Close(fd) }
	return nil
}

// Close closes the connection. It waits until a running dump has ended. A second call
// returns ErrClosed.
func (c *Conn) Close() error {
	<-c.turn
	defer c.pass()
	if c.closed {
		return ErrClosed
	}
	c.closed = true
	return errors.Join(c.drop(), c.release())
}

// drop closes the transport. The kernel ends the running dump and discards what it
// queued.
func (c *Conn) drop() error {
	if c.transport == nil {
		return nil
	}
	t := c.transport
	c.transport = nil
	return t.Close()
}

// Dump streams the sockets that the request asks for. Each range over the result is a
// new dump.
//
// An error is yielded with a zero Socket. After ErrRestarted the stream goes on; any other
// error is the last. It is an *Error that wraps the cause: a *ModuleError, a *MessageError,
// ErrInterrupted, ErrClosed, an errno such as ENOBUFS, or the cause of ctx.
//
// When ctx ends, the dump stops before the next datagram (some 370 sockets). While the
// filter matches nothing, the kernel sends no datagram, and Dump waits for it.
func (c *Conn) Dump(ctx context.Context, req Request) iter.Seq2[Socket, error] {
	req = req.withDefaults()
	return sockets(ctx, c, req, (*Socket).decode, func(d *dump) error { return d.run(req) })
}

// sockets is a dump by run of sockets that decode decodes.
func sockets[T any](ctx context.Context, c *Conn, q question, decode func(*T, []byte) error, run func(*dump) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var s, none T
		if err := c.take(ctx); err != nil {
			yield(none, q.error("open", err))
			return
		}
		defer c.pass()
		d := &dump{
			conn: c, ctx: ctx, retries: max(c.retries, 0),
			emit: func(b []byte) (bool, error) {
				if err := decode(&s, b); err != nil {
					return true, err
				}
				return yield(s, nil), nil
			},
			restarted: func() bool { return yield(none, ErrRestarted) },
		}
		if err := run(d); err != nil && !errors.Is(err, errStopped) {
			yield(none, err)
		}
	}
}

// take waits for the turn of a dump, and pass ends it.
func (c *Conn) take(ctx context.Context) error {
	select {
	case <-c.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Conn) pass() { c.turn <- struct{}{} }

func (r Request) error(op string, err error) error {
	return &Error{Op: op, Protocol: r.Protocol, Family: r.Family, Err: err}
}

// errStopped means that the consumer left the loop.
var errStopped = errors.New("stopped")

// A dump is one range over Conn.Dump or Conn.DumpUnix.
type dump struct {
	conn *Conn
	ctx  context.Context
	// emit decodes a message and yields its socket. restarted yields ErrRestarted. Both return false
	// where the consumer has left the loop.
	emit      func(b []byte) (bool, error)
	restarted func() bool
	retries   int  // left
	yielded   bool // whether a socket was yielded since the start or the last ErrRestarted
}

// A question is what one walk of the kernel answers: a Request or a UnixRequest.
type question interface {
	message() (netlink.Message, error)
	module() string // that answers it
	error(op string, err error) error
}

// run answers the request. Where the kernel refuses one walk for both families, it takes two.
func (d *dump) run(req Request) error {
	walks := req.walks()
	err := d.retry(func() error { return d.runWalks(walks) })
	if len(walks) == 1 && walks[0].Family == FamilyAny && !d.yielded && refusedCompat(err) {
		walks = req.perFamily()
		err = d.retry(func() error { return d.runWalks(walks) })
	}
	return err
}

// retry dumps, and dumps again when the kernel says that the dump was interrupted.
func (d *dump) retry(once func() error) error {
	for {
		err := once()
		if !errors.Is(err, ErrInterrupted) || d.retries == 0 {
			return err
		}
		d.retries--
		if d.yielded && !d.restarted() {
			return errStopped
		}
		d.yielded = false
	}
}

// refusedCompat says whether the kernel refused TCPDIAG_GETSOCK. It does not know the
// message, or lacks a module for it. SOCK_DIAG_BY_FAMILY tells the two apart.
func refusedCompat(err error) bool {
	var refusal *Error
	return errors.As(err, &refusal) && refusal.Op == "dump" &&
		(errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT))
}

func (d *dump) runWalks(walks []Request) error {
	for _, req := range walks {
		if err := d.ask(req); err != nil {
			return err
		}
	}
	return nil
}

// ask walks, and says in its error what was asked.
func (d *dump) ask(req question) error {
	op, err := d.walk(req)
	if err == nil || errors.Is(err, errStopped) {
		return err
	}
	return req.error(op, err)
}

// walk sends one request and yields its sockets. When it ends early it closes the
// transport, so that the next dump does not receive the rest of this one.
func (d *dump) walk(req question) (op string, err error) {
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
		if n > firstBuffer/2 && len(d.conn.buf) < bufferSize { // there may be many more
			d.conn.buf = make([]byte, bufferSize)
		}
	}
}

// cause returns the cause of the context instead of the deadline error that it led to.
func (d *dump) cause(err error) error {
	if d.ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(d.ctx)
	}
	return err
}

// datagram yields the sockets of one datagram. It returns done at the end of the dump.
func (d *dump) datagram(b []byte, seq uint32) (done bool, op string, err error) {
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
			more, err := d.emit(f.data)
			if err != nil {
				return false, "decode", err
			}
			d.yielded = true
			if !more {
				return false, "", errStopped
			}
		default:
			return false, "decode", &MessageError{Reason: fmt.Sprintf("unknown type %d", f.typ)}
		}
	}
	return false, "", nil
}

// moduleError translates the errnos that mean that the kernel has no handler: ENOENT
// (inet_diag_lock_handler, __sock_diag_cmd) and EOPNOTSUPP (the compat request).
func moduleError(req question, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) && slices.Contains([]unix.Errno{unix.ENOENT, unix.EOPNOTSUPP}, errno) {
		return &ModuleError{Module: req.module(), Err: errno}
	}
	return err
}
