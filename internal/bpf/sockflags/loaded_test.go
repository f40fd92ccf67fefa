package sockflags_test

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bpftest"
	"sockstate_exporter/internal/bpf/sockflags"
)

func loadedBy(t *testing.T, pid int) bpftest.Loaded {
	t.Helper()
	l := make(bpftest.Loaded)
	l.Add(t, pid)
	kinds := make(map[string]int)
	for _, id := range l.Left(t) {
		kind, _, _ := strings.Cut(id, " ")
		kinds[kind]++
	}
	if want := map[string]int{"prog_id": 1, "link_id": 1, "map_id": 6}; !maps.Equal(kinds, want) {
		t.Fatalf("loaded %v, want a program, a link and six maps", l)
	}
	return l
}

func waitGone(t *testing.T, l bpftest.Loaded) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(l.Left(t)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still loaded: %v", l.Left(t))
		}
	}
}

func TestNothingIsLoadedAfterClose(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	l := loadedBy(t, os.Getpid())
	read(t, r, sockflags.Request{Ports: []uint16{port}})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, l)
}

func TestNothingIsLoadedAfterSIGKILL(t *testing.T) {
	ns, _ := withListener(t)
	do := task{Mode: sockflags.ModeBPF, Request: sockflags.Request{Ports: []uint16{port}}, Hold: true}
	got, process := start(t, ns, do, unix.CAP_BPF, unix.CAP_PERFMON)
	if got.Err != "" {
		t.Fatal(got.Err)
	}
	l := loadedBy(t, process.Process.Pid)
	process.Kill()
	waitGone(t, l)
}
