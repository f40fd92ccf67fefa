package netlinkdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"

	"sockstate_exporter/netlinkdiag/internal/bytecode"
)

// reject4 returns the field no that means reject, for an op that is left bytes before the
// end.
func reject4(left uint16) uint16 { return left + 4 }

func op(code, yes byte, no uint16) bytecode.Op { return bytecode.Op{Code: code, Yes: yes, No: no} }

func operand(port uint16) bytecode.Op { return bytecode.Op{No: port} }

func TestFilterCompilesTo(t *testing.T) {
	for _, tt := range []struct {
		name   string
		filter PortFilter
		want   []byte
	}{
		{"zero filter", PortFilter{}, nil},
		{"empty ranges", PortFilter{Local: []PortRange{}}, nil},
		{"every local port", PortFilter{Local: []PortRange{{0, 65535}}, Remote: []PortRange{Port(5)}}, nil},
		{"every remote port", PortFilter{Local: []PortRange{Port(5)}, Remote: []PortRange{{0, 65535}}}, nil},
		{"every port in pieces", PortFilter{Local: []PortRange{{500, 65535}, {0, 10}, {7, 499}}}, nil},
		{"one local port", PortFilter{Local: []PortRange{Port(80)}},
			bytecode.Assemble(op(11, 8, reject4(8)), operand(80))},
		{"one remote port", PortFilter{Remote: []PortRange{Port(80)}},
			bytecode.Assemble(op(12, 8, reject4(8)), operand(80))},
		{"port 0", PortFilter{Local: []PortRange{Port(0)}},
			bytecode.Assemble(op(3, 8, reject4(8)), operand(0))},
		{"port 65535", PortFilter{Remote: []PortRange{Port(65535)}},
			bytecode.Assemble(op(4, 8, reject4(8)), operand(65535))},
		{"a range", PortFilter{Local: []PortRange{{80, 90}}},
			bytecode.Assemble(op(2, 8, reject4(16)), operand(80), op(3, 8, reject4(8)), operand(90))},
		{"a range from 0", PortFilter{Remote: []PortRange{{0, 1023}}},
			bytecode.Assemble(op(5, 8, reject4(8)), operand(1023))},
		{"a range to 65535", PortFilter{Local: []PortRange{{1024, 65535}}},
			bytecode.Assemble(op(2, 8, reject4(8)), operand(1024))},
		{"all but one", PortFilter{Local: []PortRange{{81, 65535}, {0, 79}}},
			bytecode.Assemble(op(2, 8, 16), operand(80), // below 80: accept
				op(2, 8, reject4(8)), operand(81))},
		{"pieces of one range", PortFilter{Local: []PortRange{{85, 90}, {80, 82}, {81, 84}}},
			bytecode.Assemble(op(2, 8, reject4(16)), operand(80), op(3, 8, reject4(8)), operand(90))},
		{"three ports", PortFilter{Local: []PortRange{Port(443), Port(22), Port(80)}},
			bytecode.Assemble(op(2, 8, 20), operand(443), // at least 443
				op(3, 8, reject4(36)), operand(443),
				op(1, 4, 28),
				op(2, 8, reject4(24)), operand(22), // below
				op(2, 8, 16), operand(23),
				op(11, 8, reject4(8)), operand(80))},
		{"local or remote", PortFilter{Local: []PortRange{Port(80)}, Remote: []PortRange{Port(5432)}},
			bytecode.Assemble(op(12, 8, 12), operand(5432), op(1, 4, 12),
				op(11, 8, reject4(8)), operand(80))},
		{"the smaller side first", PortFilter{Local: []PortRange{Port(80)}, Remote: []PortRange{{0, 10}, {20, 65535}}},
			bytecode.Assemble(op(11, 8, 12), operand(80), op(1, 4, 20),
				op(4, 8, 16), operand(11), op(4, 8, reject4(8)), operand(20))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.filter.compile()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, tt.want) || (got == nil) != (tt.want == nil) {
				t.Errorf("compiles to\n%v, want\n%v", got, tt.want)
			}
		})
	}
}

