package failures

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/watch"
)

// A failedBind is what a Watch is told.
type failedBind struct {
	netns    uint32
	protocol sock.Protocol
	port     uint16
	uid      uint32
}

type notedBinds []failedBind

func (n *notedBinds) BindFailed(_ time.Time, netns uint32, protocol sock.Protocol, port uint16, uid uint32) {
	*n = append(*n, failedBind{netns, protocol, port, uid})
}

func TestFailedCallsStartAWatchOfTheirPort(t *testing.T) {
	const blue, elsewhere = 4026532001, 4026532002
	var noted notedBinds
	r := New(Config{Host: &probe.Host{OwnInode: ownNetns}, Watch: &noted})
	r.watch(map[uint32][]watch.Set{ownNetns: {watching(t)}, blue: {watching(t)}}, nil)
	event := func(change func(*bindtrace.Event)) {
		e := bindtrace.Event{
			Netns: ownNetns, Op: bindtrace.OpBind, Family: sock.FamilyIPv4, Protocol: sock.TCP, Errno: unix.EADDRINUSE,
			PortKnown: true, Port: 8080, User: 1000,
		}
		change(&e)
		r.add(&e)
	}
	event(func(*bindtrace.Event) {})
	event(func(e *bindtrace.Event) { e.Protocol, e.Port = sock.UDP, 53 })
	event(func(e *bindtrace.Event) { e.Protocol, e.Port, e.Errno = sock.MPTCP, 80, unix.EACCES })
	event(func(e *bindtrace.Event) { e.Netns, e.Op, e.User = blue, bindtrace.OpListen, 0 })
	for _, change := range []func(*bindtrace.Event){
		func(e *bindtrace.Event) { e.Netns = elsewhere },
		func(e *bindtrace.Event) { e.PortKnown = false },
		func(e *bindtrace.Event) { e.Protocol = sock.SCTP },
	} {
		event(change) // nothing to watch
	}
	want := notedBinds{{0, sock.TCP, 8080, 1000}, {0, sock.UDP, 53, 1000}, {0, sock.TCP, 80, 1000}, {blue, sock.TCP, 8080, 0}}
	if !slices.Equal(noted, want) {
		t.Errorf("got %+v, want %+v", noted, want)
	}
}
