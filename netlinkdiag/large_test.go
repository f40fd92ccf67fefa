package netlinkdiag_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/netlinkdiag"
)

// perDatagram is the number of TIME_WAIT sockets in a datagram: 32 KiB (netlink_dump), with
// a header and an inet_diag_msg for each socket.
const perDatagram = 32 << 10 / (sizeofHeader + sizeofMsg)

// minisockets are what sockstat counts as tw: one waits in fin_wait2 where the client's FIN
// has yet to be sent again. Other ends are left aside.
var minisockets = netlinkdiag.Request{
	States:     netlinkdiag.States(netlinkdiag.StateTimeWait, netlinkdiag.StateFinWait2),
	Extensions: netlinkdiag.ExtensionSKMemInfo,
}

func TestLargeDumpIsCancelled(t *testing.T) {
	n := 50_000
	if os.Getenv("SOCKSTATE_GUEST") != "" {
		n = 10_000 // an emulated machine cannot make more in the 60 s that they last
	}
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: n, Ports: []uint16{4840, 4841}})
	c := dialNetNS(t, ns)
	for _, after := range []int{1, perDatagram, n / 2} {
		ctx, cancel := context.WithCancelCause(noContext)
		seen := 0
		var last error
		for _, err := range c.Dump(ctx, minisockets) {
			if last = err; err == nil {
				seen++
			}
			if seen == after {
				cancel(errGivenUp)
			}
		}
		cancel(nil)
		if !errors.Is(last, errGivenUp) || seen >= after+perDatagram {
			t.Errorf("cancelled after %d sockets, yielded %d, error %v", after, seen, last)
		}
		count := 0
		for _, err := range c.Dump(noContext, minisockets) {
			if err != nil {
				t.Fatal(err)
			}
			count++
		}
		if count != n {
			t.Errorf("the next dump yielded %d sockets, want %d", count, n)
		}
	}
}

func TestKernelLateCancelDoesNotReachTheNextDump(t *testing.T) {
	const n = 10
	ns := kerneltest.New(t)
	for i := range uint16(n) {
		ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 4840+i), kerneltest.Options{})
	}
	hammerLateCancel(t, dialNetNS(t, ns), netlinkdiag.Request{States: netlinkdiag.States(netlinkdiag.StateListen)}, 5_000, n)
}

// A dump allocates, a socket does not.
func TestAllocationsDoNotGrowWithSockets(t *testing.T) {
	const few, many = 1_000, 20_000
	allocs := make(map[int]float64)
	for _, n := range []int{few, many} {
		ns := kerneltest.New(t)
		timewait.MustMake(t, ns, timewait.Options{Count: n, Ports: []uint16{4840}})
		c := dialNetNS(t, ns)
		allocs[n] = testing.AllocsPerRun(10, func() {
			count := 0
			for _, err := range c.Dump(noContext, minisockets) {
				if err != nil {
					t.Fatal(err)
				}
				count++
			}
			if count != n {
				t.Fatalf("%d sockets, want %d", count, n)
			}
		})
	}
	t.Logf("%v allocations with %d sockets, %v with %d", allocs[few], few, allocs[many], many)
	// The runtime may allocate once or twice meanwhile. The larger dump has 51 more datagrams.
	if allocs[many] > allocs[few]+5 {
		t.Errorf("%v allocations with %d sockets, %v with %d", allocs[few], few, allocs[many], many)
	}
}

// descriptors returns the open descriptors, and what they refer to.
func descriptors(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]string)
	for _, name := range names {
		if what, err := os.Readlink(name); err == nil { // not the directory's own
			open[name] = what
		}
	}
	return open
}

func TestNoDescriptorIsLeftOpen(t *testing.T) {
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 1000, Ports: []uint16{4840}})
	use := func() {
		c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
		if err != nil {
			t.Fatal(err)
		}
		for range c.Dump(noContext, netlinkdiag.Request{}) {
			break
		}
		ctx, cancel := context.WithCancel(noContext)
		for range c.Dump(ctx, netlinkdiag.Request{}) {
			cancel()
		}
		cancel()
		mustDump(t, c, netlinkdiag.Request{})
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: 1}); err == nil {
			t.Fatal("standard output is a network namespace")
		}
	}
	use() // opens what the runtime keeps
	before := descriptors(t)
	for range 20 {
		use()
	}
	if after := descriptors(t); !maps.Equal(before, after) {
		t.Errorf("open descriptors were %v, are %v", before, after)
	}
}