func TestFilterCompileLeavesRangesAlone(t *testing.T) {
	ranges := []PortRange{{9, 20}, {1, 5}, {6, 8}}
	before := slices.Clone(ranges)
	if _, err := (PortFilter{Local: ranges, Remote: ranges}).compile(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ranges, before) {
		t.Errorf("the caller's ranges became %v, were %v", ranges, before)
	}
}

func TestFilterRefusesReversedRange(t *testing.T) {
	for _, tt := range []struct {
		filter PortFilter
		want   string
	}{
		{PortFilter{Local: []PortRange{Port(1), {90, 80}}}, "local: port range 90-80 is reversed"},
		{PortFilter{Local: []PortRange{{0, 65535}}, Remote: []PortRange{{65535, 0}}}, "remote: port range 65535-0 is reversed"},
	} {
		if code, err := tt.filter.compile(); code != nil || fmt.Sprint(err) != tt.want {
			t.Errorf("%v: compiled to %d bytes, error %v; want error %s", tt.filter, len(code), err, tt.want)
		}
	}
}

// spread returns n ranges of width ports each, as far apart as possible. The first does not
// start at 0, and the last does not end at 65535.
func spread(n, width int) []PortRange {
	ranges := make([]PortRange, n)
	for i := range ranges {
		first := 1 + i*(65535-width)/n
		ranges[i] = PortRange{uint16(first), uint16(first + width - 1)}
	}
	return ranges
}

// The limit of a filter is the size of an attribute. Its bytecode takes 28 bytes for two
// ports, 36 for two longer ranges.
func TestFilterLimit(t *testing.T) {
	for _, tt := range []struct {
		name          string
		local, remote int // ranges of the largest filter
		width         int
		size          int    // of its bytecode
		refusal       string // of one more local range
	}{
		{"local ports", 4680, 0, 1, 65516,
			"4681 local and 0 remote port ranges: port filter too large: 65536 bytes of bytecode, limit 65528"},
		{"local ranges", 3640, 0, 2, 65516,
			"3641 local and 0 remote port ranges: port filter too large: 65536 bytes of bytecode, limit 65528"},
		{"ports on both sides", 2340, 2340, 1, 65516,
			"2341 local and 2340 remote port ranges: port filter too large: 65536 bytes of bytecode, limit 65528"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			largest := PortFilter{spread(tt.local, tt.width), spread(tt.remote, tt.width)}
			code, err := largest.compile()
			if err != nil || len(code) != tt.size {
				t.Errorf("compiled to %d bytes, error %v; want %d bytes", len(code), err, tt.size)
			}

			larger := PortFilter{spread(tt.local+1, tt.width), spread(tt.remote, tt.width)}
			code, err = larger.compile()
			if code != nil || !errors.Is(err, ErrFilterTooLarge) || err.Error() != tt.refusal {
				t.Errorf("one range more compiled to %d bytes, error %v; want error %s", len(code), err, tt.refusal)
			}
		})
	}
}

// maxAuditSteps is about 25 ms in the kernel, at 1.4 ns for each step as measured on Linux
// 6.18. sendmsg(2) takes that time once for each request.
const maxAuditSteps = 17_500_000

func TestFilterLargestIsCheapToAudit(t *testing.T) {
	for _, f := range []PortFilter{
		{Local: spread(4680, 1)},
		{Local: spread(3640, 2)},
		{Local: spread(4678, 1), Remote: spread(1, 1)},
		{Local: spread(1, 2), Remote: spread(3638, 2)},
		{Local: spread(2340, 1), Remote: spread(2340, 1)},
		{Local: spread(1820, 2), Remote: spread(1819, 2)},
	} {
		t.Run(fmt.Sprintf("%d and %d ranges", len(f.Local), len(f.Remote)), func(t *testing.T) {
			code, err := f.compile()
			if err != nil {
				t.Fatal(err)
			}
			steps, err := bytecode.Audit(code)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes, %d steps", len(code), steps)
			if steps > maxAuditSteps {
				t.Errorf("the audit takes %d steps, want at most %d", steps, maxAuditSteps)
			}
		})
	}
}

