package kerneltest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTimeWaitMakesWhatWasAskedFor(t *testing.T) {
	count := 20_000
	// An emulated machine makes a thousand a second, or but 300 on a busy host, and the first
	// expire after a minute.
	if testing.Short() || os.Getenv("SOCKSTATE_GUEST") == "1" {
		count = 2_000
	}
	tests := []struct {
		name   string
		opts   TimeWaitOptions
		ipv6   bool
		local  string
		byPort map[uint16]int
	}{
		{
			name: "ipv4", local: "127.0.0.1",
			opts:   TimeWaitOptions{Ports: []uint16{4840}},
			byPort: map[uint16]int{4840: count},
		},
		{
			name: "ipv6", ipv6: true, local: "::1",
			opts:   TimeWaitOptions{Ports: []uint16{4840}, Addr: netip.IPv6Loopback()},
			byPort: map[uint16]int{4840: count},
		},
		{
			name: "dual-stack v4-mapped", ipv6: true, local: "::ffff:127.0.0.1",
			opts:   TimeWaitOptions{Ports: []uint16{4840}, Addr: netip.IPv6Unspecified(), Client: netip.MustParseAddr("127.1.0.1")},
			byPort: map[uint16]int{4840: count},
		},
		{
			name: "dual-stack ipv6", ipv6: true, local: "::1",
			opts:   TimeWaitOptions{Ports: []uint16{4840}, Addr: netip.IPv6Unspecified(), Client: netip.IPv6Loopback()},
			byPort: map[uint16]int{4840: count},
		},
		{
			name: "several ports", local: "127.0.0.1",
			opts:   TimeWaitOptions{Ports: []uint16{1024, 4840, 4841, 65535}},
			byPort: map[uint16]int{1024: count / 4, 4840: count / 4, 4841: count / 4, 65535: count / 4},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns := New(t)
			tt.opts.Count = count
			ns.TimeWait(t, tt.opts)

			sockets, err := ns.TCPSockets()
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[uint16]int)
			crossed := 0 // the client's end is in TIME_WAIT, too: see makeTimeWait
			for _, s := range sockets {
				if _, listens := tt.byPort[s.Remote.Port()]; listens && s.State == StateTimeWait {
					crossed++
					continue
				}
				if s.State != StateTimeWait || s.IPv6 != tt.ipv6 || s.Local.Addr().String() != tt.local {
					t.Fatalf("socket is %+v, want time_wait on %s", s, tt.local)
				}
				got[s.Local.Port()]++
			}
			for port, want := range tt.byPort {
				if got[port] != want {
					t.Errorf("%d sockets on port %d, want %d", got[port], port, want)
				}
			}
			if crossed > count/1000 || len(sockets) != count+crossed {
				t.Errorf("%d sockets and %d other ends, want %d and a few at most", len(sockets)-crossed, crossed, count)
			}
		})
	}
}

func TestTimeWaitKeepsTheListenersFlags(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:4840")
	for _, reuse := range []bool{false, true} {
		ns := New(t)
		ns.TimeWait(t, TimeWaitOptions{Ports: []uint16{4840}, Count: 10, Options: Options{ReuseAddr: reuse}})
		l, err := ns.OpenListener(addr, Options{ReuseAddr: true})
		if reuse && err != nil {
			t.Errorf("bind over sockets with SO_REUSEADDR: %v", err)
		}
		if !reuse && !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("bind over sockets without SO_REUSEADDR: error %v, want EADDRINUSE", err)
		}
		if l != nil {
			_ = l.Close()
		}
	}
}

func TestTimeWaitUsesTheListenerItIsGiven(t *testing.T) {
	ns := New(t)
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), Options{})
	ns.TimeWait(t, TimeWaitOptions{Listeners: []*Listener{l}, Count: 100})
	ns.TimeWait(t, TimeWaitOptions{Listeners: []*Listener{l}, Count: 50, Client: netip.MustParseAddr("127.2.0.1")})
	sockets, err := ns.TCPSockets()
	if err != nil {
		t.Fatal(err)
	}
	// Where FINs cross, the client's end is in TIME_WAIT as well.
	got := 0
	for _, s := range sockets {
		if s.State == StateTimeWait && s.Local.Port() == 4840 {
			got++
		}
	}
	if got != 150 {
		t.Errorf("%d sockets of the listener, want 150", got)
	}
	if got, err := l.State(); err != nil || got != StateListen {
		t.Errorf("listener is in %v, %v", got, err)
	}
}

func TestTimeWaitRaisesTheLimit(t *testing.T) {
	ns := New(t)
	ns.Sysctl(t, "net.ipv4.tcp_max_tw_buckets", "100")
	ns.TimeWait(t, TimeWaitOptions{Ports: []uint16{4840}, Count: 1000})
}

func TestTimeWaitFailsWhenClientPortsRunOut(t *testing.T) {
	ns := New(t)
	err := MakeTimeWait(ns, TimeWaitOptions{Ports: []uint16{4840}, Addr: netip.IPv6Loopback(), Count: clientPortsPerAddr + 1})
	const want = "make 64513 time_wait sockets: client ports of ::1 used up: use more local ports"
	if err == nil || err.Error() != want {
		t.Fatalf("error %v, want %s", err, want)
	}
}

func TestTimeWaitRefusesForeignConnectionInAcceptQueue(t *testing.T) {
	ns := New(t)
	l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), Options{})
	queued := l.Queue(t, 1, netip.MustParseAddr("127.0.0.2"))[0].Addr()
	err := MakeTimeWait(ns, TimeWaitOptions{Listeners: []*Listener{l}, Count: 10})
	want := fmt.Sprintf("make 10 time_wait sockets: accept on 127.0.0.1:4840: accept queue held a connection from %v", queued)
	if err == nil || err.Error() != want {
		t.Fatalf("error %v, want %s", err, want)
	}
}

// BenchmarkTimeWait makes 100,000 a round, each in a namespace of its own.
func BenchmarkTimeWait(b *testing.B) {
	for b.Loop() {
		ns, err := Open()
		if err != nil {
			skipOrFatal(b, err)
		}
		if err := MakeTimeWait(ns, TimeWaitOptions{Ports: []uint16{4840}, Count: 100_000}); err != nil {
			b.Fatal(err)
		}
		_ = ns.Close()
	}
}
