package udphash

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/loaderr"
	"sockstate_exporter/internal/bpf/portread"
	"sockstate_exporter/internal/sock"
)

//go:generate go tool bpf2go -cc clang-14 -target bpfel,bpfeb -no-global-types -type request udphash udphash.c -- -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable -Wno-unused-parameter

// Bounds of one run: those of udphash.c.
const (
	maxPorts   = 512
	maxSockets = 4096
	maxSteps   = 1 << 16

	// Bounds of one port: its share of a run, and never more than this.
	maxPortSockets = 256
)

// A Socket is one socket on a port, or several one after the other that are connected, and that bind()
// cannot tell apart. State is sock.StateEstablished where it is connected.
type Socket struct {
	bhash.Socket
	Inode uint64 // of the first of them
	Count uint64

	// Kernel says that the kernel made the socket for itself. Handler is then the function that gets
	// its packets, with its module: "wg_receive [wireguard]". It may be empty.
	Kernel  bool
	Handler string

	// Multicast says that it has joined a multicast group, and Broadcast that it may broadcast (SO_BROADCAST).
	Multicast, Broadcast bool
}

// A Port is what is on one port.
type Port struct {
	Sockets []Socket // in the order in which bind() looks at them
	Crowd   int      // sockets in the slot of the table: see bindrule.UDPPort
	Missed  bool     // there may be more
}

// A Reader reads UDP sockets. Its methods may be called from any goroutine.
type Reader struct {
	mu      sync.Mutex
	program *portread.Program
	roots   bool // see bpf.OrphansAreRoots
	fd      int  // of a UDP socket, or -1 where it is not needed
}

// New loads the program, and tries it once. Where that does not work on this kernel, the error
// says why. types may be nil.
func New(types *btf.Cache) (*Reader, error) {
	r := &Reader{fd: -1}
	err := r.load(types)
	if err == nil {
		_, err = r.Read(0, nil)
	}
	if err != nil {
		_ = r.Close()
		return nil, loaderr.Explain(sock.UnavailableError{
			Feature: "flags of UDP sockets", Mode: "bpf", Reason: sock.ReasonUnsupported, Need: "Linux 5.17, with BTF",
		}, err)
	}
	return r, nil
}

func (r *Reader) load(types *btf.Cache) error {
	types = cmp.Or(types, btf.NewCache())
	kernel, err := types.Kernel()
	if err != nil {
		return fmt.Errorf("read kernel BTF: %w", err)
	}
	r.roots = bpf.OrphansAreRoots(kernel)
	if !namespacesHaveTables(kernel) {
		if r.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open a UDP socket: %w", err)
		}
	}
	spec, err := loadUdphash()
	if err != nil {
		return err
	}
	r.program, err = portread.Load(spec, types)
	return err
}

// namespacesHaveTables: since Linux 6.2 a network namespace says which table it uses.
func namespacesHaveTables(kernel *btf.Spec) bool {
	var s *btf.Struct
	if kernel.TypeByName("netns_ipv4", &s) != nil {
		return false
	}
	return slices.ContainsFunc(s.Members, func(m btf.Member) bool { return m.Name == "udp_table" })
}

// Close unloads the program.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
		r.fd = -1
	}
	if r.program != nil {
		r.program.Close()
	}
	return nil
}

// Read reads the sockets on the ports in the network namespace that a descriptor refers to, or, if
// that is 0, in that of the calling thread.
func (r *Reader) Read(netns int, ports []uint16) (map[uint16]*Port, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[uint16]*Port, len(ports))
	if len(ports) == 0 {
		return out, r.run(netns, nil)
	}
	for some := range slices.Chunk(ports, maxPorts) {
		_, err := portread.Retry(some, func(ports []uint16) ([]uint16, error) {
			if err := r.run(netns, ports); err != nil {
				return nil, err
			}
			return r.collect(ports, out)
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r *Reader) run(netns int, ports []uint16) error {
	var req udphashRequest
	req.Count, req.Fd = uint32(copy(req.Ports[:], ports)), int32(r.fd)
	share := max(len(ports), 1)
	req.MostSockets = uint32(min(maxSockets/share, maxPortSockets))
	req.MostSteps = uint32(maxSteps/share - 1) // one to begin with the port
	if r.roots {
		req.OrphansAreRoots = 1
	}
	if err := r.program.Run(netns, &req); err != nil {
		return fmt.Errorf("read UDP sockets: %w", err)
	}
	return r.supported()
}

// Sizes and offsets in udphash.c.
const (
	recordSize  = bhash.SocketSize + 48
	portSize    = 8
	portsOffset = maxSockets * recordSize
	endOffset   = portsOffset + maxPorts*portSize
	endSize     = 8
)

var errUnsupported = errors.New("read UDP sockets: this kernel keeps them in another way")

func (r *Reader) supported() error {
	end, err := r.program.Read(endOffset, endSize)
	if err == nil && binary.NativeEndian.Uint32(end[4:]) != 0 {
		err = errUnsupported
	}
	return err
}

// collect takes what a run has found, and returns the ports that have to be read again.
func (r *Reader) collect(ports []uint16, out map[uint16]*Port) (again []uint16, err error) {
	end, err := r.program.Read(endOffset, endSize)
	if err != nil {
		return nil, err
	}
	native := binary.NativeEndian
	count := native.Uint32(end)
	records, err := r.program.Read(portsOffset, len(ports)*portSize)
	if err != nil {
		return nil, err
	}
	for i, number := range ports {
		p := records[i*portSize:][:portSize]
		broken := p[4] != 0
		out[number] = &Port{Crowd: int(native.Uint32(p)), Missed: broken || p[5] != 0}
		if broken {
			again = append(again, number)
		}
	}
	sockets, err := r.program.Read(0, int(count)*recordSize)
	if err != nil {
		return nil, err
	}
	for ; len(sockets) > 0; sockets = sockets[recordSize:] {
		s := decode(sockets)
		if p := out[s.Port]; p != nil {
			p.Sockets = append(p.Sockets, s)
		}
	}
	return again, nil
}

// decode decodes a struct record.
func decode(b []byte) Socket {
	native := binary.NativeEndian
	extra := b[bhash.SocketSize:recordSize]
	name, _, _ := bytes.Cut(extra[16:], []byte{0})
	return Socket{
		Socket: bhash.DecodeSocket(b, 0, 0), Inode: native.Uint64(extra), Count: uint64(native.Uint32(extra[8:])),
		Kernel: extra[12] != 0, Handler: string(name), Multicast: extra[13] != 0, Broadcast: extra[14] != 0,
	}
}
