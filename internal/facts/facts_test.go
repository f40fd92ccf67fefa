package facts

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
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
