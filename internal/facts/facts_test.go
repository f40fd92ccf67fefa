package facts

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
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
	o := Observation{Owners: map[uint64]owner.Owner{5: helper}}
	if !o.Complete(e, request) {
		t.Error("the capture is not complete")
	}
	d := o.Explain(e, request, owner.Owner{}).Diagnosis
	want := "helper (pid 8) still has the listening socket on 0.0.0.0:80 open that server (pid 3) opened, which is gone"
	if d.Code != diagnosis.InheritedListener || !strings.HasPrefix(d.Sentence, want) || d.Afterwards {
		t.Errorf("got %+v", d)
	}
}
