package snapshot

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/holders"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// Config says what a Taker takes, and from where.
type Config struct {
	// Host asks the network namespaces. Without reuse flags or counters there, those parts are
	// off.
	Host *probe.Host

	// Watch decides which ports are watched. The Taker alone uses it from now on.
	Watch *watch.Plan

	// Retention is how long a listener group is remembered after its last socket: its drop
	// counter, its address and flags.
	Retention time.Duration

	// Parts are those that are taken.
	Parts Parts

	// Binds are those that the caller will ask Verdicts about, beside those to wildcards and to
	// addresses that listen. The answers to others may be unknown where very many sockets are on
	// a port.
	Binds []bindrule.Request

	// Owners finds who has a socket open; nil: nobody is known.
	Owners OwnerFinder

	// OnWalkFailed is told when the walk through all connections fails. Each namespace is asked on its
	// own then, and no walk is tried for some minutes. nil: nobody is told.
	OnWalkFailed func(error)

	// Failures records failed calls; nil switches the part off.
	Failures *failures.Recorder
}

// Parts switch the parts of that name on.
type Parts struct {
	TCP, Listeners, Verdicts, UDP, Ephemeral bool

	// Remote are the remote ports to count sockets to; nil switches the part off.
	Remote *watch.Fixed
}

// anyTCP: a part needs the dump of TCP sockets.
func (p *Parts) anyTCP() bool { return p.TCP || p.Verdicts || p.Ephemeral || p.Remote != nil }

// OwnerFinder finds who has a socket open: *owner.Finder.
type OwnerFinder interface {
	Find(context.Context, []owner.Socket) (map[uint64]owner.Owner, error)
	holders.Finder
}

// A Taker takes snapshots, one at a time. Its methods may be called from any goroutine.
type Taker struct {
	host *host
	busy chan struct{} // holds a token while a snapshot is taken

	mu    sync.Mutex
	next  *attempt // has not begun, so callers may join it; nil: the next caller makes one
	ready bool
}

// New returns a Taker.
func New(cfg Config) *Taker {
	return &Taker{host: newHost(&cfg), busy: make(chan struct{}, 1)}
}

// Close closes the connection, after the snapshot that is being taken.
func (t *Taker) Close() error {
	t.busy <- struct{}{}
	defer func() { <-t.busy }()
	return t.host.close()
}

// Ready says whether sock_diag ever answered for the own namespace, or is known to be missing from
// this kernel. Other parts are optional.
func (t *Taker) Ready() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ready
}

// Take takes a snapshot. It shows nothing older than the call: callers share a snapshot only if it
// began after all of them had called. When ctx ends first, the parts that are not there yet carry
// its error.
func (t *Taker) Take(ctx context.Context) Snapshot { return t.takeFor(ctx, false) }

// TakeWithHolders is Take, and also finds out who has the sockets that are in the way of servers which are not
// there, which takes longer.
func (t *Taker) TakeWithHolders(ctx context.Context) Snapshot { return t.takeFor(ctx, true) }

func (t *Taker) takeFor(ctx context.Context, holders bool) Snapshot {
	if ctx.Err() != nil {
		return newAttempt(nil).view(context.Cause(ctx))
	}
	a := t.join(holders)
	defer t.leave(a)
	select {
	case <-a.done:
	case <-ctx.Done():
	}
	return a.view(context.Cause(ctx))
}

// An attempt is one snapshot that is waiting to begin or is being taken, and its callers.
type attempt struct {
	cancel  context.CancelFunc
	done    chan struct{}
	waiters int  // guarded by Taker.mu
	holders bool // guarded by Taker.mu: one of the callers wants them

	mu   sync.Mutex
	snap Snapshot // parts that are not there yet have errPending
}

var errPending = errors.New("not taken yet")

func newAttempt(cancel context.CancelFunc) *attempt {
	a := &attempt{cancel: cancel, done: make(chan struct{})}
	for err := range a.snap.errs() {
		*err = errPending
	}
	return a
}

func (t *Taker) join(holders bool) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == nil {
		ctx, cancel := context.WithCancel(context.Background())
		t.next = newAttempt(cancel)
		go t.take(ctx, t.next)
	}
	t.next.waiters++
	t.next.holders = t.next.holders || holders
	return t.next
}

// leave cancels the snapshot when nobody waits for it any more. The next caller begins another.
func (t *Taker) leave(a *attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.waiters--; a.waiters > 0 {
		return
	}
	a.cancel()
	t.close(a)
}

// close lets nobody join the attempt any more.
func (t *Taker) close(a *attempt) {
	if t.next == a {
		t.next = nil
	}
}

func (t *Taker) take(ctx context.Context, a *attempt) {
	defer close(a.done)
	select {
	case t.busy <- struct{}{}: // the snapshot before it has ended
		defer func() { <-t.busy }()
	case <-ctx.Done():
		return
	}
	t.mu.Lock()
	t.close(a)
	holders := a.holders
	t.mu.Unlock()
	if ctx.Err() != nil { // both at once
		return
	}
	t.host.run(ctx, holders, a.publish)

	t.mu.Lock()
	defer t.mu.Unlock()
	snap := a.view(nil)
	t.ready = t.ready || snap.answered()
}

func (a *attempt) publish(set func(*Snapshot)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set(&a.snap)
}

// view is a copy of what is there. cause is the error of what is not.
func (a *attempt) view(cause error) Snapshot {
	a.mu.Lock()
	s := a.snap
	s.Others = slices.Clone(s.Others)
	a.mu.Unlock()
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

// answered says that sock_diag answered for the own namespace, or that this kernel does not have it.
func (s *Snapshot) answered() bool {
	for _, err := range []error{s.Watch.Err, s.TCP.Err} {
		var lacking *netlinkdiag.ModuleError
		if err != nil && !errors.Is(err, ErrOff) && !errors.As(err, &lacking) {
			return false
		}
	}
	return true
}
