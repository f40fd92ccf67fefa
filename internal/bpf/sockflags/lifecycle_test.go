package sockflags_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
)

var errTooSlow = errors.New("too slow")

func TestReadEndsWithItsContext(t *testing.T) {
	for _, mode := range bothModes {
		t.Run(string(mode), func(t *testing.T) {
			r := newReader(t, sockflags.Options{Mode: mode})
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errTooSlow)
			if _, err := r.Read(ctx, sockflags.Request{}); !errors.Is(err, errTooSlow) {
				t.Errorf("error %v, want %v", err, errTooSlow)
			}
		})
	}
}

// A Read that ends early, at any moment, leaves nothing to the next one.
func TestReadAfterCancelledReadsIsExact(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	const n = 20_000
	ports := []uint16{port, port + 1}
	timewait.MustMake(t, ns, timewait.Options{Count: n, Ports: ports})
	req := sockflags.Request{NetNS: ns.FD(), Ports: ports}
	cut := 0
	for i := range 50 {
		ctx, cancel := context.WithCancelCause(t.Context())
		began := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			close(began)
			time.Sleep(time.Duration(i) * time.Millisecond) // a little later each time
			cancel(errTooSlow)
		})
		<-began
		_, err := r.Read(ctx, req)
		wg.Wait()
		switch {
		case errors.Is(err, errTooSlow):
			cut++
		case err != nil:
			t.Fatal(err)
		}
		if got := total(read(t, r, req)); got != n {
			t.Fatalf("after %d reads that were cut short: %d sockets, want %d", cut, got, n)
		}
	}
	if cut == 0 {
		t.Error("no read was cut short")
	}
}

func TestConcurrentReadsDoNotMix(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	const readers = 8
	var wg sync.WaitGroup
	for i := range readers {
		ns := kerneltest.New(t)
		l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
		l.Peers(t, kerneltest.StateEstablished, i+1, v4lo)
		want := map[uint64]sockflags.Flags{cookieOf(t, l.FD()): noFlags}
		wg.Go(func() {
			for range 20 {
				got, err := r.Read(t.Context(), sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})
				if err != nil {
					t.Error(err)
					return
				}
				if total(got) != uint64(i+1) || !maps.Equal(got.Listeners, want) {
					t.Errorf("listeners %v, groups %+v; want %v and %d sockets", got.Listeners, got.Groups, want, i+1)
				}
			}
		})
	}
	wg.Wait()
}

func TestReadAfterCloseFails(t *testing.T) {
	for _, mode := range bothModes {
		t.Run(string(mode), func(t *testing.T) {
			r := newReader(t, sockflags.Options{Mode: mode})
			for range 2 {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := r.Read(t.Context(), sockflags.Request{}); !errors.Is(err, sockflags.ErrClosed) {
				t.Errorf("error %v, want %v", err, sockflags.ErrClosed)
			}
		})
	}
}

func TestNothingIsOpenAfterClose(t *testing.T) {
	ns, id := withListener(t)
	newReader(t, sockflags.Options{}) // the library keeps some things open, such as the kernel's BTF
	before := descriptors(t)
	for _, mode := range bothModes {
		r, err := sockflags.New(sockflags.Options{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		req := sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}, Listeners: []sockflags.ListenerID{id}}
		if got := read(t, r, req); len(got.Listeners) != 1 {
			t.Fatalf("%s: listeners %v, want one", mode, got.Listeners)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if after := descriptors(t); !maps.Equal(after, before) {
			t.Errorf("%s: descriptors %v, before %v", mode, after, before)
		}
	}
}

// descriptors counts the descriptors of this process by kind.
func descriptors(t *testing.T) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]int)
	for _, e := range entries {
		what, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil { // the descriptor of the directory itself is closed by now
			open[what]++
		}
	}
	return open
}
