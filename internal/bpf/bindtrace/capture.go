//go:build linux

package bindtrace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"sockstate_exporter/internal/bpf"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/linux"
)

// A Blocker is a socket that was in the way as a call failed.
type Blocker = bhash.Blocker

// MaxBlockers is the most sockets that are captured for a failed call.
const MaxBlockers = bhash.MaxBlockers

// A Capture says whether [Event.Blockers] has all sockets that were in the way.
type Capture = bhash.Capture

// The captures.
const (
	CaptureNone = bhash.CaptureNone
	CaptureSome = bhash.CaptureSome
	CaptureAll  = bhash.CaptureAll
)

// capturing is the end of the names of programs that capture blockers. Without it, they have the
// names of those that do not.
const capturing = "_capture"

// CapturesErr returns why the blockers of failed calls are not captured; nil where they are.
func (t *Tracer) CapturesErr() error { return t.capturesErr }

// loadCollection loads programs that capture blockers, or, where the kernel refuses these, others. A
// kernel before Linux 5.17 has no bpf_loop().
func (t *Tracer) loadCollection(spec *ebpf.CollectionSpec, cache *btf.Cache) (*ebpf.Collection, error) {
	opts := ebpf.CollectionOptions{Cache: cache}
	with, err := t.withCapture(spec.Copy(), cache)
	if err == nil {
		var loaded *ebpf.Collection
		if loaded, err = ebpf.NewCollectionWithOptions(with, opts); err == nil {
			return loaded, nil
		}
	}
	t.capturesErr = err
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return strings.HasSuffix(name, capturing) })
	return ebpf.NewCollectionWithOptions(spec, opts)
}

// withCapture puts the programs that capture blockers in the places of the others.
func (t *Tracer) withCapture(spec *ebpf.CollectionSpec, cache *btf.Cache) (*ebpf.CollectionSpec, error) {
	if t.noCapture {
		return nil, ErrOff
	}
	kernel, err := cache.Kernel()
	if err != nil {
		return nil, err
	}
	if t.tick, err = linux.Tick(); err != nil {
		return nil, err
	}
	if err := spec.Variables[bpfVarTimeWaitShift].Set(uint32(linux.TimeWaitShift(linux.HZ(t.tick)))); err != nil {
		return nil, fmt.Errorf("set %s: %w", bpfVarTimeWaitShift, err)
	}
	if bpf.OrphansAreRoots(kernel) {
		if err := spec.Variables[bpfVarOrphansAreRoots].Set(uint32(1)); err != nil {
			return nil, fmt.Errorf("set %s: %w", bpfVarOrphansAreRoots, err)
		}
	}
	for name, program := range maps.Clone(spec.Programs) {
		if plain, ok := strings.CutSuffix(name, capturing); ok {
			delete(spec.Programs, name)
			spec.Programs[plain] = program
		}
	}
	return spec, nil
}

// decodeBlockers decodes what follows an event in its record.
func (e *Event) decodeBlockers(flags uint8, record []byte, tick time.Duration) error {
	if len(record)%bhash.BlockerSize != 0 || len(record) > bhash.MaxBlockers*bhash.BlockerSize {
		return fmt.Errorf("decode blockers: %w: %d bytes", errEventSize, len(record))
	}
	for b := range slices.Chunk(record, bhash.BlockerSize) {
		e.Blockers = append(e.Blockers, bhash.DecodeBlocker(b, tick))
	}
	switch {
	case flags&flagCapturedAll != 0:
		e.Captured = CaptureAll
	case flags&flagCaptured != 0:
		e.Captured = CaptureSome
	}
	return nil
}
