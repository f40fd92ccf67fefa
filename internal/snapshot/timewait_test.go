package snapshot

import (
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/netlinkdiag"
)

// TIME_WAIT takes a minute (TCP_TIMEWAIT_LEN), which nothing can change.
func TestKernelTimeWaitRunsDown(t *testing.T) {
	if testing.Short() {
		kerneltest.Skip(t, "takes a minute, and -short was given")
	}
	t.Parallel()
	const number, n = 4840, 200
	ns := kerneltest.New(t)
	taker := kernelTaker(t, ns, discovering())
	l := ns.Listen(t, netip.AddrPortFrom(localhost4, number), kerneltest.Options{})
	whole(t, taker)
	timewait.MustMake(t, ns, timewait.Options{Count: n, Listeners: []*kerneltest.Listener{l}})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	// What the kernel counts in jiffies is off by some of them.
	const jiffies = 50 * time.Millisecond
	before, last := takeBetween(t, taker, number)
	if want := (ports.FamilySockets{
		States:            counts(map[netlinkdiag.State]uint64{netlinkdiag.StateTimeWait: n}),
		TimeWaitRemaining: last.TimeWaitRemaining,
	}); last != want {
		t.Fatalf("got %+v, want %d sockets in TIME_WAIT and nothing else", last, n)
	}
	if left := last.TimeWaitRemaining; left <= 0 || left > time.Minute+jiffies {
		t.Errorf("remaining %v, want up to a minute", left)
	}
	for last.States[netlinkdiag.StateTimeWait] > 0 {
		time.Sleep(2 * time.Second)
		there, err := ns.TimeWaitCount()
		if err != nil {
			t.Fatal(err)
		}
		now, got := takeBetween(t, taker, number)
		fewer, err := ns.TimeWaitCount()
		if err != nil {
			t.Fatal(err)
		}
		count := got.States[netlinkdiag.StateTimeWait]
		if count > uint64(there) || count < uint64(fewer) {
			t.Errorf("%d sockets in TIME_WAIT, want %d to %d as /proc/net/sockstat has it", count, fewer, there)
		}
		// As much as the clock says, which the kernel stops at 0.
		passed := last.TimeWaitRemaining - got.TimeWaitRemaining
		least, most := now.start.Sub(before.end)-jiffies, now.end.Sub(before.start)+jiffies
		if passed > most || passed < min(least, last.TimeWaitRemaining) {
			t.Errorf("remaining went from %v to %v, want %v to %v less", last.TimeWaitRemaining, got.TimeWaitRemaining, least, most)
		}
		before, last = now, got
	}
	if last != (ports.FamilySockets{}) {
		t.Errorf("got %+v after the last TIME_WAIT socket, want zeros", last)
	}
}

type span struct{ start, end time.Time }

// takeBetween takes the sockets of a port, and notes between which moments.
func takeBetween(t *testing.T, taker *Taker, number uint16) (span, ports.FamilySockets) {
	t.Helper()
	start := time.Now()
	s := whole(t, taker)
	end := time.Now()
	checkWatched(t, &s, number)
	if s.Watch.Data.Ports[0].Source != "listener" {
		t.Errorf("source of the port is %s, want listener", s.Watch.Data.Ports[0].Source)
	}
	if got := port(t, &s, number); got.IPv6 != (ports.FamilySockets{}) {
		t.Errorf("got %+v, want no IPv6 socket", got.IPv6)
	}
	return span{start, end}, port(t, &s, number).IPv4
}
