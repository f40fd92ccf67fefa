// Package bytecode does for tests what the kernel does with the bytecode of a port filter
// (net/ipv4/inet_diag.c): it audits and runs programs. It also counts the steps.
//
// The codes are plain numbers. Package netlinkdiag has constants of its own, so that tests
// find a wrong one there. Needs no privileges; follows Linux 6.1 and later.
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

// Run does what inet_diag_bc_run does, for the codes that a port filter uses. It returns
// whether the socket passes, and the number of ops that were run.
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

// Audit does what inet_diag_bc_audit does. It returns an error where the kernel answers
// EINVAL, and the number of ops that the audit and valid_cc looked at, with repetitions.
func Audit(code []byte) (steps int, err error) {
	if len(code) < sizeofOp {
		return 0, fmt.Errorf("%d bytes: no op", len(code))
	}
	left := len(code)
	for left > 0 {
		steps++
		at := len(code) - left
		if left < sizeofOp { // the kernel reads on, beyond the attribute
			return steps, fmt.Errorf("op at %d is truncated", at)
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
				return steps, fmt.Errorf("no of %d at %d leads into the middle of an op", no, at)
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

// validCC does what valid_cc does. It says whether a walk from the start that follows only
// yes gets to the place that is cc bytes before the end.
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

// Assemble encodes ops. The operand of a comparison follows it as an op of its own.
func Assemble(ops ...Op) []byte {
	var code []byte
	for _, op := range ops {
		code = append(code, op.Code, op.Yes)
		code = binary.NativeEndian.AppendUint16(code, op.No)
	}
	return code
}
