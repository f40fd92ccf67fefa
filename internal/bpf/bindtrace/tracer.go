//go:build linux

package bindtrace

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// Options configure a Tracer. The zero value is ready for use.
type Options struct {
	Logger    *slog.Logger // for debug messages only; nil: none
	Mode      Mode         // how to attach; 0: ModeAuto
	RingSize  int          // bytes for events, rounded up to a power of two; 0: 1 MiB
	MaxCounts int          // keys with a count of their own; 0: 8192

	// NoConnects switches off the tracing of connect(2).
	NoConnects bool
}

const (
	defaultRingSize  = 1 << 20
	maxRingSize      = 1 << 30
	defaultMaxCounts = 8192
	maxMaxCounts     = 1 << 20
	// maxNamespaces bounds the watched namespaces: each one multiplies the possible keys.
	maxNamespaces = 4096
)

var errOutOfRange = errors.New("not within")

// ErrOff means that Options switched something off.
var ErrOff = errors.New("switched off")

// A Tracer counts failed calls from New to Close. It is safe for concurrent use.
type Tracer struct {
	mode     Mode
	objects  objects
	links    []link.Link
	programs []*ebpf.Program

	connectsErr error

	countsMu sync.Mutex
	table    *table

	watchMu sync.Mutex
	netns   []uint32

	readMu sync.Mutex
	ring   *ringbuf.Reader
	record ringbuf.Record

	closeOnce sync.Once
	closeErr  error
	closedMu  sync.RWMutex // held for writing while Close closes maps and programs
	closed    bool
}

// objects are the maps and variables that both modes use.
type objects struct {
	bpfMaps
	bpfVariables
}

// New loads and attaches the programs. It watches the caller's own network namespace and no port.
// Where binds cannot be traced, the error wraps a [*sock.UnavailableError].
func New(opts Options) (*Tracer, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := opts.normalize(); err != nil {
		return nil, err
	}
	return load(opts)
}

// normalize sets defaults and returns an error for values out of range.
func (o *Options) normalize() error {
	if o.RingSize == 0 {
		o.RingSize = defaultRingSize
	}
	if o.MaxCounts == 0 {
		o.MaxCounts = defaultMaxCounts
	}
	switch {
	case o.RingSize < 0 || o.RingSize > maxRingSize:
		return fmt.Errorf("RingSize %d: %w 1 to %d", o.RingSize, errOutOfRange, maxRingSize)
	case o.MaxCounts < 0 || o.MaxCounts > maxMaxCounts:
		return fmt.Errorf("MaxCounts %d: %w 1 to %d", o.MaxCounts, errOutOfRange, maxMaxCounts)
	}
	o.RingSize = 1 << bits.Len(uint(max(o.RingSize, os.Getpagesize())-1))
	return nil
}

// Mode returns how the tracer is attached: ModeFexit or ModeTracepoint.
func (t *Tracer) Mode() Mode { return t.mode }

// ConnectsErr returns why connect is not counted: nil where it is counted, ErrOff with
// Options.NoConnects, otherwise a [*sock.UnavailableError].
func (t *Tracer) ConnectsErr() error { return t.connectsErr }

// SetWatch sets the ports that count by their number. Existing counts stay.
func (t *Tracer) SetWatch(ports []uint16) error {
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	var bitmap [65536 / 64]uint64
	for _, p := range ports {
		bitmap[p/64] |= 1 << (p % 64)
	}
	return t.whileOpen(func() error {
		if err := t.objects.WatchedPorts.Set(bitmap); err != nil {
			return fmt.Errorf("set watched ports: %w", err)
		}
		return nil
	})
}

// SetNamespaces sets the network namespaces, by inode number, that count on their own. It replaces
// the earlier ones. Existing counts stay. More than 4096 are an error.
func (t *Tracer) SetNamespaces(inodes []uint32) error {
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	inodes = slices.Compact(slices.Sorted(slices.Values(inodes)))
	if len(inodes) > maxNamespaces {
		return fmt.Errorf("watch %d network namespaces: %w 0 to %d", len(inodes), errOutOfRange, maxNamespaces)
	}
	return t.whileOpen(func() error { return t.replaceNamespaces(inodes) })
}

