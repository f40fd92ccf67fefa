//go:build linux

package bindtrace

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Op is the system call that failed.
type Op uint8

// The calls, numbered as enum op in bindtrace.c.
const (
	OpBind Op = iota
	OpListen
	OpConnect
	ops
)

func (o Op) String() string {
	switch o {
	case OpListen:
		return "listen"
	case OpConnect:
		return "connect"
	default:
		return "bind"
	}
}

// Family is the address family of a socket.
type Family uint8

// The families, numbered as enum family in bindtrace.c.
const (
	FamilyIPv4 Family = iota
	FamilyIPv6
	families
)

func (f Family) String() string {
	if f == FamilyIPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// Protocol is the protocol of a socket.
type Protocol uint8

// The protocols, numbered as enum protocol in bindtrace.c.
const (
	ProtocolOther Protocol = iota
	ProtocolTCP
	ProtocolUDP
	ProtocolMPTCP
	ProtocolSCTP
	protocols
)

func (p Protocol) String() string {
	switch p {
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	case ProtocolMPTCP:
		return "mptcp"
	case ProtocolSCTP:
		return "sctp"
	default:
		return "other"
	}
}

// Bits of the reuse and flags bytes in bindtrace.c.
const (
	flagReuseAddr = 1 << iota
	flagReusePort
	flagV6Only
	flagPortKnown
	reuses = flagReuseAddr | flagReusePort + 1
)

// fixedSlots is FIXED_SLOTS of bindtrace.c.
const fixedSlots = int(ops) * int(families) * int(protocols) * 16 * reuses

// A Key says which failures a Count counts.
type Key struct {
	Netns     uint32 // inode number of the network namespace; 0: not watched
	Port      uint16 // that the caller asked for; not valid with OtherPort; connect: 0
	OtherPort bool   // not a watched port, or no port that could be read; connect: not a lack of ports
	Op        Op
	Family    Family // of the socket
	Protocol  Protocol
	Errno     unix.Errno // 0: an error without a class
	ReuseAddr bool       // the socket had SO_REUSEADDR
	ReusePort bool       // the socket had SO_REUSEPORT
}

// A Count is the number of failures with one key since New.
type Count struct {
	Key
	N uint64
}

// table reads the kernel's slots from mapped memory. It decodes each key once: a key does not change
// after its count is above 0.
type table struct {
	memory *ebpf.Memory
	size   int // of a slot
	keys   []Key
	known  []bool
}

func newTable(slots *ebpf.Map) (*table, error) {
	memory, err := slots.Memory()
	if err != nil {
		return nil, fmt.Errorf("map counts: %w", err)
	}
	n := int(slots.MaxEntries())
	t := &table{memory: memory, size: int(slots.ValueSize()), keys: make([]Key, n), known: make([]bool, n)}
	for i := range fixedSlots {
		t.keys[i], t.known[i] = fixedKey(i), true
	}
	return t, nil
}

// appendTo appends the counts above 0.
func (t *table) appendTo(dst []Count) ([]Count, error) {
	for i := range t.keys {
		n, err := t.count(i)
		if err != nil {
			return dst, err
		}
		if n == 0 {
			continue
		}
		if !t.known[i] {
			if t.keys[i], err = t.key(i); err != nil {
				return dst, err
			}
			t.known[i] = true
		}
		dst = append(dst, Count{Key: t.keys[i], N: n})
	}
	return dst, nil
}

// count reads the count of struct slot. It is an aligned word, so it is read in one piece: see
// ebpf.Memory.
func (t *table) count(slot int) (uint64, error) {
	var word [8]byte
	if _, err := t.memory.ReadAt(word[:], int64(slot*t.size)); err != nil {
		return 0, fmt.Errorf("read count %d: %w", slot, err)
	}
	return binary.NativeEndian.Uint64(word[:]), nil
}

func (t *table) key(slot int) (Key, error) {
	var k bpfKey
	raw := make([]byte, binary.Size(k))
	if _, err := t.memory.ReadAt(raw, int64(slot*t.size+8)); err != nil {
		return Key{}, fmt.Errorf("read key %d: %w", slot, err)
	}
	if _, err := binary.Decode(raw, binary.NativeEndian, &k); err != nil {
		return Key{}, fmt.Errorf("decode key %d: %w", slot, err)
	}
	return Key{
		Netns:     k.Netns,
		Port:      k.Port,
		OtherPort: k.PortOther != 0,
		Op:        Op(k.Op),
		Family:    Family(k.Family),
		Protocol:  Protocol(k.Protocol),
		Errno:     errnoClasses()[k.ErrnoClass%16],
		ReuseAddr: k.Reuse&flagReuseAddr != 0,
		ReusePort: k.Reuse&flagReusePort != 0,
	}, nil
}

// fixedKey reverses fixed_slot_of of bindtrace.c.
func fixedKey(slot int) Key {
	k := Key{OtherPort: true}
	digit := func(base int) int {
		d := slot % base
		slot /= base
		return d
	}
	reuse := digit(reuses)
	k.ReuseAddr, k.ReusePort = reuse&flagReuseAddr != 0, reuse&flagReusePort != 0
	k.Errno = errnoClasses()[digit(16)]
	k.Protocol = Protocol(digit(int(protocols)))
	k.Family = Family(digit(int(families)))
	k.Op = Op(digit(int(ops)))
	return k
}