// One comparison for each level of the tree, then at most five ops, those of the leftmost
// leaf.
func TestFilterRunsInLogarithmicTime(t *testing.T) {
	bound := func(n int) int {
		leaves := (n + 1) / 2
		if n == 0 {
			return 0
		}
		return bits.Len(uint(leaves-1)) + 5
	}
	for _, width := range []int{1, 3} {
		for _, n := range [][2]int{{1, 0}, {2, 0}, {3, 0}, {5, 0}, {6, 0}, {0, 7}, {64, 0}, {65, 3}, {1000, 0}, {1025, 1024}, {3638, 1}} {
			t.Run(fmt.Sprintf("%d and %d ranges of %d", n[0], n[1], width), func(t *testing.T) {
				f := PortFilter{spread(n[0], width), spread(n[1], width)}
				code, err := f.compile()
				if err != nil {
					t.Fatal(err)
				}
				most := 0
				// Port 0 is in no range: the other side's program runs to a reject too.
				for _, p := range interesting(slices.Concat(f.Local, f.Remote)) {
					for _, ports := range [][2]uint16{{p, 0}, {0, p}, {p, p}} {
						_, ops := bytecode.Run(code, ports[0], ports[1])
						most = max(most, ops)
					}
				}
				if limit := bound(n[0]) + bound(n[1]); most > limit {
					t.Errorf("runs %d ops for a socket, want at most %d", most, limit)
				}
			})
		}
	}
}

// All shapes of small trees, and some large trees, tested at both ends of every range.
func TestFilterProgramPassesPortsInRanges(t *testing.T) {
	sizes := []int{513, 3640}
	for n := range 40 {
		sizes = append(sizes, n+1)
	}
	for _, n := range sizes {
		for _, width := range []int{1, 2, 7} {
			ranges := spread(n, width)
			in := newPortSet(ranges)
			for _, side := range []struct {
				name   string
				filter PortFilter
				ports  func(p uint16) (local, remote uint16)
			}{
				{"local", PortFilter{Local: ranges}, func(p uint16) (uint16, uint16) { return p, 1 }},
				{"remote", PortFilter{Remote: ranges}, func(p uint16) (uint16, uint16) { return 1, p }},
			} {
				code, err := side.filter.compile()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := bytecode.Audit(code); err != nil {
					t.Fatalf("%d %s ranges of %d: the kernel refuses the program: %v", n, side.name, width, err)
				}
				for _, p := range interesting(ranges) {
					local, remote := side.ports(p)
					if pass, _ := bytecode.Run(code, local, remote); pass != in[p] {
						t.Fatalf("%d %s ranges of %d: port %d passes: %v, want %v", n, side.name, width, p, pass, in[p])
					}
				}
			}
		}
	}
}

func TestFilterMatch(t *testing.T) {
	f := PortFilter{Local: []PortRange{Port(80), {8000, 8010}}, Remote: []PortRange{{65530, 65535}}}
	for _, tt := range []struct {
		filter        PortFilter
		local, remote uint16
		want          bool
	}{
		{PortFilter{}, 1, 2, true},
		{f, 80, 0, true},
		{f, 79, 0, false},
		{f, 81, 0, false},
		{f, 8000, 0, true},
		{f, 8010, 0, true},
		{f, 8011, 0, false},
		{f, 0, 65535, true},
		{f, 0, 65529, false},
		{f, 0, 80, false},
		{f, 65535, 0, false},
		{f, 80, 65535, true},
		{PortFilter{Local: []PortRange{{90, 80}}}, 85, 0, false},
	} {
		if got := tt.filter.Match(tt.local, tt.remote); got != tt.want {
			t.Errorf("%v.Match(%d, %d) = %v, want %v", tt.filter, tt.local, tt.remote, got, tt.want)
		}
	}
}