// replaceNamespaces adds the new namespaces before it removes old ones, so that one that stays is
// never absent from the map.
func (t *Tracer) replaceNamespaces(inodes []uint32) error {
	before := t.netns
	t.netns = slices.Concat(before, inodes) // until the map has the new ones only
	for _, n := range inodes {
		if err := t.objects.WatchedNetns.Put(n, uint8(1)); err != nil {
			return fmt.Errorf("watch network namespace %d: %w", n, err)
		}
	}
	for _, n := range before {
		if _, stays := slices.BinarySearch(inodes, n); stays {
			continue
		}
		if err := t.objects.WatchedNetns.Delete(n); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("stop watching network namespace %d: %w", n, err)
		}
	}
	t.netns = inodes
	return nil
}

// Counts appends the count of each key with at least one failure to dst. Each key comes once. A
// count never falls.
func (t *Tracer) Counts(dst []Count) ([]Count, error) {
	t.countsMu.Lock()
	defer t.countsMu.Unlock()
	err := t.whileOpen(func() (err error) {
		dst, err = t.table.appendTo(dst)
		return err
	})
	return dst, err
}

// Stats count what the tracer missed since New.
type Stats struct {
	// Lost events: failures that were counted, but had no event since the ring was full.
	Lost uint64
	// Unattributed failures were seen and not counted: the socket was closed when the call
	// returned, or there was no memory to keep the arguments of the call.
	Unattributed uint64
	// Missed runs of a program, for calls that failed and for others: see Exactness in the package
	// documentation. With tracepoints a call has two runs.
	Missed uint64
}

// Stats reads the tracer's own counters.
func (t *Tracer) Stats() (Stats, error) {
	var s Stats
	err := t.whileOpen(func() error {
		err := errors.Join(t.objects.EventsLost.Get(&s.Lost), t.objects.Unattributed.Get(&s.Unattributed))
		if err != nil {
			return fmt.Errorf("read tracer's counters: %w", err)
		}
		for _, p := range t.programs {
			stats, err := p.Stats()
			if err != nil {
				return fmt.Errorf("read statistics of %s: %w", p, err)
			}
			s.Missed += stats.RecursionMisses
		}
		return nil
	})
	return s, err
}

// Read waits for the next event and decodes it into e. It returns os.ErrDeadlineExceeded after the
// deadline, if that is not zero, and os.ErrClosed after Close. Concurrent calls wait for each other.
func (t *Tracer) Read(deadline time.Time, e *Event) error {
	t.readMu.Lock()
	defer t.readMu.Unlock()
	t.ring.SetDeadline(deadline)
	if err := t.ring.ReadInto(&t.record); err != nil {
		return fmt.Errorf("read bind event: %w", err)
	}
	boot, err := bootTime()
	if err != nil {
		return err
	}
	return e.decode(t.record.RawSample, boot)
}

// Close detaches the programs and ends a waiting Read. The memory of mapped maps stays in the kernel
// until the next garbage collection; nothing else does.
func (t *Tracer) Close() error {
	t.closeOnce.Do(func() { t.closeErr = t.close() })
	return t.closeErr
}

func (t *Tracer) close() error {
	var errs []error
	for _, l := range slices.Backward(t.links) {
		errs = append(errs, l.Close())
	}
	if t.ring != nil {
		errs = append(errs, t.ring.Close())
	}
	t.closedMu.Lock()
	defer t.closedMu.Unlock()
	t.closed = true
	for _, p := range t.programs {
		errs = append(errs, p.Close())
	}
	errs = append(errs, t.objects.Close())
	// ebpf.Memory is unmapped by the garbage collector.
	t.objects, t.table = objects{}, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close bind tracer: %w", err)
	}
	return nil
}

// whileOpen runs f unless the tracer is closed.
func (t *Tracer) whileOpen(f func() error) error {
	t.closedMu.RLock()
	defer t.closedMu.RUnlock()
	if t.closed {
		return os.ErrClosed
	}
	return f()
}
