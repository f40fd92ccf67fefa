package sockwalk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/cilium/ebpf/btf"

	"sockstate_exporter/internal/bpf/loaderr"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// MaxNamespaces bounds the namespaces of a Walk: MAX_NAMESPACES of sockwalk.c.
const MaxNamespaces = 2048

// maxPorts bounds the ports of all namespaces together: max_entries of ports in sockwalk.c.
const maxPorts = 1 << 16

var (
	// ErrTooMany is the error of a Walk with more namespaces than there is room for.
	ErrTooMany = errors.New("too many network namespaces for one walk")

	// ErrIncomplete is the error of a Walk that could not read a part of the table, at any try.
	ErrIncomplete = errors.New("the table of connections changed too fast to be read")

	// ErrClosed is the error of a Walk after Close.
	ErrClosed = errors.New("walker closed")

	errUnexpected = errors.New("the table of connections is not where it is expected")
)

// A Request says what to look for.
type Request struct {
	Namespaces []Namespace
	Remote     []uint16 // remote ports, in all namespaces
}

// A Namespace is a network namespace, and what to look for in it. It must stay open, by a descriptor
// or a process, until the Walk is over.
type Namespace struct {
	Inode  uint32
	Cookie uint64 // SO_NETNS_COOKIE

	// Watched are local ports.
	Watched []uint16

	// Bound asks also for the sockets on them that are only bound. If the ports have few sockets, there are
	// better ways.
	Bound bool

	// LocalPorts are the ports of clients, whose destinations to look for: net.ipv4.ip_local_port_range.
	// Those in Serving belong to servers, and are left out. An empty range: no destinations.
	LocalPorts sock.PortRange
	Serving    []uint16
}

// A Group is a number of sockets. Each of them is on a watched local port, or is connected to a watched
// remote port, or has a local port in LocalPorts. They are the same in what matters to each of these.
type Group struct {
	// Namespace is the position in Request.Namespaces.
	Namespace int

	Family sock.Family // as netlinkdiag.Socket.Family
	State  sock.State  // as netlinkdiag.Socket.State
	Kind   sock.Kind

	// Local has the port of one of the sockets. All have it where it is a watched one. The address
	// of sockets on a watched port, or of clients with a destination, is that of all, otherwise it
	// is unspecified. KindRequest has an unspecified address.
	Local netip.AddrPort

	// Remote is the destination of clients. Without it, the address is unspecified. The port is
	// also there where it is a watched one, otherwise it is 0.
	Remote netip.AddrPort

	// The following are of sockets on a watched port.

	// Ifindex of the device that they are bound to, or 0.
	Ifindex uint32
	// UID that bind() compares. 0 for KindTimeWait and KindRequest, which have none.
	UID uint32
	// V6Only is IPV6_V6ONLY; false for AF_INET and KindRequest.
	V6Only bool
	// Flags are valid where FlagsKnown is set. KindRequest has the flags of its listener.
	Flags      sock.ReuseFlags
	FlagsKnown bool
	// Expires is the time from now until the last timer is due, exact to a jiffy. It is 0 for
	// other kinds than KindTimeWait.
	Expires time.Duration

	Count uint64 // at least 1
}

// A Result says how a Walk went.
type Result struct {
	// Found says, by Request.Namespaces, whether the namespace is there. It is also false for one
	// with so many ports that there is no room for them, and where the namespace alone has a table
	// that is large or could not be read: then its groups are not complete.
	Found []bool
	// Bound says, by Request.Namespaces, whether the sockets that are only bound were found. Otherwise none
	// of them was visited.
	Bound []bool
	// Sockets is how many the walk has passed, those of other namespaces included.
	Sockets uint64
	// Again is how many chains had to be read again.
	Again uint64
}

// Options configure a Walker. The zero value is ready for use.
type Options struct {
	// Logger is for debug messages only. nil means none.
	Logger *slog.Logger
	// Types are the kernel's; nil: they are read.
	Types *btf.Cache
	// Steps bounds the buckets and sockets that a run reads. 0 means DefaultSteps.
	Steps uint32
}

// DefaultSteps take one or two milliseconds.
const DefaultSteps = 8192

// minSteps lets a run read the longest chain, MAX_CHAIN, as often as MAX_TRIES.
const minSteps = 8 * (512 + 2)

// A Walker walks. Its methods may be called from any goroutine. Concurrent Walks wait for each other.
type Walker struct {
	programs *programs
	turn     chan struct{} // holds one token; a channel, since a context can end the wait
}

// feature is the name in errors.
const feature = "walk of TCP connections"

// New loads the programs, and tries them once. Where they do not work on this host, the error wraps a
// *[sock.UnavailableError].
func New(opts Options) (*Walker, error) { return open(opts, cmp.Or(opts.Types, btf.NewCache()).Kernel) }

// open is New for a kernel that has these types.
func open(opts Options, types func() (*btf.Spec, error)) (*Walker, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Steps == 0 {
		opts.Steps = DefaultSteps
	}
	opts.Steps = max(opts.Steps, minSteps)
	p, err := load(opts, types)
	if err != nil {
		return nil, loaderr.Explain(sock.UnavailableError{
			Feature: feature, Reason: sock.ReasonUnsupported, Need: "bpf_loop() and struct net as in Linux 6.1 and later",
		}, err)
	}
	w := &Walker{programs: p, turn: make(chan struct{}, 1)}
	w.turn <- struct{}{}
	if err := w.try(); err != nil {
		_ = w.Close()
		return nil, &sock.UnavailableError{Feature: feature, Reason: sock.ReasonUnsupported, Err: err}
	}
	return w, nil
}

// try walks for the calling thread's namespace.
func (w *Walker) try() error {
	var own Namespace
	err := linux.RunOnThread(func() error {
		_, inode, err := linux.OwnNetNS()
		if err != nil {
			return err
		}
		own.Inode = uint32(inode)
		own.Cookie, err = linux.NetNSCookie()
		return err
	})
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	result, err := w.Walk(context.Background(), Request{Namespaces: []Namespace{own}}, func(*Group) {})
	if err != nil {
		return err
	}
	if !result.Found[0] {
		return errUnexpected
	}
	return nil
}

// Walk calls visit for each group of sockets. The Group is valid until visit returns. When ctx ends,
// Walk returns the error of ctx soon. After an error, the groups that were visited are not complete.
func (w *Walker) Walk(ctx context.Context, req Request, visit func(*Group)) (*Result, error) {
	select {
	case _, open := <-w.turn:
		if !open {
			return nil, ErrClosed
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another walk: %w", context.Cause(ctx))
	}
	defer func() { w.turn <- struct{}{} }()

	result, err := w.programs.walk(ctx, &req, visit)
	if err != nil {
		return nil, fmt.Errorf("walk tcp connections: %w", err)
	}
	return result, nil
}

// Close waits for a concurrent Walk and unloads the programs.
func (w *Walker) Close() error {
	if _, open := <-w.turn; !open {
		return nil
	}
	close(w.turn)
	return w.programs.close()
}
