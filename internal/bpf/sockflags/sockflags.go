package sockflags

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"sockstate_exporter/internal/sock"

	"github.com/cilium/ebpf/btf"
)

// feature is the name in errors.
const feature = "reuse flags"

// A Mode is a way to read the flags.
type Mode string

// The modes. ModeAuto, for Options only, is ModeBPF, or ModePidfd where that does not work.
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

// Options configure a Reader. The zero value is ready for use.
type Options struct {
	// Logger is for debug messages only. nil means none.
	Logger *slog.Logger
	// Types are the kernel's; nil: they are read.
	Types *btf.Cache
	// Mode is ModeAuto when empty.
	Mode Mode
	// MaxGroups bounds the groups of a Read in ModeBPF, and so its kernel memory: about 110 bytes
	// for each group. 4 to 65,536; 0 means DefaultMaxGroups.
	MaxGroups int
	// PidfdInterval is how long ModePidfd uses an answer: the flags of a listener, or that it was
	// not found. 0 means DefaultPidfdInterval.
	PidfdInterval time.Duration
}

// A Request says what to read.
type Request struct {
	// NetNS is a descriptor of the network namespace to walk in ModeBPF. 0 means the namespace of
	// the calling thread.
	NetNS int
	// Ports are the local ports to read in ModeBPF.
	Ports []uint16
	// Expected are, by port, the binds that the caller will ask about. Groups of a port with very
	// many are folded: what these binds, and binds to wildcard addresses, cannot tell apart is one
	// Group.
	Expected map[uint16][]Bind
	// ListenersOnly ends the walk of ModeBPF before the table of connections, which can be large.
	// Groups is then empty.
	ListenersOnly bool
	// Listeners are the listeners to ask. In ModeBPF, none means all on the ports.
	Listeners []ListenerID
}

// A Bind is what a socket is to be bound to, and by whom.
type Bind struct {
	Addr     netip.Addr // a zone is ignored
	Ifindex  uint32
	UID      uint32
	UIDKnown bool
}

// A ListenerID identifies a listener as sock_diag shows it.
type ListenerID struct {
	Cookie uint64
	Inode  uint32
}

// Flags of a socket.
type Flags = sock.ReuseFlags

// A Result is what one Read found.
type Result struct {
	// Listeners by socket cookie.
	Listeners map[uint64]Flags
	// NamedPort has the cookies of Listeners whose program has named the port: the kernel did not
	// choose it (SOCK_BINDPORT_LOCK). ModeBPF only.
	NamedPort map[uint64]bool
	// Groups of all other sockets, in no particular order. ModeBPF only.
	Groups []Group
	// Buckets by port. A port is in it where the walk saw a listener, a connection or TIME_WAIT
	// that is not bound to a device of a VRF. ModeBPF only, and not with ListenersOnly.
	Buckets map[uint16]Bucket
	// Missed counts the sockets that are in no group, by port. For a port in Missed, a group that
	// is absent from Groups may still exist.
	Missed map[uint16]uint64
}

// A Bucket is what struct inet_bind_bucket keeps about the binds of a port. Where it allows another
// bind (inet_csk_get_port), that bind succeeds without a look at the sockets.
type Bucket struct {
	FastReuse     int8 // fastreuse
	FastReusePort int8 // fastreuseport: 1 is FASTREUSEPORT_ANY, 2 FASTREUSEPORT_STRICT
	// UID, Addr (as in Group) and V6Only of the socket that set FastReusePort. Zero unless
	// FastReusePort is above 0: the kernel leaves them unset until then.
	UID    uint32
	Addr   netip.Addr
	V6Only bool
}

// A Group is a number of sockets that are the same to bind().
type Group struct {
	Port uint16
	// Addr is the local address. Is4 means AF_INET. All other addresses are AF_INET6; a v4-mapped one
	// is an IPv4 connection of a dual-stack socket. KindRequest has the unspecified address of its
	// family.
	Addr netip.Addr
	// Elsewhere is set in place of Addr where the sockets were folded: to the family of their
	// addresses, none of which is expected. v4-mapped addresses count as IPv4.
	Elsewhere sock.Family
	// Ifindex of the device that the sockets are bound to (SO_BINDTODEVICE), or 0. It is
	// sock.OtherIfindex of folded sockets whose device is not expected.
	Ifindex uint32
	// V6Only is IPV6_V6ONLY; false for AF_INET and KindRequest.
	V6Only bool
	// State has the numbers of include/net/tcp_states.h. It is the state that sock_diag shows.
	State sock.State
	Kind  sock.Kind
	// Flags of the sockets. KindRequest has the flags of its listener.
	Flags
	// UID that bind() compares, in the reader's user namespace. 0 for KindTimeWait, which has none.
	// It is sock.OtherUID of folded sockets whose user is not expected.
	UID uint32

	// Count is the number of sockets, at least 1.
	Count uint64
	// Expires is the time from the end of the Read until the last timer of the group is due, exact
	// to a jiffy. It is 0 for other kinds than KindTimeWait. The kernel runs a timer up to some
	// seconds later (kernel/time/timer.c), and the socket exists until then.
	Expires time.Duration
}

// A Reader reads flags. It is safe for concurrent use. Concurrent Reads wait for each other.
type Reader struct {
	mode       Mode
	source     source
	shortfalls []*sock.UnavailableError
	turn       chan struct{} // holds one token; a channel, since a context can end the wait
}

// A source is one way to read flags. The Reader makes one call at a time.
type source interface {
	read(context.Context, Request) (*Result, error)
	shortfalls() []*sock.UnavailableError
	close() error
}

// ErrClosed is returned by Read after Close.
var ErrClosed = errors.New("reader closed")

// New loads what Read needs. Where no mode works, the error wraps a *[sock.UnavailableError] for each
// mode that was tried, ModeBPF first.
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
	if opts.MaxGroups < 4 || opts.MaxGroups > 1<<16 || opts.PidfdInterval < 0 {
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
	opts.Logger.Debug("reuse flags: eBPF not available, using pidfd_getfd", "err", err)
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

// Mode returns the mode in use: ModeBPF or ModePidfd.
func (r *Reader) Mode() Mode { return r.mode }

// Shortfalls returns why the Reader cannot read some flags on this host: eBPF was refused, or other
// users' processes may not be looked into. In ModeBPF there are none.
func (r *Reader) Shortfalls() []*sock.UnavailableError {
	return append(r.shortfalls[:len(r.shortfalls):len(r.shortfalls)], r.source.shortfalls()...)
}

// Read reads the current flags. It waits for a concurrent Read. When ctx ends, it returns the error
// of ctx soon.
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

// Close waits for a concurrent Read and frees everything that the Reader has loaded.
func (r *Reader) Close() error {
	if _, open := <-r.turn; !open {
		return nil
	}
	close(r.turn)
	return r.source.close()
}
