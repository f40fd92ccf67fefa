package sockwalk

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// Bounds of sockwalk.c, and the sizes and offsets of its structs.
const (
	maxGroups = 8192
	groupSize = 72

	offsetEnd   = maxGroups * groupSize // of what follows the groups in struct results
	endSize     = 56
	offsetCount = 16 // of the following, from offsetEnd

	namespaceSize   = 32
	offsetNetIndex  = MaxNamespaces * namespaceSize
	netIndexEntries = 1 << 13

	portWords = 1 << 16 / 64
)

// programs are the eBPF programs and what they share with the loader.
type programs struct {
	objs struct {
		sockwalkPrograms
		sockwalkMaps
		Globals *ebpf.Map `ebpf:".bss"`
	}
	// Variables of the programs, in Globals.
	memory                                   memory
	settings, namespaces, headPorts, results variable

	tick  time.Duration
	steps uint32
	roots uint32 // orphans_are_roots
	home  uint64 // address of the table that the process's own namespace has

	// What the maps have, sorted by key.
	cookies []entry[uint64, uint32]
	ports   []entry[portKey, uint8]
	config  config

	buf []byte
}

// portKey is struct port_key.
type portKey struct{ Port, Namespace uint16 }

// config is struct config.
type config struct {
	Local, Remote [portWords]uint64
	Steps, Roots  uint32
	Bound, Pad    uint32
}

// The bits of enum port.
const (
	portWatched = 1 << iota
	portServes
)

func load(opts Options, types func() (*btf.Spec, error)) (*programs, error) {
	p := &programs{steps: opts.Steps}
	if err := p.load(types); err != nil {
		_ = p.close()
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			opts.Logger.Debug("eBPF program refused", "feature", feature, "log", fmt.Sprintf("%+v", verifier))
		}
		return nil, err
	}
	return p, nil
}

func (p *programs) load(types func() (*btf.Spec, error)) error {
	var err error
	if p.tick, err = linux.Tick(); err != nil {
		return err
	}
	kernel, err := types()
	if err != nil {
		return fmt.Errorf("read kernel BTF: %w", err)
	}
	if bpf.OrphansAreRoots(kernel) {
		p.roots = 1
	}
	spec, err := loadSockwalk()
	if err != nil {
		return err
	}
	offsets := bpf.MapZeros(spec)
	opts := ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: kernel}}
	if err := spec.LoadAndAssign(&p.objs, &opts); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	p.memory.globals = p.objs.Globals
	for name, v := range map[string]*variable{sockwalkVarCfg: &p.settings, sockwalkVarNss: &p.namespaces, sockwalkVarHds: &p.headPorts, sockwalkVarRes: &p.results} {
		*v = variable{&p.memory, offsets[name]}
	}
	return nil
}

func (p *programs) close() error {
	return errors.Join(p.memory.unmap(), p.objs.sockwalkPrograms.Close(), p.objs.sockwalkMaps.Close(),
		p.objs.Globals.Close())
}

// maxOwnTable bounds the table of one namespace of several. It is walked in a quarter of a millisecond, the
// largest that there can be in sixty.
const maxOwnTable = 1 << 16

// A table is one that namespaces have their connections in.
type table struct {
	address uint64
	mask    uint32
	of      []int // namespaces
}

func (p *programs) walk(ctx context.Context, req *Request, visit func(*Group)) (_ *Result, err error) {
	defer func() { err = errors.Join(err, p.memory.unmap()) }()
	if err := p.prepare(req); err != nil {
		return nil, err
	}
	if err := p.find(req); err != nil {
		return nil, err
	}
	result := &Result{Found: make([]bool, len(req.Namespaces))}
	tables, err := p.tables(result.Found)
	if err != nil {
		return nil, err
	}
	if p.home == 0 && len(tables) > 0 { // the first walk is that of New
		p.home = tables[0].address
	}
	if err := p.heads(req, result.Found); err != nil {
		return nil, err
	}
	for _, t := range tables {
		// Whoever made the namespace chose the size of its table. A dump passes no other.
		own := t.address != p.home && len(t.of) == 1 && len(req.Namespaces) > 1
		if own && t.mask >= maxOwnTable {
			result.Found[t.of[0]] = false
			continue
		}
		err := p.walkTable(ctx, t, result, visit)
		switch {
		case own && errors.Is(err, ErrIncomplete):
			result.Found[t.of[0]] = false
		case err != nil:
			return nil, err
		}
	}
	if result.Bound, err = p.bound(req, result.Found, visit); err != nil {
		return nil, err
	}
	return result, nil
}

