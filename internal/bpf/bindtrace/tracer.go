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

	"sockstate_exporter/internal/bpf/bindtrace/ring"
	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/linux"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// Options configure a Tracer. The zero value is ready for use.
type Options struct {
	Logger   *slog.Logger // for debug messages only; nil: none
	Types    *btf.Cache   // the kernel's; nil: they are read
	Mode     Mode         // how to attach; 0: ModeAuto
	RingSize int          // bytes for events, rounded up to a power of two; 0: 1 MiB

	// MaxSlots is how many ports can be watched: each port of each namespace is one, and each
	// namespace is two more. The kernel allocates 1.5 KiB for each. 0: 2304. At most MaxSlots, the
	// constant.
	MaxSlots int

	// NoConnects switches off the tracing of connect(2).
	NoConnects bool

	maxDetails int  // 0: slots.DefaultMaxDetails
	noCapture  bool // as on a kernel without bpf_loop()
}

// MaxSlots is the most that Options can ask for. The index of the programs is a quarter full then.
const MaxSlots = slots.Max

const (
	defaultRingSize = 1 << 20
	maxRingSize     = 1 << 30
	defaultMaxSlots = 2304
)

// A Port is a port of a network namespace.
type Port = slots.Port

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

	noCapture   bool
	capturesErr error
	tick        time.Duration // of the kernel's timers

	watchMu sync.Mutex // also for reading counts
	memory  *slotMemory
	slots   *slots.Table

	readMu sync.Mutex
	ring   *ring.Ring
	record ringbuf.Record

	unix unixReader

	closeOnce sync.Once
	closeErr  error
	closedMu  sync.RWMutex // held for writing while Close closes maps and programs
	closed    bool
}

// objects are the maps and variables that all modes use.
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
	t, err := load(opts)
	if err == nil && t.capturesErr != nil {
		opts.Logger.Debug("sockets in the way of failed binds are not captured", "err", t.capturesErr)
	}
	return t, err
}

// normalize sets defaults and returns an error for values out of range.
func (o *Options) normalize() error {
	if o.RingSize == 0 {
		o.RingSize = defaultRingSize
	}
	if o.MaxSlots == 0 {
		o.MaxSlots = defaultMaxSlots
	}
	if o.maxDetails == 0 {
		o.maxDetails = slots.DefaultMaxDetails
	}
	switch {
	case o.RingSize < 0 || o.RingSize > maxRingSize:
		return fmt.Errorf("RingSize %d: %w 1 to %d", o.RingSize, errOutOfRange, maxRingSize)
	case o.MaxSlots < 0 || o.MaxSlots > MaxSlots:
		return fmt.Errorf("MaxSlots %d: %w 1 to %d", o.MaxSlots, errOutOfRange, MaxSlots)
	}
	o.RingSize = 1 << bits.Len(uint(max(o.RingSize, os.Getpagesize())-1))
	return nil
}

// Mode returns how the tracer is attached, never ModeAuto.
func (t *Tracer) Mode() Mode { return t.mode }

// ConnectsErr returns why connect is not counted: nil where it is counted, ErrOff with
// Options.NoConnects, otherwise a [*sock.UnavailableError].
func (t *Tracer) ConnectsErr() error { return t.connectsErr }

// SetWatch sets the network namespaces, by inode number, that count on their own, and the ports of
// them that count by number. It replaces the earlier ones. Where there are more than
// Options.MaxSlots, those that were there before stay, and of the others the first namespaces come in,
// each with its ports: see [Stats.SlotsLacking]. Counts of what is not watched any more move to the other ports of their
// namespace, or of namespace 0.
func (t *Tracer) SetWatch(namespaces []uint32, ports []Port) error {
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	return t.whileOpen(func() error { return t.assign(slots.PlacesOf(namespaces, ports)) })
}

// assign also tells the programs. They only read memory: a bpf(2) command would need privileges.
func (t *Tracer) assign(places []slots.Place) error {
	err := t.slots.Assign(places)
	if !t.slots.Index.Changed {
		return err
	}
	if setErr := t.objects.SlotIndex.Set(t.slots.Index.Words[:]); setErr != nil {
		return errors.Join(err, fmt.Errorf("set watched ports: %w", setErr))
	}
	t.slots.Index.Changed = false
	return err
}

// Counts appends the count of each key with at least one failure to dst. Each key comes once. The
// count of a key does not fall while its port is watched, and those of OtherPort never do.
func (t *Tracer) Counts(dst []Count) ([]Count, error) {
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	err := t.whileOpen(func() error {
		dst = t.slots.AppendTo(dst, false)
		return nil
	})
	return dst, err
}

// Stats are about the tracer itself. The counters count since New.
type Stats struct {
	// Lost events: failures that were counted, but had no event. The ring was full, or the user
	// had more events than a user may have.
	Lost uint64
	// VSOCK is the number of failed bind calls of vsock sockets, in all network namespaces.
	VSOCK uint64

	// Unattributed failures were seen and not counted: the socket was closed when the call
	// returned, or there was no memory to keep the arguments of the call.
	Unattributed uint64
	// Missed runs of a program, for calls that failed and for others: see Exactness in the package
	// documentation. With tracepoints a call has two runs.
	Missed uint64

	SlotsUsed, SlotsLimit int // Options.MaxSlots is the limit
	// SlotsLacking are watched ports without a slot. Their failures count under OtherPort.
	SlotsLacking int
}

// Stats reads the tracer's own counters.
func (t *Tracer) Stats() (Stats, error) {
	var s Stats
	t.watchMu.Lock()
	defer t.watchMu.Unlock()
	err := t.whileOpen(func() error {
		err := errors.Join(t.objects.EventsLost.Get(&s.Lost), t.objects.Unattributed.Get(&s.Unattributed), t.objects.VsockBinds.Get(&s.VSOCK))
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
		if t.mode == ModeKprobe {
			for _, l := range t.links {
				s.Missed += missedReturns(l)
			}
		}
		s.SlotsUsed, s.SlotsLimit, s.SlotsLacking = t.slots.Used(), t.slots.Limit, t.slots.Lacking
		return nil
	})
	return s, err
}

// Read waits for the next event and decodes it into e. It returns os.ErrDeadlineExceeded after the
// deadline, if that is not zero, and os.ErrClosed after Close. Concurrent calls wait for each other.
func (t *Tracer) Read(deadline time.Time, e *Event) error {
	t.readMu.Lock()
	defer t.readMu.Unlock()
	if err := t.ring.Read(deadline, &t.record); err != nil {
		return fmt.Errorf("read bind event: %w", err)
	}
	boot, err := linux.BootTime()
	if err != nil {
		return err
	}
	return e.decode(t.record.RawSample, boot, t.tick)
}

// Close detaches the programs and ends a waiting Read. The memory of variables stays in the kernel
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
	if t.unix.ring != nil {
		errs = append(errs, t.unix.ring.Close())
	}
	t.closedMu.Lock()
	defer t.closedMu.Unlock()
	t.closed = true
	for _, p := range t.programs {
		errs = append(errs, p.Close())
	}
	if t.memory != nil {
		errs = append(errs, t.memory.close())
	}
	errs = append(errs, t.objects.Close())
	// ebpf.Memory is unmapped by the garbage collector.
	t.objects, t.memory, t.slots = objects{}, nil, nil
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
