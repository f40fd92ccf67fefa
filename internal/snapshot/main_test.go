package snapshot

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

func TestMain(m *testing.M) {
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

const retention = 10 * time.Minute

// A fake is a diagtest.Kernel whose sockets and answers change from one request to the next.
type fake struct {
	diagtest.Kernel

	mu      sync.Mutex
	sockets []netlinkdiag.Socket
	listen  func(diagtest.Request) []diagtest.Datagram // nil: from sockets
	tcp     func(diagtest.Request) []diagtest.Datagram
}

func newFake(sockets ...netlinkdiag.Socket) *fake {
	f := &fake{sockets: sockets}
	f.Answer = f.answer
	return f
}

func (f *fake) set(sockets ...netlinkdiag.Socket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sockets = sockets
}

// script replaces the answers to dumps of listeners and of all others.
func (f *fake) script(listen, tcp func(diagtest.Request) []diagtest.Datagram) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listen, f.tcp = listen, tcp
}

func (f *fake) answer(req diagtest.Request) []diagtest.Datagram {
	f.mu.Lock()
	answer, sockets := f.tcp, f.sockets
	if forListeners(req) {
		answer = f.listen
	}
	f.mu.Unlock()
	if answer == nil {
		return diagtest.Dump(req, sockets)
	}
	return answer(req)
}

func forListeners(req diagtest.Request) bool {
	return req.States == netlinkdiag.States(netlinkdiag.StateListen)
}

// dumps are how many dumps of listeners, and of other sockets, were asked for.
func (f *fake) dumps() (listen, tcp int) {
	for _, req := range f.Requests() {
		if forListeners(req) {
			listen++
		} else {
			tcp++
		}
	}
	return listen, tcp
}

// refuse answers with an error.
func refuse(err error) func(diagtest.Request) []diagtest.Datagram {
	return func(diagtest.Request) []diagtest.Datagram { return []diagtest.Datagram{{Err: err}} }
}

// config is of a Taker of the fake kernel, that takes sockets, listeners and the stack.
func (f *fake) config() Config {
	return Config{
		Host: &probe.Host{Config: probe.Config{
			Addresses: func(int) (map[netip.Addr]struct{}, error) { return nil, errors.ErrUnsupported },
			Dial:      f.dial,
			Stack:     func() (stack.Stats, error) { return someStats(), nil },
		}},
		Retention: retention,
		Parts:     Parts{TCP: true, Listeners: true},
	}
}

func (f *fake) dial(int) (*netlinkdiag.Conn, error) {
	return netlinkdiag.Dial(&netlinkdiag.Config{Open: f.Open})
}

// one is a range of one port.
func one(port uint16) sock.PortRange { return netlinkdiag.Port(port) }

// newTaker is a Taker that watches ports, and is closed when the test ends.
func newTaker(t testing.TB, cfg Config, watched watch.Config) *Taker {
	t.Helper()
	taker := openTaker(t, cfg, watched)
	t.Cleanup(func() {
		if err := taker.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return taker
}

func openTaker(t testing.TB, cfg Config, watched watch.Config) *Taker {
	t.Helper()
	var err error
	if cfg.Watch, err = watch.NewPlan(watched); err != nil {
		t.Fatal(err)
	}
	return New(cfg)
}

// discovering is what no flag means.
func discovering() watch.Config {
	return watch.Config{Listeners: true, Retention: retention, MaxPorts: 512}
}

func someStats() stack.Stats {
	return stack.Stats{TimeWait: stack.Value{V: 7, OK: true}}
}

func withDrops(s netlinkdiag.Socket, drops uint32) netlinkdiag.Socket {
	s.Mem.Drops = drops
	return s
}

// checkErrors compares the errors of the parts by errors.Is; nil wants none.
func checkErrors(t *testing.T, s *Snapshot, watched, listeners, tcp, stack error) {
	t.Helper()
	for _, part := range []struct {
		name      string
		got, want error
	}{
		{"Watch", s.Watch.Err, watched},
		{"Listeners", s.Listeners.Err, listeners},
		{"TCP", s.TCP.Err, tcp},
		{"Stack", s.Stack.Err, stack},
	} {
		if !errors.Is(part.got, part.want) {
			t.Errorf("%s: error %v, want %v", part.name, part.got, part.want)
		}
	}
}

// whole takes a snapshot and fails the test where a part is missing.
func whole(t *testing.T, taker *Taker) Snapshot {
	t.Helper()
	s := taker.Take(context.Background())
	checkErrors(t, &s, nil, nil, nil, nil)
	if t.Failed() {
		t.FailNow()
	}
	return s
}

func numbers(s *Snapshot) []uint16 {
	var out []uint16
	for _, p := range s.Watch.Data.Ports {
		out = append(out, p.Number)
	}
	return out
}

func checkWatched(t *testing.T, s *Snapshot, want ...uint16) {
	t.Helper()
	if got := numbers(s); !slices.Equal(got, want) {
		t.Errorf("watched ports %v, want %v", got, want)
	}
}

// port is the sockets of a port that must be there.
func port(t *testing.T, s *Snapshot, number uint16) ports.PortSockets {
	t.Helper()
	for i, p := range s.Watch.Data.Ports {
		if p.Number == number && i < len(s.TCP.Data) && s.TCP.Data[i].Number == number {
			return s.TCP.Data[i]
		}
	}
	t.Fatalf("no sockets of port %d", number)
	return ports.PortSockets{}
}

// counts makes the States of a ports.FamilySockets.
func counts(of map[netlinkdiag.State]uint64) (out [netlinkdiag.NumStates]uint64) {
	for state, n := range of {
		out[state] = n
	}
	return out
}
