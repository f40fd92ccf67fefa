//go:build linux

package bindtrace

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/ring"
	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// The names in errors.
const (
	bindTracing    = "bind tracing"
	connectTracing = "connect tracing"
)

// Mode is a way to see the result of system calls.
type Mode uint8

// The modes. ModeAuto uses the first of the others that works. Tracepoints are last, since with them
// each system call of the host takes longer.
const (
	ModeAuto Mode = iota
	ModeFexit
	ModeKprobe
	ModeTracepoint
)

func (m Mode) String() string {
	switch m {
	case ModeFexit:
		return "fexit"
	case ModeKprobe:
		return "kprobe"
	case ModeTracepoint:
		return "tracepoint"
	default:
		return "auto"
	}
}

// load attaches in the mode of opts, or in the first one that works.
func load(opts Options) (*Tracer, error) {
	cache := cmp.Or(opts.Types, btf.NewCache())
	if _, err := cache.Kernel(); err != nil {
		return nil, &sock.UnavailableError{
			Feature: bindTracing, Reason: sock.ReasonNoBTF, Need: "a kernel built with CONFIG_DEBUG_INFO_BTF",
			Err: fmt.Errorf("read the kernel's BTF: %w", err),
		}
	}
	spec, err := loadBpf()
	if err != nil {
		return nil, err
	}
	if opts.Mode != ModeAuto {
		return attach(opts, opts.Mode, spec, cache)
	}
	var refused error
	for _, mode := range []Mode{ModeFexit, ModeKprobe, ModeTracepoint} {
		t, err := attach(opts, mode, spec, cache)
		if err == nil {
			return t, nil
		}
		// The reason of the last mode comes first.
		if refused == nil {
			refused = err
		} else {
			refused = fmt.Errorf("%w; %w", err, refused)
		}
		var lacks *sock.UnavailableError
		if errors.As(err, &lacks) && (lacks.Reason == sock.ReasonCapBPF || lacks.Reason == sock.ReasonCapPerfmon) {
			break // the other modes need these, too
		}
		opts.Logger.Debug("cannot trace in this mode", "mode", mode, "err", err)
	}
	return nil, refused
}

// attach attaches in one mode. Where connect cannot be traced, it traces bind and listen only.
func attach(opts Options, mode Mode, spec *ebpf.CollectionSpec, cache *btf.Cache) (*Tracer, error) {
	connectsErr := ErrOff
	if !opts.NoConnects {
		var t *Tracer
		if t, connectsErr = attachCalls(opts, mode, spec.Copy(), cache, true); connectsErr == nil {
			return t, nil
		}
	}
	t, err := attachCalls(opts, mode, spec.Copy(), cache, false)
	if err != nil {
		return nil, err
	}
	t.connectsErr = connectsErr
	return t, nil
}

// attachCalls loads the programs of one mode, attaches them, and tests them. It changes spec.
func attachCalls(opts Options, mode Mode, spec *ebpf.CollectionSpec, cache *btf.Cache, connects bool) (_ *Tracer, err error) {
	t := &Tracer{mode: mode, noCapture: opts.noCapture}
	feature := bindTracing
	if connects {
		feature = connectTracing
	}
	defer func() {
		if err != nil {
			err = unavailable(feature, mode, errors.Join(err, t.Close()))
		}
	}()

	if mode == ModeKprobe {
		if err := findKprobes(); err != nil {
			return nil, err
		}
	}
	spec.Maps[bpfMapEvents].MaxEntries = uint32(opts.RingSize)
	spec.Maps[bpfMapSlots].MaxEntries = uint32(roundSlots(opts.MaxSlots, chunkSlots))
	spec.Maps[bpfMapUnixSlots].MaxEntries = uint32(roundSlots(opts.MaxSlots, unixSlots))
	spec.Maps[bpfMapUnixEvents].MaxEntries = uint32(unixRingSize(opts.RingSize))
	probe, err := newProbe()
	if err != nil {
		return nil, err
	}
	factor := binary.NativeEndian.Uint64(probe.addr[:]) | 1
	if err := setConstants(spec, probe, opts.RingSize, factor); err != nil {
		return nil, err
	}

	programs := attachments(mode, connects)
	if err := t.load(spec, cache, programs); err != nil {
		return nil, err
	}
	if err := t.prepare(&opts, factor); err != nil {
		return nil, err
	}
	if err := t.attach(programs); err != nil {
		return nil, err
	}
	if err := t.test(probe, connects); err != nil {
		return nil, err
	}
	return t, nil
}

