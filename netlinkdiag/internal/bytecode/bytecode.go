// Package bytecode is what the kernel does with the bytecode of a port filter
// (net/ipv4/inet_diag.c), for tests: it runs and audits programs, and counts what they cost.
//
// The codes are plain numbers here, not those of package netlinkdiag, so that a wrong one
// there shows.
package bytecode

import (
	"encoding/binary"
	"fmt"
)

// Op is struct inet_diag_bc_op.
type Op struct {
	Code, Yes byte
	No        uint16
}

const sizeofOp = 4

func opAt(code []byte, at int) Op {
	return Op{code[at], code[at+1], binary.NativeEndian.Uint16(code[at+2:])}
}

// Run is inet_diag_bc_run for the codes that a port filter uses. ops is how many it took.
func Run(code []byte, sport, dport uint16) (pass bool, ops int) {
	left := len(code)
	for left > 0 {
		ops++
		at := len(code) - left
		op := opAt(code, at)
		operand := func() uint16 { return opAt(code, at+sizeofOp).No }
		yes := true
		switch op.Code {
		case 1: // INET_DIAG_BC_JMP
			yes = false
		case 2: // INET_DIAG_BC_S_GE
			yes = sport >= operand()
		case 3: // INET_DIAG_BC_S_LE
			yes = sport <= operand()
		case 4: // INET_DIAG_BC_D_GE
			yes = dport >= operand()
		case 5: // INET_DIAG_BC_D_LE
			yes = dport <= operand()
		case 11: // INET_DIAG_BC_S_EQ
			yes = sport == operand()
		case 12: // INET_DIAG_BC_D_EQ
			yes = dport == operand()
		}
		if yes {
			left -= int(op.Yes)
		} else {
			left -= int(op.No)
		}
	}
	return left == 0, ops
}

// Audit is inet_diag_bc_audit: an error where the kernel answers EINVAL. steps is what
// the audit costs: the ops looked at, again and again, by it and by valid_cc.
func Audit(code []byte) (steps int, err error) {
	if len(code) < sizeofOp {
		return 0, fmt.Errorf("%d bytes: no op", len(code))
	}
	left := len(code)
	for left > 0 {
		steps++
		at := len(code) - left
		if left < sizeofOp { // the kernel reads on, beyond the attribute
			return steps, fmt.Errorf("op at %d is cut short", at)
		}
		minLen, op := sizeofOp, opAt(code, at)
		switch op.Code {
		case 2, 3, 4, 5, 11, 12: // valid_port_comparison
			minLen += sizeofOp
			if left < minLen {
				return steps, fmt.Errorf("comparison at %d has no port", at)
			}
		case 1:
		default:
			return steps, fmt.Errorf("code %d at %d is not one of a port filter", op.Code, at)
		}
		no, yes := int(op.No), int(op.Yes)
		if no < minLen || no > left+4 || no&3 != 0 {
			return steps, fmt.Errorf("no of %d at %d, %d bytes before the end", no, at, left)
		}
		if no < left {
			n, ok := validCC(code, left-no)
			if steps += n; !ok {
				return steps, fmt.Errorf("no of %d at %d goes into an op", no, at)
			}
		}
		if yes < minLen || yes > left+4 || yes&3 != 0 {
			return steps, fmt.Errorf("yes of %d at %d, %d bytes before the end", yes, at, left)
		}
		left -= yes
	}
	if left != 0 {
		return steps, fmt.Errorf("last yes goes %d bytes beyond the end", -left)
	}
	return steps, nil
}

// validCC is valid_cc: whether following yes from the start gets to the place that is cc
// bytes before the end.
func validCC(code []byte, cc int) (steps int, ok bool) {
	left := len(code)
	for left >= 0 {
		steps++
		if cc > left {
			return steps, false
		}
		if cc == left {
			return steps, true
		}
		op := opAt(code, len(code)-left)
		if op.Yes < 4 || op.Yes&3 != 0 {
			return steps, false
		}
		left -= int(op.Yes)
	}
	return steps, false
}

// Assemble is the bytecode of some ops; a comparison's operand follows as an op of its own.
func Assemble(ops ...Op) []byte {
	var code []byte
	for _, op := range ops {
		code = append(code, op.Code, op.Yes)
		code = binary.NativeEndian.AppendUint16(code, op.No)
	}
	return code
}
