package netlinkdiag_test

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var noContext = context.Background()

// requireCause checks that err is an *Error of this step with exactly this cause.
func requireCause(t *testing.T, err error, op string, cause error) {
	t.Helper()
	want := &netlinkdiag.Error{Op: op, Protocol: tcp, Err: cause}
	if !reflect.DeepEqual(err, error(want)) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

func TestContextEndedBefore(t *testing.T) {
	k := new(diagtest.Kernel)
	c := dial(t, k, 0)
	ctx, cancel := context.WithCancel(noContext)
	cancel()
	for range 100 { // both having the turn and the context's end are ready
		got, err := events(c.Dump(ctx, netlinkdiag.Request{}))
		requireCause(t, err, "open", context.Canceled)
		if len(got) != 1 {
			t.Errorf("yielded %v, want the error alone", got)
		}
	}
	if n := len(k.Requests()); n != 0 {
		t.Errorf("the kernel was asked %d times", n)
	}
	requireClean(t, c, k, 1)
}

func TestContextEndsWhileAnotherDumpHasTheTurn(t *testing.T) {
	k := &diagtest.Kernel{Sockets: []netlinkdiag.Socket{established(1), established(2)}}
	c := dial(t, k, 0)
	n := 0
	for _, err := range c.Dump(noContext, netlinkdiag.Request{}) {
		if err != nil {
			t.Fatalf("the dump that has the turn: %v", err)
		}
		ctx, cancel := context.WithTimeout(noContext, time.Millisecond)
		_, err = events(c.Dump(ctx, netlinkdiag.Request{}))
		cancel()
		requireCause(t, err, "open", context.DeadlineExceeded)
		n++
	}
	if n != 2 {
		t.Errorf("the dump that had the turn yielded %d sockets, want 2", n)
	}
	requireClean(t, c, k, 1)
}

var errGivenUp = errors.New("given up")

// The error is the cause of the context, also where that looks like another error.
func TestContextEndsWhileTheKernelIsWaitedFor(t *testing.T) {
	for _, tt := range []struct {
		name        string
		cause, want error
	}{
		{"without a cause", nil, context.Canceled},
		{"with a cause", errGivenUp, errGivenUp},
		{"with an errno that means a missing module", unix.ENOENT, unix.ENOENT},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(noContext)
			defer cancel(nil)
			k := &diagtest.Kernel{Answer: func(diagtest.Request) []diagtest.Datagram {
				time.AfterFunc(time.Millisecond, func() { cancel(tt.cause) })
				return nil
			}}
			c := dial(t, k, 0)
			got, err := events(c.Dump(ctx, netlinkdiag.Request{}))
			requireCause(t, err, "receive", tt.want)
			if len(got) != 1 {
				t.Errorf("yielded %v, want the error alone", got)
			}
			requireClean(t, c, k, 2)
		})
	}
}

func TestDeadlineWhileTheKernelIsWaitedFor(t *testing.T) {
	k := &diagtest.Kernel{Answer: say()}
	c := dial(t, k, 0)
	// A deadline can pass before the dump begins.
	for timeout := time.Millisecond; len(k.Requests()) == 0; timeout *= 2 {
		ctx, cancel := context.WithTimeout(noContext, timeout)
		_, err := events(c.Dump(ctx, netlinkdiag.Request{}))
		cancel()
		if len(k.Requests()) > 0 {
			requireCause(t, err, "receive", context.DeadlineExceeded)
		}
	}
	requireClean(t, c, k, 2)
}

func TestContextEndsInMidStream(t *testing.T) {
	k := &diagtest.Kernel{Answer: say(sockets(1, 2, 3), sockets(4, 5), done(0))}
	c := dial(t, k, 0)
	ctx, cancel := context.WithCancelCause(noContext)
	defer cancel(nil)
	var got []uint16
	var last error
	for s, err := range c.Dump(ctx, netlinkdiag.Request{}) {
		cancel(errGivenUp)
		if last = err; err == nil {
			got = append(got, s.Local.Port())
		}
	}
	requireCause(t, last, "receive", errGivenUp)
	if want := []uint16{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("yielded %v, want the first datagram's %v", got, want)
	}
	requireClean(t, c, k, 2)
}

// A context that ends while the last datagram is read does not end the dump: it is complete.
func TestContextEndsInTheLastDatagram(t *testing.T) {
	k := &diagtest.Kernel{Sockets: []netlinkdiag.Socket{established(1), established(2)}}
	c := dial(t, k, 0)
	ctx, cancel := context.WithCancel(noContext)
	defer cancel()
	n := 0
	for _, err := range c.Dump(ctx, netlinkdiag.Request{}) {
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("yielded %d sockets, want 2", n)
	}
	requireClean(t, c, k, 2)
}

// An interrupted dump is not restarted when nobody waits for it.
func TestContextEndsInAnInterruptedDump(t *testing.T) {
	k := &diagtest.Kernel{Answer: func(req diagtest.Request) []diagtest.Datagram {
		b := append(sockets(1)(req).Data, diagtest.Interrupted(diagtest.Done(req.Sequence, 0))...)
		return []diagtest.Datagram{{Data: b}}
	}}
	c := dial(t, k, 0)
	ctx, cancel := context.WithCancelCause(noContext)
	defer cancel(nil)
	var last error
	for _, err := range c.Dump(ctx, netlinkdiag.Request{}) {
		cancel(errGivenUp)
		last = err
	}
	requireCause(t, last, "open", errGivenUp)
	if n := len(k.Requests()); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	requireClean(t, c, k, 2)
}

// A context that ends at the same time as its dump must not end the next dump.
func TestLateCancelDoesNotReachTheNextDump(t *testing.T) {
	k := &diagtest.Kernel{Sockets: []netlinkdiag.Socket{established(1)}}
	c := dial(t, k, 0)
	hammerLateCancel(t, c, netlinkdiag.Request{}, 20_000, 1)
	if k.Live() != 1 {
		t.Errorf("%d transports are open, want 1", k.Live())
	}
}

// hammerLateCancel ends contexts at about the time when their dump ends, and checks that
// each dump that follows is complete.
func hammerLateCancel(t *testing.T, c *netlinkdiag.Conn, req netlinkdiag.Request, rounds, sockets int) {
	t.Helper()
	ended := 0
	for i := range rounds {
		ctx, cancel := context.WithCancel(noContext)
		var begin sync.Once
		var canceller sync.WaitGroup
		for _, err := range c.Dump(ctx, req) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("round %d: the dump that is ended: %v", i, err)
				}
				ended++
			}
			begin.Do(func() {
				canceller.Go(func() {
					for range i % 64 {
						_ = os.Getpid() // up to some microseconds
					}
					cancel()
				})
			})
		}
		got, err := collect(c.Dump(noContext, req))
		if err != nil || len(got) != sockets {
			t.Fatalf("round %d: the next dump yielded %d sockets, error %v; want %d", i, len(got), err, sockets)
		}
		canceller.Wait()
		cancel()
	}
	t.Logf("%d of %d dumps were ended", ended, rounds)
}
