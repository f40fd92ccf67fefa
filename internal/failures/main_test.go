package failures

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{"listen-second": listenSecond, "own-in-a-storm": ownInAStorm})
	mounts.PrivateTracefs()
	kerneltest.Main(m)
}

const ownNetns, foreignNetns = 4026531840, 4026532999

// failed is an event of a bind() in the exporter's own namespace.
func failed(port uint16, process string, after time.Duration) bindtrace.Event {
	e := bindtrace.Event{
		Time: time.Unix(1_700_000_000, 0).Add(after), Netns: ownNetns, Errno: unix.EADDRINUSE,
		Family: sock.FamilyIPv4, Protocol: sock.TCP, PortKnown: true, Port: port, Process: process,
	}
	return e
}

func one(port uint16) sock.PortRange { return sock.PortRange{First: port, Last: port} }

func watching(t testing.TB, ranges ...sock.PortRange) watch.Set {
	t.Helper()
	cfg := watch.Config{MaxPorts: 512}
	for _, r := range ranges {
		cfg.Ports = append(cfg.Ports, watch.Spec{PortRange: r})
	}
	w, err := watch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w.Update(time.Time{}, nil)
}

// newRecorder returns a Recorder that asks nobody.
func newRecorder() *Recorder { return New(Config{Host: &probe.Host{OwnInode: ownNetns}}) }

// recorderOf watches ports of the own namespace and notes events.
func recorderOf(t *testing.T, ranges []sock.PortRange, events ...bindtrace.Event) *Recorder {
	t.Helper()
	r := newRecorder()
	r.watch(map[uint32][]watch.Set{ownNetns: {watching(t, ranges...)}}, nil)
	for i := range events {
		r.add(&events[i])
	}
	return r
}

// A fakeKernel answers dumps of listeners, and of other sockets, from a table or by a function.
type fakeKernel struct {
	diagtest.Kernel
	sockets []netlinkdiag.Socket

	mu     sync.Mutex
	others func(diagtest.Request) []diagtest.Datagram // nil: from sockets
}

func newFakeKernel(sockets ...netlinkdiag.Socket) *fakeKernel {
	k := &fakeKernel{sockets: sockets}
	k.Answer = k.answer
	return k
}

// script replaces the answers to dumps of other sockets than listeners.
func (k *fakeKernel) script(others func(diagtest.Request) []diagtest.Datagram) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.others = others
}

func (k *fakeKernel) answer(req diagtest.Request) []diagtest.Datagram {
	k.mu.Lock()
	answer := k.others
	k.mu.Unlock()
	if answer == nil || forListeners(req) {
		return diagtest.Dump(req, k.sockets)
	}
	return answer(req)
}

func forListeners(req diagtest.Request) bool {
	return req.States == netlinkdiag.States(netlinkdiag.StateListen)
}

// dumps returns how many dumps of listeners, and of other sockets, were asked for.
func (k *fakeKernel) dumps() (listeners, others int) {
	for _, req := range k.Requests() {
		if forListeners(req) {
			listeners++
		} else {
			others++
		}
	}
	return listeners, others
}

func (k *fakeKernel) dial(int) (*netlinkdiag.Conn, error) {
	return netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open})
}

var errRefused = errors.New("refused")

// A fakeTracer has counts, and its events come over a channel.
type fakeTracer struct {
	counts []bindtrace.Count
	events chan bindtrace.Event

	refused string // the call that fails

	watched    []bindtrace.Port // the latest
	namespaces []uint32
	watches    int // how often they were set
	onWatch    func(namespaces []uint32)
}

func newFakeTracer() *fakeTracer { return &fakeTracer{events: make(chan bindtrace.Event)} }

func (f *fakeTracer) err(call string) error {
	if f.refused == call {
		return errRefused
	}
	return nil
}

func (f *fakeTracer) SetWatch(namespaces []uint32, ports []bindtrace.Port) error {
	f.watched, f.namespaces = ports, namespaces
	f.watches++
	if f.onWatch != nil {
		f.onWatch(namespaces)
	}
	return f.err("SetWatch")
}

func (f *fakeTracer) Counts(counts []bindtrace.Count) ([]bindtrace.Count, error) {
	return append(counts, f.counts...), f.err("Counts")
}

func (f *fakeTracer) Stats() (bindtrace.Stats, error) {
	return bindtrace.Stats{Lost: 3}, f.err("Stats")
}

func (*fakeTracer) ConnectsErr() error { return nil }

func (f *fakeTracer) Read(_ time.Time, e *bindtrace.Event) error {
	next, ok := <-f.events
	if !ok {
		return os.ErrClosed
	}
	*e = next
	return nil
}
