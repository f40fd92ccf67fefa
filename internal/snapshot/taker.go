package snapshot

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// Config says what a Taker takes, and from where.
type Config struct {
	// Dial connects to the sock_diag of the process's own network namespace. It is called
	// once, or until it succeeds: a kernel without costs the parts that need it, no more.
	// FollowBinds has a connection of its own.
	Dial func() (*netlinkdiag.Conn, error)

	// Watch decides which ports are watched. The Taker alone uses it from now on.
	Watch *ports.Plan

	// Namespaces finds the network namespaces to take beside the process's own; nil takes
	// none. The Taker alone uses it from now on.
	Namespaces *netns.Discoverer

	// Retention is how long a listener group is remembered after its last socket: its drop
	// counter, its address and flags.
	Retention time.Duration

	// TCP, Listeners and Verdicts switch the parts of that name on. Verdicts need the
	// dump of TCP, whether that part is on or not.
	TCP, Listeners, Verdicts bool

	// UDP switches the part of that name on.
	UDP bool

	// Remote are the remote ports to count sockets to, in the dump of TCP; nil switches the
	// part off.
	Remote *ports.Fixed

	// Ephemeral switches the part of that name on, in the dump of TCP.
	Ephemeral bool

	// LocalPorts reads the range of ports that the kernel chooses from in the calling thread's
	// network namespace; nil: it is not known.
	LocalPorts func() (first, last uint16, err error)

	// TCPSockets counts the TCP sockets of the calling thread's network namespace, but for
	// half-open and merely bound ones; nil: that is not known. Where there are no more than
	// listen, in a namespace other than the own, connections are looked for in bounded time.
	TCPSockets func() (uint64, error)

	// sparse says whether the namespace has no TCP socket, but for half-open and merely bound
	// ones, beside so many that listen; nil: that is not known.
	sparse func(listening uint64) bool
	walks  *walkBudget

	// Stack reads the counters and limits of the calling thread's network namespace; nil
	// switches the part off.
	Stack func() (stack.Stats, error)

	// Flags reads the reuse flags; nil switches the part off.
	Flags FlagReader

	// Owners finds who has a socket open, and who failed to bind; nil: nobody is known.
	Owners OwnerFinder

	// Binds counts failed binds; nil switches the part off. The Taker sets which ports it
	// watches. OwnNetns is the inode number of the process's own network namespace.
	Binds    *bindtrace.Tracer
	OwnNetns uint32

	// OnConflict is told of binds that failed with EADDRINUSE, and why: at most once in half
	// a minute a port. It is called by FollowBinds, once at a time; nil is not.
	OnConflict func(Conflict)

	// NetNS is a descriptor of the namespace that is taken as the process's own, to look up
	// device names in; 0 for the one that it really is in.
	NetNS int
}

// A Taker takes snapshots, one at a time. Its methods may be called from any goroutine.
type Taker struct {
	host *host
	busy chan struct{} // holds a token while a flight runs

	mu     sync.Mutex
	flight *flight // the one that callers may join, if any
	ready  bool
}

// New returns a Taker.
func New(cfg Config) *Taker {
	if cfg.OnConflict == nil {
		cfg.OnConflict = func(Conflict) {}
	}
	return &Taker{host: newHost(cfg), busy: make(chan struct{}, 1)}
}

// Close closes the connection, after the snapshot that is being taken.
func (t *Taker) Close() error {
	t.busy <- struct{}{}
	defer func() { <-t.busy }()
	return t.host.close()
}

// Ready says whether a snapshot was ever completed: every part of the own namespace was had,
// or is off, or needs what this kernel does not have.
func (t *Taker) Ready() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ready
}

// Take takes a snapshot, or joins the one that is being taken. When ctx ends first, the
// parts that are not there yet carry its error.
func (t *Taker) Take(ctx context.Context) Snapshot {
	f := t.join()
	defer t.leave(f)
	select {
	case <-f.done:
	case <-ctx.Done():
	}
	return f.view(context.Cause(ctx))
}

// A flight is one snapshot on its way, and those who wait for it.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{}
	waiters int // guarded by Taker.mu

	mu   sync.Mutex
	snap Snapshot // parts that are not there yet have errPending
}

var errPending = errors.New("not taken yet")

func (t *Taker) join() *flight {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flight == nil {
		ctx, cancel := context.WithCancel(context.Background())
		t.flight = &flight{cancel: cancel, done: make(chan struct{})}
		for err := range t.flight.snap.errs() {
			*err = errPending
		}
		go t.fly(ctx, t.flight)
	}
	t.flight.waiters++
	return t.flight
}

// leave cancels the flight with its last waiter; whoever comes next begins another.
func (t *Taker) leave(f *flight) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.waiters--; f.waiters > 0 {
		return
	}
	f.cancel()
	if t.flight == f {
		t.flight = nil
	}
}

func (t *Taker) fly(ctx context.Context, f *flight) {
	defer close(f.done)
	// A flight whose waiters have all left may still be on its way out.
	select {
	case t.busy <- struct{}{}:
		defer func() { <-t.busy }()
	case <-ctx.Done():
		return
	}
	t.host.run(ctx, f.publish)

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flight == f {
		t.flight = nil
	}
	snap := f.view(nil)
	t.ready = t.ready || snap.complete()
}

func (f *flight) publish(set func(*Snapshot)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set(&f.snap)
}

// view is a copy of what is there; for what is not, cause is the reason.
func (f *flight) view(cause error) Snapshot {
	f.mu.Lock()
	s := f.snap
	s.Others = slices.Clone(s.Others)
	f.mu.Unlock()
	if cause == nil {
		cause = errPending
	}
	for err := range s.errs() {
		if errors.Is(*err, errPending) {
			*err = cause
		}
	}
	return s
}

func (s *Snapshot) complete() bool {
	own := Snapshot{Namespace: s.Namespace, Discovery: Part[Discovery]{Err: ErrOff}, Binds: s.Binds}
	for err := range own.errs() {
		var lacking *netlinkdiag.ModuleError
		if *err != nil && !errors.Is(*err, ErrOff) && !errors.As(*err, &lacking) {
			return false
		}
	}
	return true
}

// errs are the errors of all parts.
func (s *Snapshot) errs() iter.Seq[*error] {
	return func(yield func(*error) bool) {
		for ns := range s.Namespaces() {
			for err := range ns.errs() {
				if !yield(err) {
					return
				}
			}
		}
		_ = yield(&s.Discovery.Err) && yield(&s.Binds.Err)
	}
}

func (n *Namespace) errs() iter.Seq[*error] {
	return slices.Values([]*error{&n.Watch.Err, &n.Listeners.Err, &n.TCP.Err, &n.Remote.Err, &n.Ephemeral.Err, &n.UDP.Err, &n.Reuse.Err, &n.Verdicts.Err, &n.Stack.Err})
}
