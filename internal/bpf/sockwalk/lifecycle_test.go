package sockwalk_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

func TestTooManyNamespaces(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	req := sockwalk.Request{Namespaces: make([]sockwalk.Namespace, sockwalk.MaxNamespaces+1)}
	if _, err := w.Walk(t.Context(), req, func(*sockwalk.Group) {}); !errors.Is(err, sockwalk.ErrTooMany) {
		t.Errorf("error %v, want %v", err, sockwalk.ErrTooMany)
	}
}

// A user who listens on too many ports, in however many namespaces, does not keep the others from being
// walked.
func TestTooManyPorts(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns, crowded, another := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: 3})
	req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, crowded), of(t, ns, port), of(t, another)}}
	req.Namespaces[0].Serving, req.Namespaces[2].Serving = manyPorts(), manyPorts()
	got, result := walk(t, w, req)
	if want := []bool{true, true, false}; !slices.Equal(result.Found, want) || got.total() != 3 {
		t.Errorf("found %v, and %d sockets; want %v, and 3", result.Found, got.total(), want)
	}
}

func manyPorts() (all []uint16) {
	for p := range 40000 {
		all = append(all, uint16(p))
	}
	return all
}

func TestContextEndsAWalk(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: 3000})
	req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}
	id := &req.Namespaces[0]
	id.LocalPorts.First, id.LocalPorts.Last = port, port
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := w.Walk(ctx, req, func(*sockwalk.Group) { t.Error("visited") }); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	// The next walk has nothing of this one.
	if got, _ := walk(t, w, req); got.total() != 3000 {
		t.Errorf("%d sockets, want 3000", got.total())
	}
}

func TestConcurrentWalks(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	var running sync.WaitGroup
	for i := range 8 {
		ns := kerneltest.New(t)
		timewait.MustMake(t, ns, timewait.Options{Ports: []uint16{port}, Count: 100 + i})
		req := sockwalk.Request{Namespaces: []sockwalk.Namespace{of(t, ns, port)}}
		running.Go(func() {
			for range 10 {
				if got, _ := walk(t, w, req); got.total() != uint64(100+i) {
					t.Errorf("%d sockets, want %d", got.total(), 100+i)
				}
			}
		})
	}
	running.Wait()
}

func TestCloseTwice(t *testing.T) {
	w := newWalker(t, sockwalk.Options{})
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.Walk(t.Context(), sockwalk.Request{}, func(*sockwalk.Group) {}); !errors.Is(err, sockwalk.ErrClosed) {
		t.Errorf("error %v, want %v", err, sockwalk.ErrClosed)
	}
}
