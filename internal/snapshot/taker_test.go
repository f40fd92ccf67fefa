package snapshot

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

var errEnough = errors.New("waited long enough")

func webServer() []netlinkdiag.Socket {
	return []netlinkdiag.Socket{
		diagtest.Listening("0.0.0.0:80", 1),
		diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:80", "127.0.0.1:4000"),
		diagtest.TimeWait("127.0.0.1:80", "127.0.0.1:4001", 30*time.Second),
		diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:4000", "127.0.0.1:80"),
	}
}

func checkWebServer(t *testing.T, s *Snapshot) {
	t.Helper()
	want := ports.PortSockets{Number: 80, IPv4: ports.FamilySockets{
		States: counts(map[netlinkdiag.State]uint64{
			netlinkdiag.StateListen: 1, netlinkdiag.StateEstablished: 1, netlinkdiag.StateTimeWait: 1,
		}),
		TimeWaitRemaining: 30 * time.Second,
	}}
	if got := port(t, s, 80); got != want {
		t.Errorf("port 80 has %+v, want %+v", got, want)
	}
}

// held makes the fake kernel hold back its answer to what is not a dump of listeners
// until the returned function is called.
func held(f *fake) (release func()) {
	gate := make(chan struct{})
	f.script(nil, func(req diagtest.Request) []diagtest.Datagram {
		<-gate
		return diagtest.Dump(req, f.sockets)
	})
	return func() { close(gate) }
}

// hold keeps the next snapshot from beginning until the returned function is called, after all
// goroutines of the bubble have done what they can.
func hold(taker *Taker) (begin func()) {
	taker.busy <- struct{}{}
	return func() {
		synctest.Wait()
		<-taker.busy
	}
}

func TestOverlappingTakesShareOneSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		release := held(f)
		taker := newTaker(t, f.config(), discovering())

		begin := hold(taker)
		var (
			wg   sync.WaitGroup
			mu   sync.Mutex
			took []Snapshot
		)
		for range 10 {
			wg.Go(func() {
				s := taker.Take(t.Context())
				mu.Lock()
				defer mu.Unlock()
				took = append(took, s)
			})
		}
		begin()
		synctest.Wait()
		release()
		wg.Wait()

		for i := range took {
			checkErrors(t, &took[i], nil, nil, nil, nil)
			checkWebServer(t, &took[i])
			if !reflect.DeepEqual(took[i], took[0]) {
				t.Errorf("snapshot %d differs: %+v, want %+v", i, took[i], took[0])
			}
		}
		if listen, tcp := f.dumps(); listen != 1 || tcp != 1 {
			t.Errorf("%d dumps of listeners and %d of others, want one of each", listen, tcp)
		}
		whole(t, taker)
		if listen, tcp := f.dumps(); listen != 2 || tcp != 2 {
			t.Errorf("%d dumps of listeners and %d of others after the next, want two of each", listen, tcp)
		}
	})
}

func TestSnapshotShowsNothingOlderThanTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		release := held(f)
		taker := newTaker(t, f.config(), discovering())

		first := make(chan Snapshot)
		go func() { first <- taker.Take(t.Context()) }()
		synctest.Wait() // it has read the listeners
		f.set(append(webServer(), diagtest.Listening("0.0.0.0:631", 2))...)

		const late = 10
		second := make(chan Snapshot)
		for range late {
			go func() { second <- taker.Take(t.Context()) }()
		}
		synctest.Wait()
		if listen, _ := f.dumps(); listen != 1 {
			t.Errorf("%d dumps of listeners, want 1: one snapshot at a time", listen)
		}
		release()
		s := <-first
		checkErrors(t, &s, nil, nil, nil, nil)
		checkWatched(t, &s, 80)
		for range late {
			s := <-second
			checkErrors(t, &s, nil, nil, nil, nil)
			checkWatched(t, &s, 80, 631)
		}
		if listen, tcp := f.dumps(); listen != 2 || tcp != 2 {
			t.Errorf("%d dumps of listeners and %d of others, want two of each: the late callers share one snapshot", listen, tcp)
		}
	})
}

func TestCallerWhoseTimeEndsBeforeItsSnapshotBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		release := held(f)
		taker := newTaker(t, f.config(), discovering())
		first := make(chan Snapshot)
		go func() { first <- taker.Take(t.Context()) }()
		synctest.Wait()

		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
		defer cancel()
		s := taker.Take(ctx)
		checkErrors(t, &s, errEnough, errEnough, errEnough, errEnough)

		release()
		s = <-first
		checkErrors(t, &s, nil, nil, nil, nil)
		synctest.Wait()
		if listen, _ := f.dumps(); listen != 1 {
			t.Errorf("%d dumps of listeners, want 1: nobody waits for another", listen)
		}
		whole(t, taker)
	})
}

func TestEarlyWaiterGetsWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		release := held(f)
		taker := newTaker(t, f.config(), discovering())

		begin := hold(taker)
		patient := make(chan Snapshot)
		go func() { patient <- taker.Take(t.Context()) }()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
		defer cancel()
		go begin()
		early := taker.Take(ctx)

		checkErrors(t, &early, nil, nil, errEnough, nil)
		checkWatched(t, &early, 80)
		if len(early.Listeners.Data) != 1 || early.TCP.Data != nil || early.Stack.Data != someStats() {
			t.Errorf("got %+v, want one listener, the stack and no sockets", early)
		}

		release()
		late := <-patient
		checkErrors(t, &late, nil, nil, nil, nil)
		checkWebServer(t, &late)
		checkErrors(t, &early, nil, nil, errEnough, nil)
		if listen, tcp := f.dumps(); listen != 1 || tcp != 1 {
			t.Errorf("%d dumps of listeners and %d of others, want one of each", listen, tcp)
		}
	})
}

