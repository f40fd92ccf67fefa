// Package bpftest helps to test that nothing stays in the kernel of eBPF programs.
package bpftest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Loaded has what processes have loaded and attached, as their /proc/PID/fdinfo names it: "prog_id 7".
type Loaded map[string]bool

// Add adds what a process has open.
func (l Loaded) Add(t testing.TB, pid int) {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		f, err := os.Open(info)
		if errors.Is(err, os.ErrNotExist) {
			continue // the one that was open while the directory was read
		}
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			what, number, _ := strings.Cut(lines.Text(), ":")
			if what == "prog_id" || what == "map_id" || what == "link_id" {
				l[what+" "+strings.TrimSpace(number)] = true
			}
		}
		_ = f.Close()
	}
}

// Left returns what the kernel still has. It frees programs and maps some time after their last descriptor is
// closed.
func (l Loaded) Left(t testing.TB) (left []string) {
	t.Helper()
	for id := range l {
		what, number, _ := strings.Cut(id, " ")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		var closer io.Closer
		switch what {
		case "prog_id":
			closer, err = ebpf.NewProgramFromID(ebpf.ProgramID(n))
		case "map_id":
			closer, err = ebpf.NewMapFromID(ebpf.MapID(n))
		case "link_id":
			closer, err = link.NewFromID(link.ID(n))
		}
		switch {
		case err == nil:
			left = append(left, id)
			_ = closer.Close()
		case !errors.Is(err, os.ErrNotExist):
			t.Fatalf("%s: %v", id, err)
		}
	}
	slices.Sort(left)
	return left
}
