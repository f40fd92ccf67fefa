package netlinkdiag

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrFilterTooLarge is wrapped where a [PortFilter] does not fit a request: 4,680 single
// ports or 3,640 longer ranges always do on one side, a few less split over both.
var ErrFilterTooLarge = errors.New("port filter too large")

// PortRange is the ports First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Port is the range of the one port p.
func Port(p uint16) PortRange { return PortRange{p, p} }

// String is "80" or "8000-8010".
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func (r PortRange) contains(p uint16) bool { return r.First <= p && p <= r.Last }

// PortFilter lets a socket pass when its local port is in one of Local or its remote
// port in one of Remote. The zero filter lets everything pass. A socket without a peer,
// such as a listener, has remote port 0.
//
// Ranges may overlap and come in any order; one whose First is above its Last is
// refused by the dump. The kernel compares once per halving of the ranges for each socket,
// and audits the filter once per dump, in time that grows with its square: 0.2 ms for 512
// ports, 23 ms at most (Linux 6.18).
type PortFilter struct{ Local, Remote []PortRange }

// Match says whether f lets a socket with these ports pass. It looks at one range after
// the other.
func (f PortFilter) Match(local, remote uint16) bool {
	return len(f.Local)+len(f.Remote) == 0 || anyContains(f.Local, local) || anyContains(f.Remote, remote)
}

func anyContains(ranges []PortRange, p uint16) bool {
	for _, r := range ranges {
		if r.contains(p) {
			return true
		}
	}
	return false
}

