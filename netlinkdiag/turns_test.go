package netlinkdiag_test

import (
	"errors"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// However a consumer leaves the loop, the next dump receives nothing of that dump.
func TestConsumerLeavesTheLoop(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave func(netlinkdiag.Socket) bool
	}{
		{"at the first socket", func(netlinkdiag.Socket) bool { return true }},
		{"in the middle", func(s netlinkdiag.Socket) bool { return s.Local.Port() == 3 }},
		{"at the last socket", func(s netlinkdiag.Socket) bool { return s.Local.Port() == 4 }},
	} {
		for name, how := range map[string]func(){
			"break":  func() {},
			"panic":  func() { panic("consumer") },
			"goexit": runtime.Goexit,
		} {
			t.Run(tt.name+" by "+name, func(t *testing.T) {
				k := &diagtest.Kernel{Answer: say(sockets(1, 2), sockets(3, 4), done(0))}
				c := dial(t, k, 0)
				left := make(chan bool)
				go func() {
					defer close(left)
					defer func() { _ = recover() }()
					for s, err := range c.Dump(noContext, netlinkdiag.Request{}) {
						if err != nil {
							t.Error(err)
						}
						if tt.leave(s) {
							how()
							break
						}
					}
				}()
				<-left
				if k.Live() != 0 {
					t.Errorf("%d transports are open, want none: one dump was left", k.Live())
				}
				requireClean(t, c, k, 2)
			})
		}
	}
}

func TestConcurrentDumpsTakeTurns(t *testing.T) {
	const workers, rounds = 8, 50
	var all []netlinkdiag.Socket
	for i := range 250 { // three datagrams
		all = append(all, established(uint16(i)), established6(uint16(i)))
	}
	k := &diagtest.Kernel{Sockets: all}
	c := dial(t, k, 0)

	var inside, most atomic.Int32
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			req := netlinkdiag.Request{Family: []netlinkdiag.Family{both, ipv4, ipv6}[w%3]}
			if w%2 == 0 {
				req.Ports.Local = []netlinkdiag.PortRange{{First: uint16(w), Last: uint16(w + 100)}}
			}
			var want []netlinkdiag.Socket
			for _, s := range all {
				if (req.Family == both || req.Family == s.Family) && req.Ports.Match(s.Local.Port(), s.Remote.Port()) {
					want = append(want, s)
				}
			}
			for range rounds {
				var got []netlinkdiag.Socket
				for s, err := range c.Dump(noContext, req) {
					if err != nil {
						t.Errorf("worker %d: %v", w, err)
					}
					most.Store(max(most.Load(), inside.Add(1)))
					if got = append(got, s); len(got)%100 == 0 {
						runtime.Gosched()
					}
					inside.Add(-1)
				}
				if !slices.Equal(got, want) {
					t.Errorf("worker %d: %d sockets, want %d", w, len(got), len(want))
					return
				}
			}
		})
	}
	group.Wait()
	if most.Load() != 1 {
		t.Errorf("%d dumps at a time", most.Load())
	}
	if k.Opened() != 1 {
		t.Errorf("%d transports were opened, want 1", k.Opened())
	}
}

func TestCloseWaitsForTheDump(t *testing.T) {
	k := &diagtest.Kernel{Answer: say(sockets(1), sockets(2), sockets(3), done(0))}
	c := dial(t, k, 0)
	closed := make(chan error, 1)
	var got []uint16
	for s, err := range c.Dump(noContext, netlinkdiag.Request{}) {
		if err != nil {
			t.Fatalf("a dump that Close waits for: %v", err)
		}
		if got = append(got, s.Local.Port()); len(got) == 1 {
			go func() { closed <- c.Close() }()
			time.Sleep(20 * time.Millisecond) // a Close that does not wait would have closed by then
		}
		if len(closed) != 0 {
			t.Fatal("Close did not wait")
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if want := []uint16{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("yielded %v, want %v", got, want)
	}
	if k.Live() != 0 {
		t.Errorf("%d transports are open", k.Live())
	}
}

func TestClosedConn(t *testing.T) {
	k := new(diagtest.Kernel)
	c := dial(t, k, 0)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := events(c.Dump(noContext, netlinkdiag.Request{}))
	want := &netlinkdiag.Error{Op: "open", Protocol: tcp, Err: netlinkdiag.ErrClosed}
	if !reflect.DeepEqual(err, error(want)) || !errors.Is(err, netlinkdiag.ErrClosed) || len(got) != 1 {
		t.Errorf("a dump yields %v, error %v; want %v", got, err, want)
	}
	if err := c.Close(); err != netlinkdiag.ErrClosed {
		t.Errorf("a second Close gives %v, want ErrClosed", err)
	}
	if k.Opened() != 1 || k.Live() != 0 {
		t.Errorf("%d transports were opened, %d are open; want 1 and 0", k.Opened(), k.Live())
	}
}

// After an error there is no transport to close.
func TestCloseAfterALostTransport(t *testing.T) {
	k := &diagtest.Kernel{Answer: say(fail(errors.New("lost")))}
	c := dial(t, k, 0)
	if _, err := collect(c.Dump(noContext, netlinkdiag.Request{})); err == nil {
		t.Fatal("no error")
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