// prepare tells the programs what to look for.
func (p *programs) prepare(req *Request) error {
	if len(req.Namespaces) > MaxNamespaces {
		return ErrTooMany
	}
	cfg := config{Steps: p.steps, Roots: p.roots}
	for _, port := range req.Remote {
		cfg.Remote[port/64] |= 1 << (port % 64)
	}
	cookies := make([]entry[uint64, uint32], 0, len(req.Namespaces))
	var ports []entry[portKey, uint8]
	left := leftOut(req.Namespaces)
	for i := range req.Namespaces {
		if left[i] {
			continue
		}
		ns := &req.Namespaces[i]
		cookies = append(cookies, entry[uint64, uint32]{ns.Cookie, uint32(i)})
		if ns.Bound {
			cfg.Bound = 1
		}
		for _, of := range []struct {
			ports []uint16
			bit   uint8
		}{{ns.Watched, portWatched}, {ns.Serving, portServes}} {
			for _, port := range of.ports {
				cfg.Local[port/64] |= 1 << (port % 64)
				ports = append(ports, entry[portKey, uint8]{portKey{port, uint16(i)}, of.bit})
			}
		}
	}
	ports = joined(ports)
	slices.SortFunc(cookies, compareCookies)
	if err := update(p.objs.Cookies, &p.cookies, cookies, compareCookies); err != nil {
		return fmt.Errorf("set namespaces: %w", err)
	}
	if err := update(p.objs.Ports, &p.ports, ports, comparePorts); err != nil {
		return fmt.Errorf("set ports: %w", err)
	}
	if cfg == p.config {
		return nil
	}
	b, err := binary.Append(p.buf[:0], binary.NativeEndian, &cfg)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	p.config = cfg
	return p.settings.write(b, 0)
}

// leftOut are the namespaces that there is no room for, those with the most ports: any user can make one
// and listen on all ports there.
func leftOut(namespaces []Namespace) map[int]bool {
	count := func(i int) int { return len(namespaces[i].Watched) + len(namespaces[i].Serving) }
	total, order := 0, make([]int, len(namespaces))
	for i := range namespaces {
		total += count(i)
		order[i] = i
	}
	if total <= maxPorts {
		return nil
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Or(cmp.Compare(count(j), count(i)), cmp.Compare(j, i)) })
	left := make(map[int]bool)
	for _, i := range order {
		if total <= maxPorts {
			break
		}
		left[i] = true
		total -= count(i)
	}
	return left
}

// joined sorts the entries, and joins the bits of each port.
func joined(ports []entry[portKey, uint8]) []entry[portKey, uint8] {
	slices.SortFunc(ports, comparePorts)
	out := ports[:0]
	for _, e := range ports {
		if n := len(out); n > 0 && out[n-1].key == e.key {
			out[n-1].value |= e.value
			continue
		}
		out = append(out, e)
	}
	return out
}

// find finds the namespaces in the kernel.
func (p *programs) find(req *Request) error {
	native := binary.NativeEndian
	b := p.buf[:0]
	for i := range req.Namespaces {
		ns := &req.Namespaces[i]
		b = native.AppendUint64(b, 0)
		b = native.AppendUint64(b, 0)
		b = native.AppendUint32(b, 0)
		b = native.AppendUint32(b, ns.Inode)
		b = native.AppendUint16(b, ns.LocalPorts.First)
		b = native.AppendUint16(b, ns.LocalPorts.Last)
		var bound byte
		if ns.Bound {
			bound = 1
		}
		b = append(b, bound, 0, 0, 0)
	}
	if err := p.namespaces.write(b, 0); err != nil {
		return err
	}
	index := p.buffer(2 * netIndexEntries)
	clear(index)
	if err := p.namespaces.write(index, offsetNetIndex); err != nil {
		return err
	}
	end, err := p.run(p.objs.Find)
	switch {
	case err != nil:
		return err
	case end.unexpected:
		return errUnexpected
	case !end.done:
		return ErrTooMany // of all that the kernel has
	}
	return nil
}

// tables returns the tables of the namespaces that were found.
func (p *programs) tables(found []bool) ([]table, error) {
	b, err := p.namespaces.read(p.buffer(len(found)*namespaceSize), 0)
	if err != nil {
		return nil, err
	}
	native := binary.NativeEndian
	var out []table
	for i := range found {
		ns := b[i*namespaceSize:]
		if found[i] = native.Uint64(ns) != 0; !found[i] {
			continue
		}
		t := table{address: native.Uint64(ns[8:]), mask: native.Uint32(ns[16:])}
		if size := t.mask + 1; t.address == 0 || bits.OnesCount32(size) != 1 {
			return nil, errUnexpected
		}
		n := slices.IndexFunc(out, func(o table) bool { return o.address == t.address })
		if n < 0 {
			n = len(out)
			out = append(out, t)
		}
		out[n].of = append(out[n].of, i)
	}
	return out, nil
}

func (p *programs) walkTable(ctx context.Context, t table, result *Result, visit func(*Group)) error {
	native := binary.NativeEndian
	begin := make([]byte, 0, endSize)
	begin = native.AppendUint64(begin, t.address)
	begin = native.AppendUint32(begin, t.mask)
	if err := p.results.write(begin[:endSize], offsetEnd); err != nil {
		return err
	}
	for bucket := uint32(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		end, err := p.run(p.objs.Walk)
		switch {
		case err != nil:
			return err
		case end.unexpected:
			return errUnexpected
		case end.bucket == bucket && !end.full && !end.done:
			return fmt.Errorf("%w: bucket %d does not end", ErrIncomplete, bucket)
		case end.missed > 0:
			return fmt.Errorf("%w: %d buckets missed", ErrIncomplete, end.missed)
		}
		bucket = end.bucket
		if end.done || end.full || end.count > maxGroups/2 {
			if err := p.take(end, visit); err != nil {
				return err
			}
		}
		if end.done {
			result.Sockets += end.sockets
			result.Again += uint64(end.again)
			return nil
		}
	}
}

