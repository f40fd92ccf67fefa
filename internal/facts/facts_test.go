package facts

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

// What the kernel captured counts, and who has the socket open, and had it before.
func TestInheritedListener(t *testing.T) {
	any4 := netip.IPv4Unspecified()
	listener := bindtrace.Blocker{
		Socket: bhash.Socket{Port: 80, Cookie: 5, Addr: any4, State: sock.StateListen}, Inode: 7,
	}
	far := listener
	far.Addr, far.V6Only = netip.MustParseAddr("::1"), true // does not block IPv4
	e := &bindtrace.Event{
		Errno: unix.EADDRINUSE, Protocol: sock.TCP, Port: 80, PortKnown: true, Captured: bindtrace.CaptureAll,
		Blockers: []bindtrace.Blocker{far, listener},
	}
	request := bindrule.Request{Addr: any4, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No, UID: bindrule.UIDOf(0)}
	helper := owner.Owner{Process: "helper", PID: 8, Processes: 1, Opener: &owner.Opener{Process: "server", PID: 3, Ended: true}}
	o := Observation{Owners: map[uint32]owner.Owner{7: helper}}
	if !o.Complete(e, request) {
		t.Error("the capture is not complete")
	}
	d := o.Explain(e, request, owner.Owner{})
	want := "helper (pid 8) still has the listening socket on 0.0.0.0:80 open that server (pid 3) opened, which is gone"
	if d.Code != codes.InheritedListener || !strings.HasPrefix(d.Sentence, want) || d.Afterwards {
		t.Errorf("got %+v", d)
	}
}

// What the kernel had in the way is told, as far as a process has it open.
func TestFailureNamesWhatWasInTheWay(t *testing.T) {
	f, ok := FailureOf(&bindtrace.Event{
		Errno: unix.EADDRINUSE, Protocol: sock.TCP, Port: 80, PortKnown: true,
		Blockers: []bindtrace.Blocker{{Inode: 7}, {Inode: 0}, {Inode: 9}},
	})
	if want := []uint32{7, 9}; !ok || !slices.Equal(f.InTheWay, want) {
		t.Errorf("%v: in the way %v, want %v", ok, f.InTheWay, want)
	}
}

// A daemon that puts itself into the background leaves its socket to a child of the same program.
func TestADaemonInheritsNothing(t *testing.T) {
	o := owner.Owner{Process: "server", PID: 8, Opener: &owner.Opener{Process: "server", PID: 3, Ended: true, SameProgram: true}}
	if got := goneOpener(&o); got.Known() {
		t.Errorf("opener %+v, want none", got)
	}
}

// Where the capture is not complete, what was seen afterwards has the counts. A holder is named only
// for the very socket that was captured.
func TestIncompleteCapture(t *testing.T) {
	lo, lo2, any4 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.IPv4Unspecified()
	e := &bindtrace.Event{
		Errno: unix.EADDRINUSE, Protocol: sock.TCP, Port: 80, PortKnown: true, Captured: bindtrace.CaptureSome,
		Blockers: []bindtrace.Blocker{{
			Socket: bhash.Socket{Port: 80, Addr: lo, State: sock.StateListen}, Inode: 7,
		}},
	}
	request := bindrule.Request{Addr: any4, ReuseAddr: bindrule.No, ReusePort: bindrule.No, UID: bindrule.UIDOf(0)}
	listener := func(addr netip.Addr) bindrule.Socket {
		return bindrule.Socket{
			Addr: addr, State: sock.StateListen, Count: 1, UID: bindrule.UIDOf(0), ReuseAddr: bindrule.No, ReusePort: bindrule.No,
		}
	}
	o := Observation{
		Owners: map[uint32]owner.Owner{7: {Process: "web", PID: 8, Processes: 1}},
		Seen:   bindrule.Port{Sockets: []bindrule.Socket{listener(lo)}},
	}
	if o.Complete(e, request) {
		t.Error("the capture is complete")
	}
	explain := func(want string, afterwards bool) {
		t.Helper()
		d := o.Explain(e, request, owner.Owner{})
		if d.Sentence != want || d.Afterwards != afterwards {
			t.Errorf("got %q, afterwards %v; want %q, %v", d.Sentence, d.Afterwards, want, afterwards)
		}
	}
	explain("web (pid 8) listens on 127.0.0.1:80", true)
	o.Seen.Sockets = []bindrule.Socket{listener(lo2)}
	explain("a process of uid 0 listens on 127.0.0.2:80", true)
	o.Seen.Sockets = nil
	explain("web (pid 8) listens on 127.0.0.1:80", false)
}

