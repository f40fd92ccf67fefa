package bindbucket

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf/btf"

	"sockstate_exporter/internal/bpf"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/portread"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

//go:generate go tool bpf2go -cc clang-14 -target bpfel,bpfeb -no-global-types -type request bindbucket bindbucket.c -- -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-const-variable -Wno-unused-parameter

// Bounds of one Read: MAX_PORTS and MAX_SOCKETS of bindbucket.c.
const (
	MaxPorts   = 2048
	MaxSockets = 8192
	maxHeld    = 1024 // MAX_DETAILS
)

// ErrTooMany is the error of a Read of more than MaxPorts ports, or of ports with more than
// MaxSockets sockets, and of ReadConnections of more than 1,024.
var ErrTooMany = errors.New("too many sockets for a read of bind buckets")

// A Socket is one socket on a port. Its Expires counts from the end of the Read.
type Socket = bhash.Socket

// A Held is a socket with who has it.
type Held struct {
	Socket
	Inode uint64         // as in /proc/PID/fd; 0: no process has it open
	Peer  netip.AddrPort // of a connection
}

// A Bucket is what the kernel remembers of the binds of a port (struct inet_bind_bucket).
type Bucket struct {
	FastReuse     int8
	FastReusePort int8
	// The socket that set FastReusePort. Zero unless FastReusePort is above 0: until then the
	// kernel has not written these fields, and they hold what was in the memory before.
	UID    uint32
	Addr   netip.Addr
	V6Only bool

	// MappedMeetsAny says that a bind to a v4-mapped address meets all sockets on 0.0.0.0 and
	// ::ffff:0.0.0.0. Linux 6.1 to 6.7 only, and not of ReadBuckets: false where that is not known.
	MappedMeetsAny bool
}

// A Result is what one Read found.
type Result struct {
	Sockets []Socket
	Held    []Held // of ReadHeld: the first 1,024 of Sockets
	// Buckets has the ports that are in use, except those of devices in a VRF.
	Buckets map[uint16]Bucket
	// Missed has the ports that changed at each try: not all their sockets were seen.
	Missed map[uint16]bool
	// Requests says that a listener may have connections in SYN_RECV. These are in no bind bucket, except
	// those of TCP Fast Open.
	Requests bool
	At       time.Time // the end of the Read

	of *Reader
}

// Free says that nobody uses the Result any more.
func (r *Result) Free() {
	if r.of == nil {
		return
	}
	clear(r.Buckets)
	clear(r.Missed)
	*r = Result{Sockets: r.Sockets[:0], Held: r.Held[:0], Buckets: r.Buckets, Missed: r.Missed, of: r.of}
	r.of.freed.Put(r)
}

// A Reader reads bind buckets. Its methods may be called from any goroutine.
type Reader struct {
	mu      sync.Mutex
	program *portread.Program
	tick    time.Duration
	roots   bool // see bpf.OrphansAreRoots
	except  [65536 / 8]byte
	freed   sync.Pool // of Results: each scrape needs one, and they are large
}

// New loads the program, and tries it once. Where that does not work on this kernel, the error
// says why. types may be nil.
func New(types *btf.Cache) (*Reader, error) {
	r := new(Reader)
	if err := r.load(types); err != nil {
		return nil, err
	}
	if _, err := r.Read(0, nil); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) load(types *btf.Cache) error {
	types = cmp.Or(types, btf.NewCache())
	var err error
	if r.tick, err = linux.Tick(); err != nil {
		return err
	}
	kernel, err := types.Kernel()
	if err != nil {
		return fmt.Errorf("read kernel BTF: %w", err)
	}
	r.roots = bpf.OrphansAreRoots(kernel)
	spec, err := loadBindbucket()
	if err != nil {
		return err
	}
	r.program, err = portread.Load(spec, types)
	return err
}

// Close unloads the program.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.program.Close()
	return nil
}

// Read reads the sockets on the ports in the network namespace that a descriptor refers to, or, if
// that is 0, in that of the calling thread. It takes about a third of a microsecond a socket.
func (r *Reader) Read(netns int, ports []uint16) (*Result, error) {
	return r.readPorts(netns, ports, bindbucketRequest{})
}

// ReadBuckets is Read without the sockets, however many there are.
func (r *Reader) ReadBuckets(netns int, ports []uint16) (map[uint16]Bucket, error) {
	result, err := r.readPorts(netns, ports, bindbucketRequest{BucketsOnly: 1})
	if err != nil {
		return nil, err
	}
	return result.Buckets, nil
}

// ReadHeld is Read that also says who has the sockets.
func (r *Reader) ReadHeld(netns int, ports []uint16) (*Result, error) {
	return r.readPorts(netns, ports, bindbucketRequest{Details: 1})
}

// A Connection is a socket with a peer, or what is left of one in TIME_WAIT.
type Connection struct {
	Local, Peer netip.AddrPort
	State       sock.State
}

// ReadConnections reads the connections on all ports of a range but some, 1,024 at most. It looks at the head of
// each port's list, which takes about a nanosecond, and at the sockets in those that have some.
func (r *Reader) ReadConnections(netns int, of sock.PortRange, except []uint16) ([]Connection, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.except[:])
	for _, port := range except {
		r.except[port/8] |= 1 << (port % 8)
	}
	if err := r.program.Write(exceptOffset, r.except[:]); err != nil {
		return nil, err
	}
	if err := r.run(netns, nil, bindbucketRequest{First: of.First, Last: of.Last}); err != nil {
		return nil, err
	}
	return r.collectConnections()
}

var errChanged = errors.New("read bind buckets: lists changed meanwhile")

