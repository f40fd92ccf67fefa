package sockflags

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"sockstate_exporter/internal/sock"
)

// feature is the name in errors.
const feature = "reuse flags"

// A Mode is a way to read the flags.
type Mode string

// The modes. ModeAuto is only asked for: bpf, or else pidfd.
const (
	ModeAuto  Mode = "auto"
	ModeBPF   Mode = "bpf"
	ModePidfd Mode = "pidfd"
)

// Defaults of Options.
const (
	DefaultMaxGroups     = 16384
	DefaultPidfdInterval = time.Minute
)

// Options of New. The zero value is usable.
type Options struct {
	// Logger gets debug messages only; nil means none.
	Logger *slog.Logger
	// Mode is ModeAuto when empty.
	Mode Mode
	// MaxGroups bounds the groups of a Read in ModeBPF, and with them its
	// kernel memory (about 110 bytes each). At least 4; 0 means DefaultMaxGroups.
	MaxGroups int
	// PidfdInterval is how long ModePidfd believes what a listener answered, or
	// that it was not found. 0 means DefaultPidfdInterval.
	PidfdInterval time.Duration
}

// A Request says what to read.
type Request struct {
	// NetNS is a descriptor of the network namespace to walk in ModeBPF, or 0
	// for that of the calling thread.
	NetNS int
	// Ports are the local ports of interest in ModeBPF.
	Ports []uint16
	// ListenersOnly ends the walk of ModeBPF before the table of connections, which can be
	// large: Groups stays empty.
	ListenersOnly bool
	// Listeners are asked for in ModePidfd.
	Listeners []ListenerID
}

// A ListenerID is a listener as sock_diag shows it.
type ListenerID struct {
	Cookie uint64
	Inode  uint32
}

// Flags of a socket.
type Flags struct {
	ReuseAddr bool // SO_REUSEADDR
	ReusePort bool // SO_REUSEPORT
}

// A Result is what one Read found.
type Result struct {
	// Listeners by socket cookie.
	Listeners map[uint64]Flags
	// Groups of all other sockets, in no particular order; ModeBPF only.
	Groups []Group
	// Buckets by port, of the ports where a listener, a connection or TIME_WAIT was
	// seen that is bound to no device of a VRF; as Groups, ModeBPF only.
	Buckets map[uint16]Bucket
	// Missed counts, by port, the sockets that are in no group. Where a port is
	// in here, nothing can be concluded from the absence of a group.
	Missed map[uint16]uint64
}

// A Bucket is what struct inet_bind_bucket remembers of the binds of a port: where it
// admits another (inet_csk_get_port), that succeeds whatever sockets there are.
type Bucket struct {
	FastReuse     int8 // fastreuse
	FastReusePort int8 // fastreuseport: 1 is FASTREUSEPORT_ANY, 2 FASTREUSEPORT_STRICT
	// UID, Addr (as in Group) and V6Only of the socket that FastReusePort goes
	// back to; without meaning where that is not above 0.
	UID    uint32
	Addr   netip.Addr
	V6Only bool
}

// A Kind is what struct the kernel keeps for a connection.
type Kind uint8

// The kinds.
const (
	KindFull     Kind = iota // struct sock
	KindTimeWait             // struct tcp_timewait_sock: TIME_WAIT, and FIN_WAIT2 without a process
	KindRequest              // struct request_sock: SYN_RECV. Holds no port, so bind() never meets one
)

// A Group is a number of sockets that a bind() could not tell apart.
type Group struct {
	Port uint16
	// Addr is the local address. Is4 means AF_INET, all others are AF_INET6
	// (v4-mapped: an IPv4 connection of a dual-stack socket). KindRequest has
	// the unspecified address of its family.
	Addr netip.Addr
	// Ifindex of the device that the sockets are bound to (SO_BINDTODEVICE), or 0.
	Ifindex uint32
	// V6Only is IPV6_V6ONLY; false for AF_INET and KindRequest.
	V6Only bool
	// State is numbered as in include/net/tcp_states.h, and the same that
	// sock_diag shows.
	State uint8
	Kind  Kind
	// Flags of the sockets; KindRequest: of their listener.
	Flags
	// UID that bind() compares, as the reader's user namespace sees it; 0 for
	// KindTimeWait, which has none.
	UID uint32

	// Count of the sockets, at least 1.
	Count uint64
	// Expires is the time from the end of the Read until the timer of the last one is due,
	// to a jiffy; KindTimeWait only, else 0. The kernel runs it later, by up to some seconds
	// (kernel/time/timer.c), and until then the socket is there.
	Expires time.Duration
}