// In a storm of failures the kernel captures the sockets of some only. A listener that is seen afterwards is
// the binder's own where the binder has it open.
func TestListenerThatIsSeenAfterwardsIsNamed(t *testing.T) {
	any4 := netip.IPv4Unspecified()
	e := &bindtrace.Event{Errno: unix.EADDRINUSE, Protocol: sock.TCP, Port: 80, PortKnown: true, Process: "server", PID: 3}
	request := bindrule.Request{Addr: any4, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No, UID: bindrule.UIDOf(0)}
	listener := ports.Listener{GroupKey: ports.GroupKey{Port: 80, Address: any4}, Inode: 7}
	seen := verdict.NewListener(&listener)
	seen.Count = 1
	o := Observation{Seen: bindrule.Port{Sockets: []bindrule.Socket{seen}}, Listeners: []ports.Listener{listener}}
	process := func(pid int) owner.Owner { return owner.Owner{Process: "server", PID: pid, Processes: 1} }
	for _, tt := range []struct {
		name   string
		holder owner.Owner
		by     owner.Owner // empty: it had ended before the exporter could look
		want   codes.Code
	}{
		{"the binder", process(3), process(3), codes.OwnListener},
		{"another process", process(4), process(3), codes.OtherListener},
		{"another process with its pid", process(3), owner.Owner{}, codes.OtherListener},
		{"a child of a server that is gone", owner.Owner{Process: "helper", PID: 5, Processes: 1, Inherited: true}, process(3), codes.InheritedListener},
		{"nobody", owner.Owner{Absence: owner.NoProcess}, process(3), codes.OtherListener},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o.Owners = map[uint32]owner.Owner{7: tt.holder}
			d := o.Explain(e, request, tt.by)
			if d.Code != tt.want || !d.Afterwards || d.Holder.PID != tt.holder.PID {
				t.Errorf("got %+v, want %s of pid %d", d, tt.want, tt.holder.PID)
			}
		})
	}
	o.Listeners = append(o.Listeners, listener)
	o.Listeners[1].Inode = 8
	if inode := o.Listener(&seen); inode != 0 {
		t.Errorf("inode %d of one of two listeners, want none", inode)
	}
}

func TestWhoOpenedAConnection(t *testing.T) {
	connection := func(state sock.State, reuseAddr bindrule.Flag, named bool) bindrule.Socket {
		return bindrule.Socket{State: state, ReuseAddr: reuseAddr, NamedPort: named, Count: 1}
	}
	chosen, bound, unknown := bindrule.Bucket{Known: true, Chosen: true}, bindrule.Bucket{Known: true}, bindrule.Bucket{}
	for _, tt := range []struct {
		name   string
		socket bindrule.Socket
		bucket bindrule.Bucket
		want   bool
	}{
		{"it has named the port", connection(sock.StateEstablished, bindrule.Yes, true), bound, true},
		{"the kernel chose the port", connection(sock.StateTimeWait, bindrule.No, false), chosen, true},
		{"a server with the flag took the port later", connection(sock.StateEstablished, bindrule.Yes, false), chosen, false},
		{"accepted", connection(sock.StateEstablished, bindrule.No, false), bound, false},
		{"nothing is known", connection(sock.StateEstablished, bindrule.FlagUnknown, false), unknown, false},
		{"a listener", connection(sock.StateListen, bindrule.No, true), bound, false},
		{"only bound", connection(sock.StateClose, bindrule.No, true), chosen, false},
	} {
		if got := outgoing(&tt.socket, &tt.bucket); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

// Two connections in one state on one address, whose flags differ: nobody knows which of two processes has
// which, so none is named.
func TestHolderIsNamedOnlyWhereItIsCertain(t *testing.T) {
	lo := netip.MustParseAddr("127.0.0.1")
	s := bindrule.Socket{Addr: lo, State: sock.StateEstablished, ReuseAddr: bindrule.No, Count: 1}
	named := s
	named.NamedPort = true
	open := func(pid int) Open {
		return Open{State: s.State, Addr: lo, Count: 1, Owner: owner.Owner{PID: pid, Processes: 1}}
	}
	for _, tt := range []struct {
		name    string
		sockets []bindrule.Socket
		open    []Open
		want    int
	}{
		{"one process", []bindrule.Socket{s, named}, []Open{open(3), open(3)}, 3},
		{"two processes", []bindrule.Socket{s, named}, []Open{open(3), open(4)}, 0},
		{"one kind of sockets", []bindrule.Socket{s}, []Open{open(3), open(4)}, 3},
	} {
		look := Look{Port: &bindrule.Port{Sockets: tt.sockets}, Open: tt.open}
		got := look.opened(s)
		if len(got) != 1 || got[0].Holder.PID != tt.want || !got[0].Held {
			t.Errorf("%s: %+v, want pid %d", tt.name, got, tt.want)
		}
	}
}

// Nobody has what waits in an accept queue.
func TestQueuedConnectionsHaveNoHolder(t *testing.T) {
	lo := netip.MustParseAddr("127.0.0.1")
	s := bindrule.Socket{Addr: lo, State: sock.StateEstablished, ReuseAddr: bindrule.No, ReusePort: bindrule.No, Count: 2}
	queued := s
	queued.Queued, queued.Count = true, 3
	l := Look{
		Number: 80, Port: &bindrule.Port{Sockets: []bindrule.Socket{queued, s}},
		Open: []Open{{State: sock.StateEstablished, Addr: lo, Count: 2, Owner: owner.Owner{Process: "web", PID: 8, Processes: 1}}},
	}
	var held, free uint64
	for _, b := range l.blockers([]int{0, 1}) {
		if b.Holder.Known() {
			held += b.Count
		} else {
			free += b.Count
		}
	}
	if held != 2 || free != 3 {
		t.Errorf("%d held, %d not; want 2 and 3", held, free)
	}
}
