//go:build linux

package bindtrace

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
)

// Of many sockets there are the first eight, and a listener is among them.
func TestCaptureOfManySockets(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		for _, count := range []int{7, 8, 1000, 5000} {
			ns := kerneltest.New(t)
			l, listener := listenAt(t, ns, v4any, kerneltest.Options{})
			timewait.MustMake(t, ns, timewait.Options{Listeners: []*kerneltest.Listener{l}, Count: count})
			mustBeInUse(t, ns, v4any, kerneltest.Options{})
			e := nextEvent(t, tr, uint32(ns.Inode()))
			want, first := CaptureSome, listener
			if count < bhash.MaxBlockers {
				want = CaptureAll
			}
			if e.Captured != want || len(e.Blockers) != bhash.MaxBlockers {
				t.Fatalf("%d sockets: captured %d, %d sockets, want %d, %d", count, e.Captured, len(e.Blockers), want, bhash.MaxBlockers)
			}
			for i, b := range e.Blockers {
				timeWait := b.Kind == sock.KindTimeWait && b.State == sock.StateTimeWait && b.Addr == v4lo && b.Peer.IsValid() && !b.Own
				if !timeWait && (i > 0 || b.Inode != first.Inode) {
					t.Errorf("%d sockets: blocker %d is %+v", count, i, b)
				}
			}
			// Before Linux 6.8 the listener is the last of one list: that of 5,000 is not found.
			if b := e.Blockers[0]; (count <= 1000 || listsByAddress(t)) && b.State != sock.StateListen {
				t.Errorf("%d sockets: the first is %+v, want the listener", count, b)
			}
		}
	})
}

// listsByAddress says whether the kernel has a list of sockets for each address of a port.
func listsByAddress(t *testing.T) bool {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var bucket *btf.Struct
	if err := kernel.TypeByName("inet_bind_bucket", &bucket); err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(bucket.Members, func(m btf.Member) bool { return m.Name == "bhash2" })
}

// A descriptor beyond those that are searched is not said to be the caller's.
func TestCaptureSearchesABoundedNumberOfDescriptors(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		for _, tt := range []struct {
			fd  int
			own bool
		}{{1023, true}, {1024, false}} {
			ns := kerneltest.New(t)
			ns.Do(t, func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.Dup3(fd, tt.fd, unix.O_CLOEXEC); err != nil {
					t.Fatal(err)
				}
				defer unix.Close(tt.fd)
				unix.Close(fd)
				if err := bindRaw(tt.fd, sockaddrOf(v4lo, testPort)); err != nil {
					t.Fatal(err)
				}
				mustBeInUse(t, ns, v4any, kerneltest.Options{})
			})
			e := nextEvent(t, tr, uint32(ns.Inode()))
			if len(e.Blockers) != 1 || e.Blockers[0].Inode == 0 || e.Blockers[0].Own != tt.own {
				t.Errorf("descriptor %d: captured %+v, want own %v", tt.fd, e.Blockers, tt.own)
			}
		}
	})
}

// crowd makes sockets on testPort that are only bound: at most 8 are captured.
func crowd(t testing.TB, ns *kerneltest.NetNS, n int) {
	t.Helper()
	for i := range n {
		addr := netip.AddrFrom4([4]byte{127, 0, 1 + byte(i/256), byte(i)})
		ns.Bind(t, netip.AddrPortFrom(addr, testPort), kerneltest.Options{})
	}
}

// fail fails to bind to testPort, over and over.
func fail(t testing.TB, ns *kerneltest.NetNS, times int) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for range times {
			if err := bindRaw(fd, sockaddrOf(v4any, testPort)); !errors.Is(err, unix.EADDRINUSE) {
				t.Fatalf("bind: %v, want EADDRINUSE", err)
			}
		}
	})
}

// drain reads the events that are in the ring.
func drain(t testing.TB, tr *Tracer, netns uint32) (events []Event) {
	t.Helper()
	for {
		var e Event
		err := tr.Read(time.Now(), &e)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return events
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Netns == netns {
			events = append(events, e)
		}
	}
}