func TestFilterMatchDoesNotAllocate(t *testing.T) {
	f := PortFilter{Local: spread(100, 1), Remote: spread(100, 2)}
	if n := testing.AllocsPerRun(100, func() { f.Match(65535, 65535) }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

func TestPortRangeString(t *testing.T) {
	for r, want := range map[PortRange]string{
		Port(80):     "80",
		{8000, 8010}: "8000-8010",
		{0, 65535}:   "0-65535",
		{90, 80}:     "90-80",
	} {
		if got := r.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}

// fuzzFilter decodes a filter of up to 64 ranges from arbitrary bytes: how many ranges are
// local, then the first and last port of each. A last port of 0 means a single port. The top
// bit of the first byte allows reversed ranges.
func fuzzFilter(data []byte) PortFilter {
	if len(data) == 0 {
		return PortFilter{}
	}
	local, keepReversed, data := int(data[0]&0x7f), data[0]&0x80 != 0, data[1:]
	var ranges []PortRange
	for ; len(data) >= 4 && len(ranges) < 64; data = data[4:] {
		r := PortRange{binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])}
		if r.Last == 0 {
			r.Last = r.First
		}
		if r.First > r.Last && !keepReversed {
			r.First, r.Last = r.Last, r.First
		}
		ranges = append(ranges, r)
	}
	local = min(local, len(ranges))
	return PortFilter{ranges[:local], ranges[local:]}
}

// portSet is a set of ports, in the simplest representation.
type portSet [math.MaxUint16 + 1]bool

func newPortSet(ranges []PortRange) *portSet {
	var s portSet
	for _, r := range ranges {
		for p := int(r.First); p <= int(r.Last); p++ {
			s[p] = true
		}
	}
	return &s
}

// interesting returns the ports around both ends of every range.
func interesting(ranges []PortRange, more ...uint16) []uint16 {
	ports := append(more, 0, math.MaxUint16)
	for _, r := range ranges {
		ports = append(ports, r.First-1, r.First, r.First+1, r.Last-1, r.Last, r.Last+1)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// outside returns a port that is not in the set, if there is one.
func (s *portSet) outside() uint16 { return uint16(max(0, slices.Index(s[:], false))) }

// FuzzFilter checks for any ranges that the kernel accepts the program, and that the program
// passes the same sockets as Match: those with a port in a range.
func FuzzFilter(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, sport, dport uint16) {
		filter := fuzzFilter(data)
		code, err := filter.compile()
		if slices.ContainsFunc(slices.Concat(filter.Local, filter.Remote), func(r PortRange) bool { return r.First > r.Last }) {
			if code != nil || err == nil {
				t.Fatalf("%v: compiled to %d bytes, error %v, with a reversed range", filter, len(code), err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%v: %v", filter, err)
		}
		if code != nil {
			if _, err := bytecode.Audit(code); err != nil {
				t.Fatalf("%v: the kernel refuses the program %v: %v", filter, code, err)
			}
		}

		local, remote := newPortSet(filter.Local), newPortSet(filter.Remote)
		all := len(filter.Local)+len(filter.Remote) == 0
		check := func(s, d uint16) {
			want := all || local[s] || remote[d]
			if got := filter.Match(s, d); got != want {
				t.Fatalf("%v: Match(%d, %d) = %v, want %v", filter, s, d, got, want)
			}
			pass, _ := bytecode.Run(code, s, d)
			if pass != want {
				t.Fatalf("%v: the kernel's answer to (%d, %d) is %v, want %v; program %v", filter, s, d, pass, want, code)
			}
		}
		check(sport, dport)
		// The side that is not looked at must not be what lets the socket pass.
		for _, p := range interesting(filter.Local, sport) {
			check(p, dport)
			check(p, remote.outside())
		}
		for _, p := range interesting(filter.Remote, dport) {
			check(sport, p)
			check(local.outside(), p)
		}
	})
}
