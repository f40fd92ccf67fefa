package sockflags_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
)

// loaded has the ids of what a process has loaded, by their names in /proc/PID/fdinfo: prog_id,
// map_id, link_id.
type loaded map[string][]uint32

func loadedBy(t *testing.T, pid int) loaded {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	l := make(loaded)
	for _, info := range infos {
		f, err := os.Open(info)
		if err != nil {
			continue // the one that was open while the directory was read
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			what, number, _ := strings.Cut(lines.Text(), ":")
			id, err := strconv.ParseUint(strings.TrimSpace(number), 10, 32)
			known := what == "prog_id" || what == "map_id" || what == "link_id"
			if err == nil && known && !slices.Contains(l[what], uint32(id)) {
				l[what] = append(l[what], uint32(id))
			}
		}
		_ = f.Close()
	}
	return l
}

// left returns what is still loaded.
func (l loaded) left(t *testing.T) loaded {
	t.Helper()
	left := make(loaded)
	for what, ids := range l {
		for _, id := range ids {
			var c interface{ Close() error }
			var err error
			switch what {
			case "prog_id":
				c, err = ebpf.NewProgramFromID(ebpf.ProgramID(id))
			case "map_id":
				c, err = ebpf.NewMapFromID(ebpf.MapID(id))
			case "link_id":
				c, err = link.NewFromID(link.ID(id))
			}
			switch {
			case err == nil:
				left[what] = append(left[what], id)
				_ = c.Close()
			case !errors.Is(err, os.ErrNotExist):
				t.Fatalf("%s %d: %v", what, id, err)
			}
		}
	}
	return left
}

// waitGone waits until nothing is loaded. The kernel frees programs and maps some time after their
// last descriptor is closed.
func (l loaded) waitGone(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(l.left(t)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still loaded: %v", l.left(t))
		}
	}
}

func checkLoaded(t *testing.T, l loaded) {
	t.Helper()
	left := l.left(t)
	if len(left["prog_id"]) != 1 || len(left["link_id"]) != 1 || len(left["map_id"]) != 6 {
		t.Fatalf("loaded %v, want a program, a link and six maps", left)
	}
}

func TestNothingIsLoadedAfterClose(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	l := loadedBy(t, os.Getpid())
	checkLoaded(t, l)
	read(t, r, sockflags.Request{Ports: []uint16{port}})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	l.waitGone(t)
}

func TestNothingIsLoadedAfterSIGKILL(t *testing.T) {
	ns, _ := withListener(t)
	do := task{Mode: sockflags.ModeBPF, Request: sockflags.Request{Ports: []uint16{port}}, Hold: true}
	got, process := start(t, ns, do, unix.CAP_BPF, unix.CAP_PERFMON)
	if got.Err != "" {
		t.Fatal(got.Err)
	}
	l := loadedBy(t, process.Process.Pid)
	checkLoaded(t, l)
	process.Kill()
	l.waitGone(t)
}
