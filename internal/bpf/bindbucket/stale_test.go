package bindbucket_test

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"sockstate_exporter/internal/bpf/bpftest"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// positions are where the programs that this process has loaded are.
func positions(t *testing.T) (found []*ebpf.Map) {
	t.Helper()
	loaded := make(bpftest.Loaded)
	loaded.Add(t, os.Getpid())
	for what := range loaded {
		number, isMap := strings.CutPrefix(what, "map_id ")
		if !isMap {
			continue
		}
		id, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			continue // of a test before this one
		}
		t.Cleanup(func() { _ = m.Close() })
		if info, err := m.Info(); err == nil && strings.Contains(info.Name, "position") {
			found = append(found, m)
		}
	}
	return found
}

// What a run has left behind, such as a list that had changed, is nothing to the next one.
func TestRunsBeginAnew(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: 5})
	want := connections(t, ns, everyPort)
	maps := positions(t)
	if len(maps) == 0 {
		t.Fatal("no map has the position")
	}
	for range 2 {
		for _, m := range maps {
			if err := m.Put(uint32(0), bytes.Repeat([]byte{0xff}, int(m.ValueSize()))); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := r.ReadConnections(ns.FD(), everyPort, nil); err != nil || len(got) != len(want) {
			t.Errorf("%d connections, %v; want %d", len(got), err, len(want))
		}
		if got, err := r.Read(ns.FD(), []uint16{port}); err != nil || len(got.Sockets) < 5 || len(got.Missed) > 0 {
			t.Errorf("%+v, %v; want all sockets of the port", got, err)
		}
	}
}