// take visits the groups that are there, and makes room for others.
func (p *programs) take(end runEnd, visit func(*Group)) error {
	b, err := p.results.read(p.buffer(int(min(end.count, maxGroups)*groupSize)), 0)
	if err != nil {
		return err
	}
	var g Group // shared by all calls, since it escapes
	for ; len(b) > 0; b = b[groupSize:] {
		p.decode(&g, b, end.jiffies)
		if int(g.State) >= sock.NumStates {
			return errUnexpected
		}
		visit(&g)
	}
	return p.results.write(make([]byte, 4), offsetEnd+offsetCount)
}

// buffer returns n bytes, which are valid until the next call. Most walks need few: there is room for all
// groups only once they were found.
func (p *programs) buffer(n int) []byte {
	p.buf = slices.Grow(p.buf[:0], n)
	return p.buf[:n]
}

// runEnd is what a run has left in struct results.
type runEnd struct {
	bucket, count, again, missed uint32
	done, full, unexpected       bool
	sockets, jiffies             uint64
}

func (p *programs) run(program *ebpf.Program) (runEnd, error) {
	if _, err := program.Run(&ebpf.RunOptions{}); err != nil {
		return runEnd{}, err
	}
	var buf [endSize]byte
	b, err := p.results.read(buf[:], offsetEnd)
	if err != nil {
		return runEnd{}, err
	}
	native := binary.NativeEndian
	return runEnd{
		bucket: native.Uint32(b[12:]), count: native.Uint32(b[offsetCount:]),
		done: native.Uint32(b[20:]) != 0, full: native.Uint32(b[24:]) != 0, unexpected: native.Uint32(b[28:]) != 0,
		again: native.Uint32(b[32:]), missed: native.Uint32(b[36:]),
		sockets: native.Uint64(b[40:]), jiffies: native.Uint64(b[48:]),
	}, nil
}

// decode decodes struct group.
func (p *programs) decode(g *Group, b []byte, jiffies uint64) {
	const reuse, reusePort, v6only, unknown = 1 << 0, 1 << 1, 1 << 2, 1 << 3
	native := binary.NativeEndian
	v6, flags := b[46] != 0, b[49]
	*g = Group{
		Namespace: int(native.Uint16(b[44:])),
		Family:    sock.FamilyIPv4,
		State:     sock.State(b[47]),
		Kind:      sock.Kind(b[48]),
		Local:     netip.AddrPortFrom(newAddr(b, v6), native.Uint16(b[68:])),
		Remote:    netip.AddrPortFrom(newAddr(b[16:], v6), native.Uint16(b[42:])),
		Ifindex:   native.Uint32(b[32:]),
		UID:       native.Uint32(b[36:]),
		V6Only:    flags&v6only != 0,
		Flags:     sock.ReuseFlags{ReuseAddr: flags&reuse != 0, ReusePort: flags&reusePort != 0},
		// Without a watched port nobody has looked.
		FlagsKnown: flags&unknown == 0 && native.Uint16(b[40:]) != 0,
		Count:      uint64(native.Uint32(b[64:])),
	}
	if v6 {
		g.Family = sock.FamilyIPv6
	}
	// A socket whose timer is due stays in the table until the timer runs.
	if left := int64(native.Uint64(b[56:]) - jiffies); g.FlagsKnown && g.Kind == sock.KindTimeWait && left > 0 {
		g.Expires = time.Duration(left) * p.tick
	}
}

func newAddr(b []byte, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte(b[:16]))
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

// memory is that of globals, mapped by the first access.
type memory struct {
	globals *ebpf.Map
	b       []byte // nil while not mapped
}

func (m *memory) bytes() ([]byte, error) {
	if m.b == nil {
		b, err := unix.Mmap(m.globals.FD(), 0, int(m.globals.ValueSize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map shared memory: %w", err)
		}
		m.b = b
	}
	return m.b, nil
}

// unmap gives up the memory between walks: hosts with few network namespaces need none.
func (m *memory) unmap() error {
	b := m.b
	if m.b = nil; b == nil {
		return nil
	}
	return unix.Munmap(b)
}

// A variable is one that the programs share with the loader.
type variable struct {
	memory *memory
	offset int64
}

func (v *variable) read(b []byte, at int64) ([]byte, error) {
	if len(b) == 0 {
		return b, nil
	}
	shared, err := v.memory.bytes()
	if err != nil {
		return nil, err
	}
	copy(b, shared[v.offset+at:])
	return b, nil
}

func (v *variable) write(b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	shared, err := v.memory.bytes()
	if err != nil {
		return err
	}
	copy(shared[v.offset+at:], b)
	return nil
}