// A lateContext gives the goroutine of the snapshot a second before the caller waits for both.
type lateContext struct{ context.Context }

func (c lateContext) Done() <-chan struct{} {
	time.Sleep(time.Second)
	return c.Context.Done()
}

func TestNothingIsTakenForAContextThatHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		taker := newTaker(t, f.config(), discovering())
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errEnough)
		s := taker.Take(lateContext{ctx})
		checkErrors(t, &s, errEnough, errEnough, errEnough, errEnough)
		if listen, tcp := f.dumps(); listen != 0 || tcp != 0 {
			t.Errorf("%d dumps of listeners and %d of others, want none", listen, tcp)
		}
	})
}

func TestLastWaiterCancelsTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		// Some sockets, and then nothing more.
		f.script(nil, func(req diagtest.Request) []diagtest.Datagram {
			return []diagtest.Datagram{{Data: diagtest.Socket(req, webServer()[1])}}
		})
		taker := newTaker(t, f.config(), discovering())

		begin := hold(taker)
		var wg sync.WaitGroup
		for _, patience := range []time.Duration{time.Second, 2 * time.Second} {
			wg.Go(func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errEnough)
				defer cancel()
				s := taker.Take(ctx)
				checkErrors(t, &s, nil, nil, errEnough, nil)
			})
		}
		begin()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if f.Live() != 1 {
			t.Errorf("%d sockets open while somebody waits, want 1", f.Live())
		}
		wg.Wait()
		synctest.Wait()
		if f.Live() != 0 {
			t.Errorf("%d sockets open after the last waiter left, want the dump ended and none", f.Live())
		}
		if taker.Ready() {
			t.Error("ready after a snapshot that was cancelled")
		}

		f.script(nil, nil)
		s := whole(t, taker)
		checkWebServer(t, &s)
		if !taker.Ready() {
			t.Error("not ready after a whole snapshot")
		}
	})
}

func TestNextSnapshotWaitsForTheCancelledOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		blocked := make(chan struct{})
		running := 0 // the race detector watches it too
		cfg := f.config()
		cfg.Host.Stack = func() (stack.Stats, error) {
			running++
			defer func() { running-- }()
			if running > 1 {
				t.Error("two snapshots at once")
			}
			<-blocked
			return someStats(), nil
		}
		taker := newTaker(t, cfg, discovering())
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
		defer cancel()
		first := taker.Take(ctx)
		checkErrors(t, &first, nil, nil, nil, errEnough)

		next := make(chan Snapshot)
		go func() { next <- taker.Take(t.Context()) }()
		synctest.Wait()
		if listen, _ := f.dumps(); listen != 1 {
			t.Errorf("%d dumps of listeners while the first snapshot is still ending, want 1", listen)
		}
		close(blocked)
		s := <-next
		checkErrors(t, &s, nil, nil, nil, nil)
		checkWebServer(t, &s)
		if listen, _ := f.dumps(); listen != 2 {
			t.Errorf("%d dumps of listeners, want 2: a snapshot that nobody waited for is not joined", listen)
		}
	})
}

func TestCloseWaitsForTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(webServer()...)
		blocked := make(chan struct{})
		cfg := f.config()
		cfg.Host.Stack = func() (stack.Stats, error) { <-blocked; return someStats(), nil }
		taker := openTaker(t, cfg, discovering())
		took := make(chan Snapshot, 1)
		go func() { took <- taker.Take(t.Context()) }()
		synctest.Wait()

		closed := make(chan error, 1)
		go func() { closed <- taker.Close() }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Errorf("closed, with %v, while a snapshot is being taken", err)
			close(blocked)
		default:
			close(blocked)
			if err := <-closed; err != nil {
				t.Errorf("close: %v", err)
			}
		}
		s := <-took
		checkErrors(t, &s, nil, nil, nil, nil)
		if f.Live() != 0 {
			t.Errorf("%d sockets open after Close, want none", f.Live())
		}
	})
}

// Without synctest, so that goroutines really run at the same time.
func TestConcurrentTakes(t *testing.T) {
	f := newFake(webServer()...)
	taker := newTaker(t, f.config(), discovering())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 50 {
				ctx, cancel := context.WithCancelCause(t.Context())
				if (i+n)%4 == 0 {
					go cancel(errEnough)
				}
				s := taker.Take(ctx)
				cancel(nil)
				taker.Ready()
				for _, err := range []error{s.Watch.Err, s.Listeners.Err, s.TCP.Err, s.Stack.Err} {
					if err != nil && !errors.Is(err, errEnough) {
						t.Errorf("error %v, want none or %v", err, errEnough)
					}
				}
				if s.TCP.Err == nil {
					checkWebServer(t, &s)
				}
			}
		})
	}
	wg.Wait()
	s := whole(t, taker)
	checkWebServer(t, &s)
}