// setConstants sets the constants of the programs that only the loader knows.
func setConstants(spec *ebpf.CollectionSpec, p *probe, ringSize int, factor uint64) error {
	var classes [512]uint8
	for class, errno := range slots.ErrnoClasses() {
		if errno != 0 {
			classes[errno] = uint8(class)
		}
	}
	var unixClasses [512]uint8
	for class, errno := range slots.UnixErrnoClasses() {
		if errno != 0 {
			unixClasses[errno] = uint8(class)
		}
	}
	for name, value := range map[string]any{
		bpfVarErrnoClass:         classes,
		bpfVarUnixErrnoClass:     unixClasses,
		bpfVarUnixRingSize:       uint64(unixRingSize(ringSize)),
		bpfVarErrnoEbadf:         uint32(unix.EBADF),
		bpfVarErrnoEnotsock:      uint32(unix.ENOTSOCK),
		bpfVarErrnoEaddrinuse:    uint32(unix.EADDRINUSE),
		bpfVarErrnoEaddrnotavail: uint32(unix.EADDRNOTAVAIL),
		bpfVarErrnoEacces:        uint32(unix.EACCES),
		bpfVarErrnoEagain:        uint32(unix.EAGAIN),
		bpfVarErrnoEafnosupport:  uint32(unix.EAFNOSUPPORT),
		bpfVarProbeAddr:          p.addr,
		bpfVarRingSize:           uint64(ringSize),
		bpfVarIndexFactor:        factor,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// An attachment is a program with its tracepoint, or with the function at whose return a kprobe
// runs it. A fexit program has neither: its section names the function.
type attachment struct {
	program, tracepoint, function string
	optional                      bool // the kernel may lack the function
}

// attachments returns the attachments in the order of attaching. Exits are attached first and
// detached last, so that each entry has its exit.
func attachments(mode Mode, connects bool) []attachment {
	if mode == ModeKprobe {
		return kretprobes(connects)
	}
	all := []attachment{
		{program: bpfProgExitBind, tracepoint: "sys_exit_bind"},
		{program: bpfProgExitListen, tracepoint: "sys_exit_listen"},
		{program: bpfProgEnterBind, tracepoint: "sys_enter_bind"},
		{program: bpfProgEnterListen, tracepoint: "sys_enter_listen"},
	}
	connect := attachment{program: bpfProgExitConnect, tracepoint: "sys_exit_connect"}
	if mode == ModeFexit {
		all = []attachment{{program: bpfProgFexitBind}, {program: bpfProgFexitListen}}
		connect = attachment{program: bpfProgFexitConnect}
	}
	if connects {
		all = append(all, connect)
	}
	return all
}

// load loads only the programs to attach: the kernel may refuse those of the other modes.
func (t *Tracer) load(spec *ebpf.CollectionSpec, cache *btf.Cache, attach []attachment) error {
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return !slices.ContainsFunc(attach, func(a attachment) bool { return a.program == strings.TrimSuffix(name, capturing) })
	})
	loaded, err := t.loadCollection(spec, cache)
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer loaded.Close()
	if err := loaded.Assign(&t.objects); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	for _, a := range attach {
		t.programs = append(t.programs, loaded.DetachProgram(a.program))
	}
	return nil
}

// attach attaches the loaded programs.
func (t *Tracer) attach(attach []attachment) error {
	if t.mode == ModeTracepoint {
		if err := findTracefs(); err != nil {
			return err
		}
	}
	for i, a := range attach {
		l, err := a.attach(t.programs[i])
		if err != nil {
			return err
		}
		if l != nil {
			t.links = append(t.links, l)
		}
	}
	return nil
}

func (a attachment) attach(p *ebpf.Program) (link.Link, error) {
	if a.function != "" {
		return a.attachKretprobe(p)
	}
	if a.tracepoint == "" {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", p, err)
		}
		return l, nil
	}
	l, err := link.Tracepoint("syscalls", a.tracepoint, p, nil)
	if err != nil {
		return nil, fmt.Errorf("attach to tracepoint syscalls/%s: %w", a.tracepoint, err)
	}
	return l, nil
}

// prepare fills the maps and opens the readers before the programs see the first call.
func (t *Tracer) prepare(opts *Options, factor uint64) error {
	_, own, err := linux.OwnNetNS()
	if err != nil {
		return err
	}
	t.memory = &slotMemory{slots: t.objects.Slots, unix: t.objects.UnixSlots}
	if t.slots, err = slots.New(t.memory, opts.MaxSlots, opts.maxDetails, factor); err != nil {
		return err
	}
	if err := t.SetWatch([]uint32{uint32(own)}, nil); err != nil {
		return err
	}
	if t.ring, err = ring.New(t.objects.Events); err != nil {
		return fmt.Errorf("open ring: %w", err)
	}
	if t.unix.ring, err = ring.New(t.objects.UnixEvents); err != nil {
		return fmt.Errorf("open ring: %w", err)
	}
	return nil
}
