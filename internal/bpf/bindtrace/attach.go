//go:build linux

package bindtrace

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Mode is a way to see system calls return.
type Mode uint8

// The modes. ModeAuto takes fexit, and where that is refused tracepoints.
const (
	ModeAuto Mode = iota
	ModeFexit
	ModeTracepoint
)

func (m Mode) String() string {
	switch m {
	case ModeFexit:
		return "fexit"
	case ModeTracepoint:
		return "tracepoint"
	default:
		return "auto"
	}
}

// load attaches in the mode asked for, or the first that works.
func load(opts Options) (*Tracer, error) {
	cache := btf.NewCache()
	if _, err := cache.Kernel(); err != nil {
		return nil, &UnavailableError{ReasonNoBTF, fmt.Errorf("read the kernel's BTF: %w", err)}
	}
	if opts.Mode != ModeAuto {
		return attach(opts, opts.Mode, cache)
	}
	t, fexitErr := attach(opts, ModeFexit, cache)
	if fexitErr == nil {
		return t, nil
	}
	if reason := unavailable(fexitErr).Reason; reason == ReasonNoCapBPF || reason == ReasonNoCapPerfmon {
		return nil, fexitErr
	}
	opts.Logger.Debug("fexit refused, trying tracepoints", "err", fexitErr)
	t, err := attach(opts, ModeTracepoint, cache)
	if err == nil {
		return t, nil
	}
	return nil, &UnavailableError{unavailable(err).Reason, errors.Join(unavailable(err).Err, unavailable(fexitErr).Err)}
}

// attach loads the programs of one mode, attaches them, and proves them.
func attach(opts Options, mode Mode, cache *btf.Cache) (_ *Tracer, err error) {
	t := &Tracer{mode: mode}
	defer func() {
		if err != nil {
			err = unavailable(errors.Join(fmt.Errorf("attach by %s: %w", mode, err), t.Close()))
		}
	}()

	spec, err := loadBpf()
	if err != nil {
		return nil, err
	}
	spec.Maps[bpfMapEvents].MaxEntries = uint32(opts.RingSize)
	spec.Maps[bpfMapSlots].MaxEntries = uint32(fixedSlots + opts.MaxCounts)
	spec.Maps[bpfMapSlotIndex].MaxEntries = uint32(opts.MaxCounts)
	spec.Maps[bpfMapFreeSlots].MaxEntries = uint32(opts.MaxCounts)
	spec.Maps[bpfMapWatchedNetns].MaxEntries = 2 * maxNamespaces
	probe, err := newProbe()
	if err != nil {
		return nil, err
	}
	if err := setConstants(spec, probe); err != nil {
		return nil, err
	}

	load := &ebpf.CollectionOptions{Cache: cache}
	switch mode {
	case ModeFexit:
		err = t.attachFexit(spec, load)
	default:
		err = t.attachTracepoints(spec, load)
	}
	if err != nil {
		return nil, err
	}
	if err := t.proven(probe); err != nil {
		return nil, err
	}
	return t, nil
}

// setConstants tells the programs what only the loader knows.
func setConstants(spec *ebpf.CollectionSpec, p *probe) error {
	var classes [512]uint8
	for class, errno := range errnoClasses() {
		if errno != 0 {
			classes[errno] = uint8(class)
		}
	}
	for name, value := range map[string]any{
		bpfVarErrnoClass:        classes,
		bpfVarErrnoEbadf:        uint32(unix.EBADF),
		bpfVarErrnoEnotsock:     uint32(unix.ENOTSOCK),
		bpfVarErrnoEaddrinuse:   uint32(unix.EADDRINUSE),
		bpfVarErrnoEafnosupport: uint32(unix.EAFNOSUPPORT),
		bpfVarProbeAddr:         p.addr,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func (t *Tracer) attachFexit(spec *ebpf.CollectionSpec, load *ebpf.CollectionOptions) error {
	var o struct {
		objects
		Bind   *ebpf.Program `ebpf:"fexit_bind"`
		Listen *ebpf.Program `ebpf:"fexit_listen"`
	}
	if err := spec.LoadAndAssign(&o, load); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	t.objects, t.programs = o.objects, []*ebpf.Program{o.Bind, o.Listen}
	if err := t.prepare(); err != nil {
		return err
	}
	for _, p := range t.programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return fmt.Errorf("attach %s: %w", p, err)
		}
		t.links = append(t.links, l)
	}
	return nil
}

func (t *Tracer) attachTracepoints(spec *ebpf.CollectionSpec, load *ebpf.CollectionOptions) error {
	var o struct {
		objects
		EnterBind   *ebpf.Program `ebpf:"enter_bind"`
		ExitBind    *ebpf.Program `ebpf:"exit_bind"`
		EnterListen *ebpf.Program `ebpf:"enter_listen"`
		ExitListen  *ebpf.Program `ebpf:"exit_listen"`
	}
	if err := spec.LoadAndAssign(&o, load); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	t.objects = o.objects
	t.programs = []*ebpf.Program{o.EnterBind, o.ExitBind, o.EnterListen, o.ExitListen}
	if err := t.prepare(); err != nil {
		return err
	}
	if err := findTracefs(); err != nil {
		return err
	}
	// Exits first, and detached last: no entry may stay without its exit.
	for _, at := range []struct {
		name    string
		program *ebpf.Program
	}{
		{"sys_exit_bind", o.ExitBind},
		{"sys_exit_listen", o.ExitListen},
		{"sys_enter_bind", o.EnterBind},
		{"sys_enter_listen", o.EnterListen},
	} {
		l, err := link.Tracepoint("syscalls", at.name, at.program, nil)
		if err != nil {
			return fmt.Errorf("attach to tracepoint syscalls/%s: %w", at.name, err)
		}
		t.links = append(t.links, l)
	}
	return nil
}

// prepare readies maps and readers before the first call can be seen.
func (t *Tracer) prepare() error {
	own, err := ownNamespace()
	if err != nil {
		return err
	}
	if err := t.replaceNamespaces([]uint32{own}); err != nil {
		return err
	}
	for slot := range t.objects.FreeSlots.MaxEntries() {
		if err := t.objects.FreeSlots.Put(nil, uint32(fixedSlots)+slot); err != nil {
			return fmt.Errorf("list free slots: %w", err)
		}
	}
	if t.table, err = newTable(t.objects.Slots); err != nil {
		return err
	}
	if t.ring, err = ringbuf.NewReader(t.objects.Events); err != nil {
		return fmt.Errorf("open ring: %w", err)
	}
	return nil
}
