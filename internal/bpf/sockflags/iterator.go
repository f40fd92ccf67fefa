package sockflags

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/loaderr"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

//go:generate go tool bpf2go -cc clang-14 -target bpfel,bpfeb sockflags sockflags.c -- -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable

// The FLAG_ constants of sockflags.c.
const (
	flagReuse     = 1 << 0
	flagReusePort = 1 << 1
	flagV6Only    = 1 << 2
	flagElsewhere = 1 << 3
	flagNamedPort = 1 << 4
)

const (
	// seqBufSize is the buffer of bpf_seq_read in kernel/bpf/bpf_iter.c. One read returns no more.
	seqBufSize = 8 * 4096
	// listenerSize is the size of struct listener in sockflags.c.
	listenerSize = 16
	// batchSize is more than the entries of one bucket in a kernel hash map, which a batch must hold.
	batchSize = 1024
)

// An iterator reads flags by iter/tcp. The program runs only during read(2) of the descriptor that
// walk reads, so it writes to the maps only during a walk.
type iterator struct {
	objs struct {
		sockflagsPrograms
		sockflagsMaps
		Config  *ebpf.Map `ebpf:".data.config"`
		Results *ebpf.Map `ebpf:".data.results"`
	}
	link *link.Iter

	groupsMax uint32
	tick      time.Duration
	expected  []sockflagsExpectedKey // in objs.Expected, sorted
	ports     []uint32               // watched in the last walk, which changed only these keys of objs.Ports
	dirty     bool                   // the maps may have entries of an earlier walk

	buf    []byte
	keys   []sockflagsGroupKey
	values []sockflagsGroup

	bucketKeys []sockflagsBucketKey
	buckets    []sockflagsBucket
}

func newIterator(opts Options) (*iterator, error) {
	it := &iterator{
		groupsMax: uint32(opts.MaxGroups),
		buf:       make([]byte, seqBufSize),
		keys:      make([]sockflagsGroupKey, batchSize),
		values:    make([]sockflagsGroup, batchSize),

		bucketKeys: make([]sockflagsBucketKey, batchSize),
		buckets:    make([]sockflagsBucket, batchSize),
	}
	if err := it.load(opts); err != nil {
		_ = it.close()
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			opts.Logger.Debug("eBPF program refused", "program", sockflagsProgSockflags, "log", verifier.Log)
		}
		return nil, loaderr.Explain(sock.UnavailableError{
			Feature: feature, Mode: string(ModeBPF),
			Reason: sock.ReasonNoIterator, Need: "eBPF iterators over TCP sockets, Linux 5.12 and later",
		}, err)
	}
	return it, nil
}

