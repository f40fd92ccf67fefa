package bytecode

import (
	"fmt"
	"testing"
)

// The mirror of the audit is only worth something if it refuses what the kernel refuses.
func TestBytecodeAuditRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		code []byte
		want string
	}{
		{"nothing", nil, "0 bytes: no op"},
		{"an unknown code", Assemble(Op{14, 4, 4}), "code 14 at 0 is not one of a port filter"},
		{"a comparison without its port", Assemble(Op{2, 8, 8}), "comparison at 0 has no port"},
		{"no into the own operand", Assemble(Op{2, 8, 4}, Op{}), "no of 4 at 0, 8 bytes before the end"},
		{"no further than reject", Assemble(Op{2, 8, 16}, Op{}), "no of 16 at 0, 8 bytes before the end"},
		{"no off the grid", Assemble(Op{2, 8, 10}, Op{}), "no of 10 at 0, 8 bytes before the end"},
		{"no into another operand", Assemble(Op{2, 8, 12}, Op{}, Op{2, 8, 8}, Op{}), "no of 12 at 0 leads into the middle of an op"},
		{"yes into the own operand", Assemble(Op{2, 4, 8}, Op{}), "yes of 4 at 0, 8 bytes before the end"},
		{"yes beyond reject", Assemble(Op{1, 12, 4}), "yes of 12 at 0, 4 bytes before the end"},
		{"yes off the grid", Assemble(Op{2, 10, 8}, Op{}), "yes of 10 at 0, 8 bytes before the end"},
		{"last yes to reject", Assemble(Op{1, 8, 4}), "last yes goes 4 bytes beyond the end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Audit(tt.code)
			if fmt.Sprint(err) != tt.want {
				t.Errorf("error = %v, want %s", err, tt.want)
			}
		})
	}
}