// normalise sorts the ranges and merges those that overlap or touch: between two of
// the result there is at least one port that is in neither.
func normalise(ranges []PortRange) ([]PortRange, error) {
	for _, r := range ranges {
		if r.First > r.Last {
			return nil, fmt.Errorf("port range %v is reversed", r)
		}
	}
	ranges = slices.SortedFunc(slices.Values(ranges), func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	var merged []PortRange
	for _, r := range ranges {
		if last := len(merged) - 1; last >= 0 && int(r.First) <= int(merged[last].Last)+1 {
			merged[last].Last = max(merged[last].Last, r.Last)
		} else {
			merged = append(merged, r)
		}
	}
	return merged, nil
}

func everyPort(ranges []PortRange) bool {
	return len(ranges) == 1 && ranges[0] == PortRange{0, math.MaxUint16}
}

// compile gives the value of INET_DIAG_REQ_BYTECODE that does what Match does: nil where
// every socket passes.
func (f PortFilter) compile() ([]byte, error) {
	local, err := normalise(f.Local)
	if err != nil {
		return nil, fmt.Errorf("local: %w", err)
	}
	remote, err := normalise(f.Remote)
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	if len(local)+len(remote) == 0 || everyPort(local) || everyPort(remote) {
		return nil, nil
	}

	// The smaller tree comes first, as each of its rejects is a jump to the other, for
	// which valid_cc walks over all of it.
	small, smallOps, large, largeOps := remote, remotePort, local, localPort
	if len(local) < len(remote) {
		small, smallOps, large, largeOps = local, localPort, remote, remotePort
	}
	p := newProgram()
	if len(small) > 0 {
		other := p.label()
		p.tree(smallOps, small, 0, other)
		p.place(other)
	}
	p.tree(largeOps, large, 0, reject)

	code, err := p.link()
	if err != nil {
		return nil, fmt.Errorf("%d local and %d remote port ranges: %w", len(local), len(remote), err)
	}
	return code, nil
}

// Codes of struct inet_diag_bc_op. The EQ ones came with Linux 4.16.
const (
	bcJMP = 1
	bcSGE = 2
	bcSLE = 3
	bcDGE = 4
	bcDLE = 5
	bcSEQ = 11
	bcDEQ = 12
)

// comparisons are the codes that look at one of a socket's ports.
type comparisons struct{ ge, le, eq byte }

var (
	localPort  = comparisons{ge: bcSGE, le: bcSLE, eq: bcSEQ}
	remotePort = comparisons{ge: bcDGE, le: bcDLE, eq: bcDEQ}
)

const (
	sizeofOp      = 4            // struct inet_diag_bc_op
	sizeofCompare = 2 * sizeofOp // valid_port_comparison: the port is the no of a second op

	// maxBytecode is what a netlink attribute holds, whose 16 bit of length count its
	// header. The longest jump, from the first op to reject, is as long and fits no.
	maxBytecode = (math.MaxUint16 - 4) &^ (sizeofOp - 1)
)

// A label is a place in a program that is jumped to, perhaps before it is known.
type label int

const (
	accept label = iota // the end
	reject              // one op beyond: inet_diag_bc_run wants to end at exactly the end
)

// A program is bytecode under construction. yes is 8 bit wide in an op and no 16, so yes
// always goes to the next op and no is the jump. That makes every op a valid jump target
// to valid_cc, which follows yes only.
type program struct {
	code   []byte
	labels []int // offset by label
	jumps  []jump
}

// A jump is an op whose no is still to be filled in.
type jump struct {
	at int
	to label
}

func newProgram() *program { return &program{labels: make([]int, reject+1)} }

func (p *program) label() label {
	p.labels = append(p.labels, 0)
	return label(len(p.labels) - 1)
}

func (p *program) place(l label) { p.labels[l] = len(p.code) }

// compare goes on where the socket's port compares, and jumps to no otherwise.
func (p *program) compare(code byte, port uint16, no label) {
	p.jumps = append(p.jumps, jump{len(p.code), no})
	p.code = append(p.code, code, sizeofCompare, 0, 0, 0, 0)
	p.code = binary.NativeEndian.AppendUint16(p.code, port)
}

func (p *program) jump(to label) {
	p.jumps = append(p.jumps, jump{len(p.code), to})
	p.code = append(p.code, bcJMP, sizeofOp, 0, 0)
}

// tree compiles normalised ranges: a binary search whose leaves are of two ranges. from
// is the lowest port that can get here.
//
// Two, as the first range of every leaf but the leftmost starts at from, so that one
// comparison, and no jump within the program, decides on it. valid_cc walks the program
// from its start for every such jump: that makes the kernel's audit quadratic.
func (p *program) tree(port comparisons, ranges []PortRange, from uint16, no label) {
	if len(ranges) <= 2 {
		p.leaf(port, ranges, from, no)
		return
	}
	middle := (len(ranges)/2 + 1) &^ 1 // even: no leaf but the last has one range only
	below := p.label()
	p.compare(port.ge, ranges[middle].First, below)
	p.tree(port, ranges[middle:], ranges[middle].First, no)
	p.place(below)
	p.tree(port, ranges[:middle], from, no)
}

// leaf tries one range after the other; its last op is a jump to accept.
func (p *program) leaf(port comparisons, ranges []PortRange, from uint16, no label) {
	last := len(ranges) - 1
	for _, r := range ranges[:last] {
		if r.First > from {
			p.compare(port.ge, r.First, no)
		}
		from = r.Last + 1 // no overflow: another range follows
		p.compare(port.ge, from, accept)
	}
	r := ranges[last]
	below, above := r.First > from, r.Last < math.MaxUint16 // ports that are left to rule out
	if below && above && r.First == r.Last {
		p.compare(port.eq, r.First, no)
	} else {
		if below {
			p.compare(port.ge, r.First, no)
		}
		if above {
			p.compare(port.le, r.Last, no)
		}
	}
	p.jump(accept)
}

// link drops the last op, a jump to the very next place, and fills in the jumps.
func (p *program) link() ([]byte, error) {
	p.code = p.code[:len(p.code)-sizeofOp]
	p.jumps = p.jumps[:len(p.jumps)-1]
	if len(p.code) > maxBytecode {
		return nil, fmt.Errorf("%w: %d bytes of bytecode, limit %d", ErrFilterTooLarge, len(p.code), maxBytecode)
	}
	p.labels[accept] = len(p.code)
	p.labels[reject] = len(p.code) + sizeofOp
	for _, j := range p.jumps {
		binary.NativeEndian.PutUint16(p.code[j.at+2:], uint16(p.labels[j.to]-j.at))
	}
	return p.code, nil
}