func (it *iterator) load(opts Options) error {
	var err error
	if it.tick, err = linux.Tick(); err != nil {
		return err
	}
	spec, err := loadSockflags()
	if err != nil {
		return err
	}
	spec.Maps[sockflagsMapGroups].MaxEntries = uint32(opts.MaxGroups)
	spec.Maps[sockflagsMapBuckets].MaxEntries = uint32(opts.MaxGroups)
	spec.Maps[sockflagsMapExpected].MaxEntries = maxExpected
	if err := spec.LoadAndAssign(&it.objs, &ebpf.CollectionOptions{Cache: opts.Types}); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if it.link, err = link.AttachIter(link.IterOptions{Program: it.objs.Sockflags}); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

func (it *iterator) shortfalls() []*sock.UnavailableError { return nil }

func (it *iterator) close() error {
	errs := []error{it.objs.sockflagsPrograms.Close(), it.objs.sockflagsMaps.Close(),
		it.objs.Config.Close(), it.objs.Results.Close()}
	if it.link != nil {
		errs = append(errs, it.link.Close())
	}
	return errors.Join(errs...)
}

func (it *iterator) read(ctx context.Context, req Request) (*Result, error) {
	result, err := it.readOnce(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("read reuse flags: %w", err)
	}
	return result, nil
}

func (it *iterator) readOnce(ctx context.Context, req Request) (*Result, error) {
	if err := it.reset(); err != nil {
		return nil, err
	}
	// Half of the map is for groups as they come, and each port has a share of the rest.
	config := sockflagsConfig{
		SharedMax: it.groupsMax / 2,
		OwnMax:    max(1, it.groupsMax/2/uint32(max(1, len(req.Ports)))),
	}
	var unexpected map[uint16]bool
	if !req.ListenersOnly {
		var err error
		if unexpected, err = it.expect(req.Expected); err != nil {
			return nil, err
		}
	}
	it.ports = it.ports[:0]
	if req.ListenersOnly {
		config.ListenersOnly = 1
	}
	for _, p := range req.Ports {
		config.Watched[p/64] |= 1 << (p % 64)
		it.ports = append(it.ports, uint32(p))
	}
	if err := it.objs.Config.Put(uint32(0), &config); err != nil {
		return nil, fmt.Errorf("set watched ports: %w", err)
	}

	file, err := it.open(req.NetNS)
	if err != nil {
		return nil, err
	}
	defer file.Close()

	it.dirty = true
	release := it.stopWith(ctx, config)
	result := &Result{Listeners: make(map[uint64]Flags), NamedPort: make(map[uint64]bool)}
	err = it.walk(ctx, file, result, req)
	release()
	if err != nil || req.ListenersOnly {
		return result, err
	}
	return result, it.collect(result, unexpected)
}

// reset clears what an earlier Read left in the maps, for example one whose context ended.
func (it *iterator) reset() error {
	if !it.dirty {
		return nil
	}
	if err := it.drain(nil); err != nil {
		return err
	}
	if err := it.drainBuckets(nil); err != nil {
		return err
	}
	if err := it.objs.Results.Put(uint32(0), new(sockflagsResults)); err != nil {
		return fmt.Errorf("clear results: %w", err)
	}
	if len(it.ports) > 0 {
		_, err := it.objs.Ports.BatchUpdate(it.ports, make([]sockflagsPort, len(it.ports)), nil)
		if err != nil {
			return fmt.Errorf("clear counts per port: %w", err)
		}
	}
	it.dirty = false
	return nil
}

// open starts an iterator. It walks the network namespace of the thread that opens it.
func (it *iterator) open(netns int) (io.ReadCloser, error) {
	if netns == 0 {
		return it.link.Open()
	}
	var file io.ReadCloser
	err := linux.RunInNetNS(netns, func() (err error) {
		file, err = it.link.Open()
		return err
	})
	if errors.Is(err, linux.ErrNeedsSysAdmin) && !linux.HasCap(unix.CAP_SYS_ADMIN) {
		err = &sock.UnavailableError{Feature: feature, Mode: string(ModeBPF), Reason: sock.ReasonCapSysAdmin,
			Need: "CAP_SYS_ADMIN to enter another network namespace", Err: err}
	}
	return file, err
}

// stopWith makes the program end its walk when ctx ends. A walk can take half a second. The caller
// calls the returned function before it uses the maps again.
func (it *iterator) stopWith(ctx context.Context, config sockflagsConfig) func() {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		config.Stop = 1
		_ = it.objs.Config.Put(uint32(0), &config) // where that fails, the walk ends later
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// walk reads the iterator to its end, or to the end of the listeners.
func (it *iterator) walk(ctx context.Context, file io.Reader, result *Result, req Request) error {
	// Any user may have as many listeners as they like on a port.
	wanted := make(map[uint64]struct{}, len(req.Listeners))
	for _, id := range req.Listeners {
		wanted[id.Cookie] = struct{}{}
	}
	for {
		n, err := file.Read(it.buf)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case errors.Is(err, io.EOF), req.ListenersOnly && errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EAGAIN):
			// After MAX_ITER_OBJECTS, a million sockets without output, read must be called again.
			continue
		case err != nil:
			return fmt.Errorf("walk tcp sockets: %w", err)
		case n%listenerSize != 0:
			return fmt.Errorf("walk tcp sockets: %d bytes, records have %d", n, listenerSize)
		}
		for b := it.buf[:n]; len(b) > 0; b = b[listenerSize:] {
			cookie, flags := binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
			if _, ok := wanted[cookie]; ok || len(wanted) == 0 {
				result.Listeners[cookie] = newFlags(uint8(flags))
				if flags&flagNamedPort != 0 {
					result.NamedPort[cookie] = true
				}
			}
		}
	}
}

// collect reads the groups of the walk, and counts of the sockets that are in none. Folded groups of
// ports whose binds are not expected say nothing of these binds.
func (it *iterator) collect(result *Result, unexpected map[uint16]bool) error {
	var end sockflagsResults
	if err := it.objs.Results.Lookup(uint32(0), &end); err != nil {
		return fmt.Errorf("look up results: %w", err)
	}
	if end.End == 0 {
		return errors.New("walk tcp sockets: ended early")
	}
	if end.Missed > 0 {
		result.Missed = make(map[uint16]uint64)
		for _, number := range it.ports {
			var p sockflagsPort
			if err := it.objs.Ports.Lookup(number, &p); err != nil {
				return fmt.Errorf("look up missed sockets: %w", err)
			}
			if p.Missed > 0 {
				result.Missed[uint16(number)] = uint64(p.Missed)
			}
		}
	}
	result.Buckets = make(map[uint16]Bucket)
	err := it.drainBuckets(func(k *sockflagsBucketKey, b *sockflagsBucket) {
		result.Buckets[uint16(k.Port)] = newBucket(b)
	})
	if err != nil {
		return err
	}
	return it.drain(func(k *sockflagsGroupKey, v *sockflagsGroup) {
		if unexpected[k.Port] && isFolded(k) {
			if result.Missed == nil {
				result.Missed = make(map[uint16]uint64)
			}
			result.Missed[k.Port] += v.Count
			return
		}
		result.Groups = append(result.Groups, newGroup(k, v, end.End, it.tick))
	})
}

// drain empties the map of groups and calls each, if that is not nil, for each group.
func (it *iterator) drain(each func(*sockflagsGroupKey, *sockflagsGroup)) error {
	if err := drainMap(it.objs.Groups, it.keys, it.values, each); err != nil {
		return fmt.Errorf("take groups: %w", err)
	}
	return nil
}

func (it *iterator) drainBuckets(each func(*sockflagsBucketKey, *sockflagsBucket)) error {
	if err := drainMap(it.objs.Buckets, it.bucketKeys, it.buckets, each); err != nil {
		return fmt.Errorf("take buckets: %w", err)
	}
	return nil
}

// drainMap empties a map. The last batch of a hash map comes with ErrKeyNotExist and still has
// entries.
func drainMap[K, V any](m *ebpf.Map, keys []K, values []V, each func(*K, *V)) error {
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range n {
			if each != nil {
				each(&keys[i], &values[i])
			}
		}
		if last {
			return nil
		}
	}
}
