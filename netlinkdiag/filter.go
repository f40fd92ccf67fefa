package netlinkdiag

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrFilterTooLarge is wrapped by the error of [Conn.Dump] when a [PortFilter] does not fit
// into a request. 4,680 single ports or 3,640 longer ranges always fit if all are local or
// all are remote, a few less otherwise.
var ErrFilterTooLarge = errors.New("port filter too large")

// PortRange is a range of ports, from First to Last inclusive.
type PortRange struct{ First, Last uint16 }

// Port returns the range that has only the port p.
func Port(p uint16) PortRange { return PortRange{p, p} }

// String returns "80" or "8000-8010".
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Contains says whether the range has the port p.
func (r PortRange) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// PortFilter selects the sockets whose local port is in one of the Local ranges, or whose
// remote port is in one of the Remote ranges. The zero filter selects all sockets. A socket
// without a peer, such as a listener, has remote port 0.
//
// Ranges may overlap, in any order. Conn.Dump refuses a range whose First is above its
// Last. The kernel does a binary search for each socket. Once for each dump it audits the
// filter, which takes time that grows with the square of the number of ranges: 0.2 ms for
// 512 ports, 23 ms at most (Linux 6.18).
type PortFilter struct{ Local, Remote []PortRange }

// Match says whether f selects a socket with these ports. It takes time proportional to
// the number of ranges.
func (f PortFilter) Match(local, remote uint16) bool {
	return len(f.Local)+len(f.Remote) == 0 || anyContains(f.Local, local) || anyContains(f.Remote, remote)
}

func anyContains(ranges []PortRange, p uint16) bool {
	for _, r := range ranges {
		if r.Contains(p) {
			return true
		}
	}
	return false
}

// normalise sorts the ranges and merges those that overlap or touch. Between two ranges of
// the result there is at least one port.
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

// compile returns the value of INET_DIAG_REQ_BYTECODE that does what Match does, or nil
// where f selects all sockets.
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

	// The smaller tree comes first: each of its rejects is a jump to the larger one, and
	// for each such jump valid_cc walks over the whole smaller tree.
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

// Codes of struct inet_diag_bc_op. Linux 4.16 added the EQ codes.
const (
	bcJMP = 1
	bcSGE = 2
	bcSLE = 3
	bcDGE = 4
	bcDLE = 5
	bcSEQ = 11
	bcDEQ = 12
)

// comparisons are the codes that compare the local or the remote port.
type comparisons struct{ ge, le, eq byte }

var (
	localPort  = comparisons{ge: bcSGE, le: bcSLE, eq: bcSEQ}
	remotePort = comparisons{ge: bcDGE, le: bcDLE, eq: bcDEQ}
)

const (
	sizeofOp      = 4            // struct inet_diag_bc_op
	sizeofCompare = 2 * sizeofOp // valid_port_comparison: the port is in the field no of a second op

	// maxBytecode is the size limit of a netlink attribute, whose 16-bit length includes
	// its header. The longest jump, from the first op to reject, fits into the field no.
	maxBytecode = (math.MaxUint16 - 4) &^ (sizeofOp - 1)
)

// A label is the target of jumps. Its offset may become known after them.
type label int

const (
	accept label = iota // the end
	reject              // one op beyond the end: inet_diag_bc_run accepts only at the exact end
)

// A program is bytecode under construction. In an op the field yes has 8 bits and no has
// 16. So yes always leads to the next op, and no is the jump. valid_cc follows only yes,
// so every op is a valid jump target.
type program struct {
	code   []byte
	labels []int // offset by label
	jumps  []jump
}

// A jump is an op whose field no is not filled in yet.
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

// compare continues where the comparison is true, and jumps to no where it is false.
func (p *program) compare(code byte, port uint16, no label) {
	p.jumps = append(p.jumps, jump{len(p.code), no})
	p.code = append(p.code, code, sizeofCompare, 0, 0, 0, 0)
	p.code = binary.NativeEndian.AppendUint16(p.code, port)
}

func (p *program) jump(to label) {
	p.jumps = append(p.jumps, jump{len(p.code), to})
	p.code = append(p.code, bcJMP, sizeofOp, 0, 0)
}

// tree compiles normalised ranges to a binary search whose leaves have two ranges. from is
// the lowest port that can get here.
//
// Leaves have two ranges because the first range of every leaf, except the leftmost, starts
// at from. One comparison decides on it, without a jump within the program. For each jump
// within the program valid_cc walks from the start: that makes the kernel's audit quadratic.
func (p *program) tree(port comparisons, ranges []PortRange, from uint16, no label) {
	if len(ranges) <= 2 {
		p.leaf(port, ranges, from, no)
		return
	}
	middle := (len(ranges)/2 + 1) &^ 1 // even: only the last leaf can have a single range
	below := p.label()
	p.compare(port.ge, ranges[middle].First, below)
	p.tree(port, ranges[middle:], ranges[middle].First, no)
	p.place(below)
	p.tree(port, ranges[:middle], from, no)
}

// leaf tries one range after the other. Its last op is a jump to accept.
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
	below, above := r.First > from, r.Last < math.MaxUint16 // ports that can still get here
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

// link removes the last op, which jumps to the end where it already is, and fills in the
// jumps.
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
