package sockwalk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// A fabricated table of connections is one in a BPF map. The kernel's own rarely changes while a chain is
// read, and nobody can make it.
type fabricated struct {
	t       *testing.T
	w       *Walker
	of      table
	memory  *ebpf.Map
	b       []byte
	net     uint64
	offsets map[string]uint32 // of members of struct sock_common
}

const (
	fabricatedBuckets = 16
	fabricatedSockets = 5000
	fabricatedSize    = 256 // of a socket
)

func fabricate(t *testing.T) *fabricated {
	t.Helper()
	w := countedWalker(t, Options{Steps: 1})
	f := &fabricated{t: t, w: w, offsets: memberOffsets(t, "sock_common")}
	f.b = make([]byte, 8*fabricatedBuckets+fabricatedSockets*fabricatedSize)
	f.memory = newArray(t, uint32(len(f.b)))
	f.of = table{address: addressOf(t, f.memory), mask: fabricatedBuckets - 1, of: []int{0}}

	ns := kerneltest.New(t)
	req := Request{Namespaces: []Namespace{watching(t, ns)}}
	if err := errors.Join(w.programs.prepare(&req), w.programs.find(&req)); err != nil {
		t.Fatal(err)
	}
	found, err := w.programs.namespaces.read(make([]byte, namespaceSize), 0)
	if err != nil {
		t.Fatal(err)
	}
	f.net = binary.NativeEndian.Uint64(found)
	for i := range uint64(fabricatedBuckets) {
		f.put64(8*i, i<<1|1)
	}
	return f
}

