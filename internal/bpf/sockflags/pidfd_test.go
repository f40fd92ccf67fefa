package sockflags_test

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
)

func TestPidfdBelievesAnAnswerForTheInterval(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModePidfd, PidfdInterval: time.Hour})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	id := idOf(t, l.FD())
	req := sockflags.Request{Listeners: []sockflags.ListenerID{id}}
	read(t, r, req)
	setsockopt(t, l.FD(), unix.SO_REUSEADDR, 1)

	got := read(t, r, req).Listeners

	if want := map[uint64]sockflags.Flags{id.Cookie: noFlags}; !maps.Equal(got, want) {
		t.Errorf("listeners %+v, want what was true at first, %+v", got, want)
	}
}

// The socket is closed, and another one gets its descriptor number. The other socket's flags must not
// be returned for it.
func TestPidfdIsNotFooledByAReusedDescriptor(t *testing.T) {
	// An MPTCP socket's cookie cannot be compared.
	for _, mptcp := range []bool{false, true} {
		t.Run(fmt.Sprintf("mptcp=%v", mptcp), func(t *testing.T) {
			r := newReader(t, sockflags.Options{Mode: sockflags.ModePidfd, PidfdInterval: time.Nanosecond})
			ns := kerneltest.New(t)
			l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
			other := ns.Listen(t, netip.AddrPortFrom(v4lo, port+1), kerneltest.Options{ReuseAddr: true, MPTCP: mptcp})
			req := sockflags.Request{Listeners: []sockflags.ListenerID{idOf(t, l.FD())}}
			if got := read(t, r, req).Listeners; len(got) != 1 {
				t.Fatalf("listeners %+v, want one", got)
			}
			if err := unix.Dup3(other.FD(), l.FD(), unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}

			if got := read(t, r, req).Listeners; len(got) != 0 {
				t.Errorf("listeners %+v, want none: it is closed", got)
			}
		})
	}
}

func TestPidfdWantsTheRightCookieAndInode(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModePidfd})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	id := idOf(t, l.FD())
	wrongCookie := sockflags.ListenerID{Cookie: id.Cookie + 1<<40, Inode: id.Inode}
	noInode := sockflags.ListenerID{Cookie: id.Cookie + 2<<40}

	got := read(t, r, sockflags.Request{Listeners: []sockflags.ListenerID{wrongCookie, noInode}}).Listeners

	if len(got) != 0 {
		t.Errorf("listeners %+v, want none", got)
	}
}

// A duplicate that stayed open would hold the port.
func TestPidfdLeavesThePortFree(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModePidfd})
	ns := kerneltest.New(t)
	addr := netip.AddrPortFrom(v4lo, port)
	l := ns.Listen(t, addr, kerneltest.Options{})
	got := read(t, r, sockflags.Request{Listeners: []sockflags.ListenerID{idOf(t, l.FD())}}).Listeners
	if len(got) != 1 {
		t.Fatalf("listeners %+v, want one", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	again, err := ns.OpenListener(addr, kerneltest.Options{})
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	_ = again.Close()
}
