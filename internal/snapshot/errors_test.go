package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// trouble is what netlink can answer in place of a datagram.
func trouble(req diagtest.Request) map[string][]diagtest.Datagram {
	out := map[string][]diagtest.Datagram{
		"message of another kind": {{Data: diagtest.Message(99, 0, req.Sequence, nil)}},
		"overrun":                 {{Data: diagtest.Message(unix.NLMSG_OVERRUN, 0, req.Sequence, nil)}},
		"cut short":               {{Data: []byte{1, 2, 3}}},
		"nothing":                 {{Err: io.ErrUnexpectedEOF}},
		"another dump's end":      {{Data: diagtest.Done(req.Sequence+7, 0)}},
		"always interrupted":      {{Data: diagtest.Interrupted(diagtest.Done(req.Sequence, 0))}},
	}
	for _, errno := range []unix.Errno{unix.ENOBUFS, unix.ENOMEM, unix.EIO, unix.EBADF, unix.ECONNRESET} {
		out["receive "+unix.ErrnoName(errno)] = []diagtest.Datagram{{Err: errno}}
	}
	for _, errno := range []unix.Errno{unix.EPERM, unix.ENOMEM, unix.EBUSY, unix.EINTR, unix.EINVAL} {
		out["answer "+unix.ErrnoName(errno)] = []diagtest.Datagram{{Data: diagtest.Error(req.Sequence, errno)}}
		out["end "+unix.ErrnoName(errno)] = []diagtest.Datagram{{Data: diagtest.Done(req.Sequence, errno)}}
	}
	return out
}

// kinds are the keys of trouble.
func kinds() []string {
	var out []string
	for kind := range trouble(diagtest.Request{}) {
		out = append(out, kind)
	}
	slices.Sort(out)
	return out
}

// Whatever goes wrong at whatever point of whichever dump: the parts that need the dump are
// missing for that once, nothing is half there, and the next snapshot is whole.
func TestTroubleAtAnyPointOfADumpCostsOneSnapshotOfItsParts(t *testing.T) {
	var sockets []netlinkdiag.Socket
	for i := range 200 { // several datagrams of each dump
		sockets = append(sockets, diagtest.Listening(fmt.Sprintf("127.0.1.%d:80", i), uint64(i+1)),
			diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:80", fmt.Sprintf("127.0.2.%d:50000", i)))
	}
	for _, ofListeners := range []bool{true, false} {
		points := 0
		for point := 0; point == 0 || point < points; point++ {
			for _, kind := range kinds() {
				t.Run(fmt.Sprintf("listeners %v, datagram %d, %s", ofListeners, point, kind), func(t *testing.T) {
					f := newFake(sockets...)
					taker := newTaker(t, f.config(), discovering())
					before := whole(t, taker)
					broken := func(req diagtest.Request) []diagtest.Datagram {
						answer := diagtest.Dump(req, sockets)
						points = len(answer)
						return append(answer[:point:point], trouble(req)[kind]...)
					}
					if ofListeners {
						f.script(broken, nil)
					} else {
						f.script(nil, broken)
					}
					s := taker.Take(context.Background())
					if s.TCP.Err == nil || len(s.TCP.Data) != 0 {
						t.Errorf("sockets of %d ports, error %v; want an error alone", len(s.TCP.Data), s.TCP.Err)
					}
					if (s.Listeners.Err != nil) != ofListeners || (s.Listeners.Err == nil) != (len(s.Listeners.Data) > 0) {
						t.Errorf("%d groups, error %v", len(s.Listeners.Data), s.Listeners.Err)
					}
					var of *netlinkdiag.Error
					if !errors.As(s.TCP.Err, &of) {
						t.Errorf("error %v is no *netlinkdiag.Error", s.TCP.Err)
					}
					if s.Stack.Err != nil {
						t.Errorf("stack: %v", s.Stack.Err)
					}
					checkWatched(t, &s, 80)

					f.script(nil, nil)
					after := whole(t, taker)
					if port(t, &after, 80) != port(t, &before, 80) || !reflect.DeepEqual(after.Listeners.Data, before.Listeners.Data) {
						t.Errorf("the next snapshot has\n%+v\nwant\n%+v", port(t, &after, 80), port(t, &before, 80))
					}
					if n := f.Live(); n != 1 {
						t.Errorf("%d connections are open, want 1", n)
					}
				})
			}
		}
		if points < 3 {
			t.Errorf("%d datagrams, want several", points)
		}
	}
}
