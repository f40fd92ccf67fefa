//go:build linux

package bindtrace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"

	"github.com/cilium/ebpf/btf"
)

// member is a struct with one member.
func member(of, name string, offset uint32, typ btf.Type) *btf.Struct {
	return &btf.Struct{Name: of, Size: offset + 8, Members: []btf.Member{{Name: name, Offset: btf.Bits(8 * offset), Type: typ}}}
}

// kernelOf is the BTF of a kernel with the port ranges of a socket and of a network namespace.
func kernelOf(t *testing.T, inet, ports btf.Type) *btf.Spec {
	t.Helper()
	b, err := btf.NewBuilder([]btf.Type{
		inet,
		member("net", "ipv4", 200, member("netns_ipv4", "ip_local_ports", 20, member("local_ports", "range", 8, ports))),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// The port ranges have another form on kernels that no test runs on. What a kernel does not have is
// "poison": code that does not run.
func TestPortRangesOfAllKernelsAreFound(t *testing.T) {
	u16, u32 := &btf.Int{Name: "u16", Size: 2}, &btf.Int{Name: "u32", Size: 4}
	pair := &btf.Struct{Size: 4, Members: []btf.Member{{Name: "lo", Type: u16}, {Name: "hi", Type: u16, Offset: 16}}}
	ints := &btf.Array{Index: u32, Type: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Nelems: 2}
	collection, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	var relocations []*btf.CORERelocation
	for i := range collection.Programs["exit_bind"].Instructions {
		r := btf.CORERelocationMetadata(&collection.Programs["exit_bind"].Instructions[i])
		if r != nil && (strings.Contains(r.String(), `"inet_sock`) || strings.Contains(r.String(), `"net___ports`) || strings.Contains(r.String(), `"net___6_3`)) {
			relocations = append(relocations, r)
		}
	}
	for _, tt := range []struct {
		name        string
		inet, ports btf.Type
		want        []string
	}{
		{"before 6.3", member("inet_sock", "other", 40, u32), ints, []string{"228", "232"}},
		{"6.3", member("inet_sock", "local_port_range", 40, pair), ints, []string{"228", "232", "40", "42"}},
		{"6.8", member("inet_sock", "local_port_range", 40, u32), u32, []string{"228", "40"}},
	} {
		fixups, err := btf.CORERelocate(relocations, []*btf.Spec{kernelOf(t, tt.inet, tt.ports)}, binary.LittleEndian,
			func(btf.Type) (btf.TypeID, error) { return 1, nil })
		if err != nil {
			t.Fatal(err)
		}
		var offsets []string
		for _, f := range fixups {
			if at, ok := strings.CutPrefix(f.String(), "byte_off="); ok && at != "poison" {
				_, at, _ = strings.Cut(at, "->")
				offsets = append(offsets, at)
			}
		}
		slices.Sort(offsets)
		if got := slices.Compact(offsets); !slices.Equal(got, tt.want) {
			t.Errorf("%s: reads %v, want %v of %s", tt.name, got, tt.want, fmt.Sprint(relocations))
		}
	}
}

// The verifier gives a program up that takes it a million instructions. How many it takes differs between
// kernels: each path through a program may be followed.
func TestProgramsAreEasyToVerify(t *testing.T) {
	const most = 200_000
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		for _, p := range tr.programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := info.VerifiedInstructions()
			if !ok {
				kerneltest.Skip(t, "the kernel does not say what programs took to verify (Linux 5.16)")
			}
			t.Logf("%s: %d", info.Name, n)
			if n == 0 || n > most {
				t.Errorf("%s took the verifier %d instructions, want 1 to %d", info.Name, n, most)
			}
		}
	})
}