func newArray(t *testing.T, size uint32) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, Flags: unix.BPF_F_MMAPABLE, KeySize: 4, ValueSize: size, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// addressOf returns where the kernel has the value of the map.
func addressOf(t *testing.T, m *ebpf.Map) (address uint64) {
	t.Helper()
	out := newArray(t, 8)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, m.FD(), 0),
		asm.LoadMapValue(asm.R2, out.FD(), 0),
		asm.StoreMem(asm.R2, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if _, err := program.Run(&ebpf.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := out.Lookup(uint32(0), &address); err != nil {
		t.Fatal(err)
	}
	return address
}

// memberOffsets are those in bytes, also in the structs and unions without a name.
func memberOffsets(t *testing.T, of string) map[string]uint32 {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var s *btf.Struct
	if err := kernel.TypeByName(of, &s); err != nil {
		t.Fatal(err)
	}
	offsets := make(map[string]uint32)
	var add func(members []btf.Member, at uint32)
	add = func(members []btf.Member, at uint32) {
		for _, m := range members {
			offset := at + m.Offset.Bytes()
			if m.Name != "" {
				offsets[m.Name] = offset
				continue
			}
			switch of := m.Type.(type) {
			case *btf.Struct:
				add(of.Members, offset)
			case *btf.Union:
				add(of.Members, offset)
			}
		}
	}
	add(s.Members, 0)
	return offsets
}

func (f *fabricated) put64(at, v uint64) { binary.NativeEndian.PutUint64(f.b[at:], v) }

func (f *fabricated) member(socket int, name string) []byte {
	return f.b[8*fabricatedBuckets+socket*fabricatedSize+int(f.offsets[name]):]
}

func (f *fabricated) node(socket int) uint64 {
	return f.of.address + 8*fabricatedBuckets + uint64(socket*fabricatedSize) + uint64(f.offsets["skc_nulls_node"])
}

// chain puts sockets that are established into a bucket.
func (f *fabricated) chain(bucket int, sockets ...int) {
	native := binary.NativeEndian
	f.put64(uint64(8*bucket), f.node(sockets[0]))
	for i, s := range sockets {
		native.PutUint32(f.member(s, "skc_hash"), uint32(bucket)|0xabc<<8)
		native.PutUint64(f.member(s, "skc_net"), f.net)
		native.PutUint16(f.member(s, "skc_num"), testPort)
		native.PutUint16(f.member(s, "skc_family"), 2)
		f.member(s, "skc_state")[0] = 1
		native.PutUint32(f.member(s, "skc_refcnt"), 1)
		f.next(s, uint64(bucket)<<1|1)
		if i > 0 {
			f.next(sockets[i-1], f.node(s))
		}
	}
}

func (f *fabricated) next(socket int, node uint64) {
	binary.NativeEndian.PutUint64(f.member(socket, "skc_nulls_node"), node)
}

// walk counts the sockets.
func (f *fabricated) walk() (sockets uint64, err error) {
	f.t.Helper()
	if err := f.memory.Put(uint32(0), f.b); err != nil {
		f.t.Fatal(err)
	}
	_, sockets, err = f.walkOnly()
	return sockets, err
}

// walkOnly is walk with what the memory has.
func (f *fabricated) walkOnly() (result Result, sockets uint64, err error) {
	err = f.w.programs.walkTable(f.t.Context(), f.of, &result, func(g *Group) { sockets += g.Count })
	return result, sockets, err
}

func (f *fabricated) check(want uint64) {
	f.t.Helper()
	if got, err := f.walk(); got != want || err != nil {
		f.t.Errorf("%d sockets, %v; want %d", got, err, want)
	}
}

func (f *fabricated) checkError(want error) {
	f.t.Helper()
	if got, err := f.walk(); !errors.Is(err, want) {
		f.t.Errorf("%d sockets, %v; want error %v", got, err, want)
	}
}

// A chain that leads elsewhere is read again. Where it stays so, nothing of the walk is believed.
func TestChainsThatMoved(t *testing.T) {
	f := fabricate(t)
	f.chain(3, 0, 1, 2)
	f.chain(5, 3, 4)
	f.check(5)

	f.next(1, f.node(3)) // a socket of another bucket
	f.checkError(ErrIncomplete)
	f.next(1, 5<<1|1) // its end
	f.checkError(ErrIncomplete)
	f.next(1, 0) // removed, and not in another chain yet
	f.checkError(ErrIncomplete)
	f.next(1, f.node(0)) // it comes back to itself
	f.checkError(ErrIncomplete)
	f.next(1, 8) // what cannot be read
	f.checkError(ErrIncomplete)
	f.next(1, f.node(2))
	binary.NativeEndian.PutUint32(f.member(1, "skc_hash"), 5) // in the chain, and of another bucket
	f.checkError(ErrIncomplete)
	f.chain(3, 0, 1, 2)
	f.check(5)
	f.put64(3*8, 0) // a bucket that has no end
	f.checkError(errUnexpected)
}

// A chain that was only read again shows each of its sockets once.
func TestChainsThatMoveWhileTheyAreRead(t *testing.T) {
	f := fabricate(t)
	const sockets = 300
	var all []int
	for i := range sockets {
		all = append(all, i)
	}
	f.chain(3, all...)
	f.check(sockets)
	memory, err := f.memory.Memory()
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		const socket = sockets - 1
		at := int64(len(f.b) - len(f.member(socket, "skc_nulls_node")))
		right := bytes.Clone(f.member(socket, "skc_nulls_node")[:8])
		for wrong := make([]byte, 8); ; {
			select {
			case <-stop:
				return
			default:
			}
			_, _ = memory.WriteAt(wrong, at)
			_, _ = memory.WriteAt(right, at)
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	again, deadline := 0, time.Now().Add(time.Minute)
	for again < 20 && !t.Failed() {
		if time.Now().After(deadline) {
			t.Fatalf("only %d chains were read again", again)
		}
		result, got, err := f.walkOnly()
		switch {
		case errors.Is(err, ErrIncomplete):
		case err != nil || got != sockets:
			t.Errorf("%d sockets, %v; want %d", got, err, sockets)
		case result.Again > 0:
			again++
		}
	}
}

func TestSocketsOfOthersAndFreeOnesDoNotCount(t *testing.T) {
	f := fabricate(t)
	f.chain(3, 0, 1, 2, 3)
	binary.NativeEndian.PutUint32(f.member(0, "skc_refcnt"), 0)
	binary.NativeEndian.PutUint64(f.member(1, "skc_net"), f.net+64)
	binary.NativeEndian.PutUint16(f.member(2, "skc_num"), testPort+1)
	f.check(1)
}