// A Reader reads flags. Its methods may be called concurrently; Reads take turns.
type Reader struct {
	mode       Mode
	source     source
	shortfalls []*sock.UnavailableError
	turn       chan struct{} // holds one token; a channel, so that a context ends the wait
}

// A source is one way to read flags. Reader serializes the calls.
type source interface {
	read(context.Context, Request) (*Result, error)
	shortfalls() []*sock.UnavailableError
	close() error
}

// ErrClosed is returned by Read after Close.
var ErrClosed = errors.New("reader closed")

// New loads what Read needs. An error for a mode that does not work here wraps an
// *[sock.UnavailableError] for each mode that was tried, ModeBPF first.
func New(opts Options) (*Reader, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxGroups == 0 {
		opts.MaxGroups = DefaultMaxGroups
	}
	if opts.PidfdInterval == 0 {
		opts.PidfdInterval = DefaultPidfdInterval
	}
	if opts.MaxGroups < 4 || opts.PidfdInterval < 0 {
		return nil, fmt.Errorf("reuse flags: MaxGroups %d, PidfdInterval %v: out of range",
			opts.MaxGroups, opts.PidfdInterval)
	}

	switch opts.Mode {
	case ModeBPF:
		it, err := newIterator(opts)
		if err != nil {
			return nil, err
		}
		return newReader(ModeBPF, it), nil
	case ModePidfd:
		p, err := newPidfds(opts)
		if err != nil {
			return nil, err
		}
		return newReader(ModePidfd, p), nil
	case ModeAuto, "":
	default:
		return nil, fmt.Errorf("reuse flags: no mode %q", opts.Mode)
	}

	it, err := newIterator(opts)
	if err == nil {
		return newReader(ModeBPF, it), nil
	}
	opts.Logger.Debug("Reuse flags without eBPF", "err", err)
	p, pidfdErr := newPidfds(opts)
	if pidfdErr != nil {
		return nil, errors.Join(err, pidfdErr)
	}
	r := newReader(ModePidfd, p)
	var unavailable *sock.UnavailableError
	if errors.As(err, &unavailable) {
		r.shortfalls = append(r.shortfalls, unavailable)
	}
	return r, nil
}

func newReader(mode Mode, s source) *Reader {
	r := &Reader{mode: mode, source: s, turn: make(chan struct{}, 1)}
	r.turn <- struct{}{}
	return r
}

// Mode is the one in use: ModeBPF or ModePidfd.
func (r *Reader) Mode() Mode { return r.mode }

// Shortfalls say what the Reader cannot tell on this host, and why: eBPF that was
// refused, processes that may not be looked into. None in ModeBPF.
func (r *Reader) Shortfalls() []*sock.UnavailableError {
	return append(r.shortfalls[:len(r.shortfalls):len(r.shortfalls)], r.source.shortfalls()...)
}

// Read reads the flags of the moment. It waits for a Read under way and ends soon
// after ctx does, with its error.
func (r *Reader) Read(ctx context.Context, req Request) (*Result, error) {
	select {
	case _, open := <-r.turn:
		if !open {
			return nil, ErrClosed
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another read of reuse flags: %w", context.Cause(ctx))
	}
	defer func() { r.turn <- struct{}{} }()

	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read reuse flags: %w", context.Cause(ctx))
	}
	return r.source.read(ctx, req)
}

// Close waits for a Read under way and lets go of all that the Reader holds.
func (r *Reader) Close() error {
	if _, open := <-r.turn; !open {
		return nil
	}
	close(r.turn)
	return r.source.close()
}
