package sockflags

import (
	"context"
	"maps"
	"net/netip"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

// When the context ends, the program fills the iterator's buffer and the walk ends, whatever is in
// the socket table.
func TestStoppedWalkComesBackBeforeItsEnd(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1000, Ports: []uint16{1}})
	r, err := New(Options{Mode: ModeBPF})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	it, ok := r.source.(*iterator)
	if !ok {
		t.Fatalf("reads by %T", r.source)
	}
	ctx, cancel := context.WithCancel(t.Context())
	letGo := it.stopWith(ctx, sockflagsConfig{})
	cancel()
	letGo()
	file, err := it.open(ns.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	n, err := file.Read(make([]byte, seqBufSize))

	var end sockflagsResults
	if err := it.objs.Results.Lookup(uint32(0), &end); err != nil {
		t.Fatal(err)
	}
	if n == 0 || err != nil || end.End != 0 {
		t.Errorf("read %d bytes (%v), walk ended %d; want some, and a walk that goes on", n, err, end.End)
	}
}

// A walk that ended early can leave groups, a group that is not in the map yet, and misses.
func TestReadForgetsWhatACutWalkLeft(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ports := []uint16{1, 2, 3, 4}
	for _, p := range ports {
		l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p), kerneltest.Options{})
		l.Peers(t, kerneltest.StateTimeWait, 3, netip.MustParseAddr("127.0.0.1"))
	}
	r, err := New(Options{Mode: ModeBPF})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	it, ok := r.source.(*iterator)
	if !ok {
		t.Fatalf("reads by %T", r.source)
	}
	req := Request{NetNS: ns.FD(), Ports: ports}
	want, err := r.Read(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}

	it.dirty = true
	file, err := it.open(ns.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := it.walk(t.Context(), file, &Result{Listeners: make(map[uint64]Flags), NamedPort: make(map[uint64]bool)}, Request{}); err != nil {
		t.Fatal(err)
	}
	var left sockflagsResults
	left.Last.Port, left.Pending.Count, left.Missed = 1, 5, 7
	if err := it.objs.Results.Put(uint32(0), &left); err != nil {
		t.Fatal(err)
	}

	got, err := r.Read(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := counts(got), counts(want); !maps.Equal(a, b) || len(a) != 4 || got.Missed != nil {
		t.Errorf("sockets by port %v, missed %v; at first %v", a, got.Missed, b)
	}
}

func counts(r *Result) map[uint16]uint64 {
	sums := make(map[uint16]uint64)
	for _, g := range r.Groups {
		sums[g.Port] += g.Count
	}
	return sums
}