// Blockers take at most a quarter of the ring, and what has no room is counted as lost.
func TestCaptureLeavesRoomForOtherEvents(t *testing.T) {
	const ringSize, calls = 1 << 16, 800
	eachMode(t, Options{RingSize: ringSize}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		crowd(t, ns, bhash.MaxBlockers)
		fail(t, ns, calls)
		lost := checkStats(t, tr).Lost
		events := drain(t, tr, uint32(ns.Inode()))
		captured := 0
		for _, e := range events {
			switch {
			case e.Captured == CaptureAll && len(e.Blockers) == bhash.MaxBlockers:
				captured++
			case e.Captured != CaptureNone || e.Blockers != nil:
				t.Fatalf("captured %d, %+v", e.Captured, e.Blockers)
			}
		}
		most := ringSize/4/(bhash.MaxBlockers*bhash.BlockerSize) + 1
		if captured == 0 || captured > most || len(events) == captured {
			t.Errorf("%d events, %d of them with blockers, want some with, at most %d, and some without", len(events), captured, most)
		}
		if got := total(countsOf(t, tr, uint32(ns.Inode()))); got != calls || lost == 0 || len(events)+int(lost) < calls {
			t.Errorf("%d failures counted, %d events received and %d lost of %d", got, len(events), lost, calls)
		}
	})
}

// A user who fails more often than a thousand times a second has blockers of the first failures only.
func TestCaptureOfAStormIsBounded(t *testing.T) {
	const calls, burst = 1000, 128
	eachNewTracer(t, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		crowd(t, ns, 1)
		start := time.Now()
		fail(t, ns, calls)
		refilled := int(time.Since(start)*1024/time.Second) + 1
		captured := 0
		for _, e := range drain(t, tr, uint32(ns.Inode())) {
			if e.Captured != CaptureNone {
				captured++
			}
		}
		if captured < burst || captured > burst+refilled {
			t.Errorf("%d events with blockers, want %d and at most %d more", captured, burst, refilled)
		}
	})
}

// While sockets come and go on the port, what is captured is one of them.
func TestCaptureDuringChurn(t *testing.T) {
	eachMode(t, Options{}, func(t *testing.T, tr *Tracer) {
		mustCapture(t, tr)
		ns := kerneltest.New(t)
		watchOnly(t, tr, ns, testPort)
		_, listener := listenAt(t, ns, v4lo, kerneltest.Options{ReuseAddr: true})
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			churn(ns, stop)
		}()
		var some, found int
		for range 50 {
			fail(t, ns, 100)
			for _, e := range drain(t, tr, uint32(ns.Inode())) {
				if e.Captured == CaptureSome {
					some++
				}
				for _, b := range e.Blockers {
					found++
					if b.State != sock.StateListen && b.Addr.Is4() && b.Addr.As4()[2] == 1 && b.ReuseAddr && !b.ReusePort && b.Port == testPort && !b.Peer.IsValid() {
						continue
					}
					if b.Cookie = 0; b != listener {
						t.Fatalf("captured %+v, which nobody made", b)
					}
				}
			}
			if err := tr.objects.Users.Delete(bpfUser{Netns: uint32(ns.Inode())}); err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		<-done
		t.Logf("%d sockets captured, %d walks cut off", found, some)
	})
}

// churn opens and closes sockets that are only bound.
func churn(ns *kerneltest.NetNS, stop <-chan struct{}) {
	for {
		var sockets []*kerneltest.Socket
		for i := range byte(6) {
			addr := netip.AddrFrom4([4]byte{127, 0, 1, i})
			if s, err := ns.OpenBound(netip.AddrPortFrom(addr, testPort), kerneltest.Options{ReuseAddr: true}); err == nil {
				sockets = append(sockets, s)
			}
		}
		for _, s := range sockets {
			_ = s.Close()
		}
		select {
		case <-stop:
			return
		default:
		}
	}
}
