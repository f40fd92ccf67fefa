// Package portread runs eBPF programs that read the sockets on some ports when they are asked to. It is what
// the loaders of bindbucket and udphash share.
package portread

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"sockstate_exporter/internal/bpf"
	"sockstate_exporter/internal/linux"
)

// A Program is loaded. It is not safe for concurrent use.
type Program struct {
	objs    *ebpf.Collection
	program *ebpf.Program
	request *ebpf.Map
	results *ebpf.Memory
	buf     []byte
}

// Load loads the only program of a collection. It reads its request from the section .data.request, and leaves
// its results in .bss.
func Load(spec *ebpf.CollectionSpec, types *btf.Cache) (*Program, error) {
	bpf.MapZeros(spec)
	objs, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Cache: types})
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	p := &Program{objs: objs, request: objs.Maps[".data.request"]}
	for _, p.program = range objs.Programs {
	}
	if p.results, err = objs.Maps[".bss"].Memory(); err != nil {
		p.Close()
		return nil, fmt.Errorf("map results: %w", err)
	}
	return p, nil
}

// Close unloads the program.
func (p *Program) Close() { p.objs.Close() }

// Run runs the program in the network namespace that a descriptor refers to, or, if that is 0, in that of the
// calling thread.
func (p *Program) Run(netns int, request any) error {
	if err := p.request.Put(uint32(0), request); err != nil {
		return fmt.Errorf("set ports: %w", err)
	}
	run := func() error {
		_, err := p.program.Run(&ebpf.RunOptions{})
		return err
	}
	if netns == 0 {
		return run()
	}
	return linux.RunInNetNS(netns, run)
}

// Write writes to the results: what few runs ask for is there, and not in the request, which each run copies.
func (p *Program) Write(offset int64, b []byte) error {
	if _, err := p.results.WriteAt(b, offset); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

// Read reads n bytes of the results. They are valid until the next call.
func (p *Program) Read(offset int64, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if cap(p.buf) < n {
		p.buf = make([]byte, n)
	}
	if _, err := p.results.ReadAt(p.buf[:n], offset); err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	return p.buf[:n], nil
}

// tries is how often a port is read whose list changed meanwhile.
const tries = 3

// Retry calls read with the ports, and again with those that it returns, whose lists changed meanwhile. It
// returns the ports that changed each time.
func Retry(ports []uint16, read func(ports []uint16) (again []uint16, err error)) ([]uint16, error) {
	for range tries {
		var err error
		if ports, err = read(ports); err != nil || len(ports) == 0 {
			return nil, err
		}
	}
	return ports, nil
}