func (r *Reader) collectConnections() ([]Connection, error) {
	end, err := r.end()
	if err != nil {
		return nil, err
	}
	sockets, err := r.program.Read(0, int(end.count)*socketSize)
	if err != nil {
		return nil, err
	}
	found := make([]Connection, end.count)
	for i := range found {
		s := bhash.DecodeSocket(sockets[i*socketSize:], end.jiffies, r.tick)
		found[i] = Connection{Local: netip.AddrPortFrom(s.Addr, s.Port), State: s.State}
	}
	details, err := r.program.Read(heldOffset, len(found)*heldSize)
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i].Peer = decodePeer(details[i*heldSize:], !found[i].Local.Addr().Is4())
	}
	return found, nil
}

func (r *Reader) readPorts(netns int, ports []uint16, req bindbucketRequest) (*Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(ports) > MaxPorts {
		return nil, ErrTooMany
	}
	out, ok := r.freed.Get().(*Result)
	if !ok {
		out = &Result{Buckets: make(map[uint16]Bucket, len(ports)), Missed: make(map[uint16]bool), of: r}
	}
	missed, err := portread.Retry(ports, func(ports []uint16) ([]uint16, error) {
		if err := r.run(netns, ports, req); err != nil {
			return nil, err
		}
		return r.collect(ports, req.Details != 0, out)
	})
	if err != nil {
		return nil, err
	}
	for _, p := range missed {
		out.Missed[p] = true
	}
	return out, nil
}

func (r *Reader) run(netns int, ports []uint16, req bindbucketRequest) error {
	req.Count = uint32(copy(req.Ports[:], ports))
	if r.roots {
		req.OrphansAreRoots = 1
	}
	if err := r.program.Run(netns, &req); err != nil {
		return fmt.Errorf("read bind buckets: %w", err)
	}
	return nil
}

// Sizes and offsets in struct results of bindbucket.c.
const (
	socketSize    = bhash.SocketSize
	bucketSize    = 28
	bucketsOffset = MaxSockets * socketSize
	endOffset     = bucketsOffset + MaxPorts*bucketSize
	endSize       = 32
	heldOffset    = endOffset + endSize
	heldSize      = 32
	exceptOffset  = heldOffset + maxHeld*heldSize
)

var errUnsupported = errors.New("read bind buckets: this kernel keeps them in another way")

// A runEnd says how a run has ended.
type runEnd struct {
	jiffies  uint64
	count    uint32 // of sockets
	requests bool
}

func (r *Reader) end() (runEnd, error) {
	b, err := r.program.Read(endOffset, endSize)
	if err != nil {
		return runEnd{}, err
	}
	native := binary.NativeEndian
	overflow, unsupported, broken := native.Uint32(b[12:]), native.Uint32(b[20:]), native.Uint32(b[28:])
	switch {
	case unsupported != 0:
		return runEnd{}, errUnsupported
	case broken != 0:
		return runEnd{}, errChanged
	case overflow != 0:
		return runEnd{}, ErrTooMany
	}
	return runEnd{jiffies: native.Uint64(b), count: native.Uint32(b[8:]), requests: native.Uint32(b[24:]) != 0}, nil
}

// collect takes what a run has found, and returns the ports that have to be read again.
func (r *Reader) collect(ports []uint16, details bool, out *Result) (again []uint16, err error) {
	end, err := r.end()
	if err != nil {
		return nil, err
	}
	out.At = time.Now()
	out.Requests = out.Requests || end.requests
	buckets, err := r.program.Read(bucketsOffset, len(ports)*bucketSize)
	if err != nil {
		return nil, err
	}
	native := binary.NativeEndian
	for i, port := range ports {
		b := buckets[i*bucketSize:][:bucketSize]
		switch {
		case b[25] != 0:
			again = append(again, port)
		case b[24] != 0:
			bucket := Bucket{FastReuse: int8(b[20]), FastReusePort: int8(b[21]), MappedMeetsAny: b[26] != 0}
			if bucket.FastReusePort > 0 {
				bucket.UID, bucket.Addr, bucket.V6Only = native.Uint32(b[16:]), bhash.DecodeAddr(b, b[22] != 0), b[23] != 0
			}
			out.Buckets[port] = bucket
		}
	}
	sockets, err := r.program.Read(0, int(end.count)*socketSize)
	if err != nil {
		return nil, err
	}
	first := len(out.Sockets)
	out.Sockets = slices.Grow(out.Sockets, int(end.count))
	for ; len(sockets) > 0; sockets = sockets[socketSize:] {
		out.Sockets = append(out.Sockets, bhash.DecodeSocket(sockets, end.jiffies, r.tick))
	}
	if details {
		if err := r.collectHeld(out, first); err != nil {
			return nil, err
		}
	}
	if len(again) > 0 {
		out.Sockets = slices.DeleteFunc(out.Sockets, func(s Socket) bool { return slices.Contains(again, s.Port) })
		out.Held = slices.DeleteFunc(out.Held, func(h Held) bool { return slices.Contains(again, h.Port) })
	}
	return again, nil
}

// collectHeld adds who has the sockets, from the first one of a run on.
func (r *Reader) collectHeld(out *Result, first int) error {
	found := out.Sockets[first:]
	found = found[:min(len(found), maxHeld)]
	details, err := r.program.Read(heldOffset, len(found)*heldSize)
	if err != nil {
		return err
	}
	for i := range found {
		d, held := details[i*heldSize:][:heldSize], Held{Socket: found[i]}
		held.Inode = binary.NativeEndian.Uint64(d)
		held.Peer = decodePeer(d, !held.Addr.Is4())
		out.Held = append(out.Held, held)
	}
	return nil
}

// decodePeer decodes the peer in a struct detail_record.
func decodePeer(d []byte, v6 bool) netip.AddrPort {
	port := binary.NativeEndian.Uint16(d[24:])
	if port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(bhash.DecodeAddr(d[8:], v6), port)
}
