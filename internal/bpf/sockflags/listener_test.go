package sockflags_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/sock"
)

var bothModes = []sockflags.Mode{sockflags.ModeBPF, sockflags.ModePidfd}

func TestListenerFlagsAgreeWithGetsockopt(t *testing.T) {
	for _, mode := range bothModes {
		r := newReader(t, sockflags.Options{Mode: mode})
		for _, addr := range []struct {
			name   string
			ip     netip.Addr
			v6only *bool
		}{
			{"ipv4_wildcard", v4any, nil},
			{"ipv4_loopback", v4lo, nil},
			{"ipv6_only", v6any, &yes},
			{"dual_stack", v6any, &no},
			{"ipv6_loopback", v6lo, nil},
		} {
			for _, flags := range allFlags {
				for _, sockets := range []int{1, 3} {
					if sockets > 1 && !flags.ReusePort {
						continue // the second bind is refused
					}
					t.Run(fmt.Sprintf("%s/%s/%+v/%d", mode, addr.name, flags, sockets), func(t *testing.T) {
						ns := kerneltest.New(t)
						opts := options(flags)
						opts.V6Only = addr.v6only
						want := make(map[uint64]sockflags.Flags)
						req := sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}}
						for range sockets {
							l := ns.Listen(t, netip.AddrPortFrom(addr.ip, port), opts)
							want[cookieOf(t, l.FD())] = flagsOf(t, l.FD())
							req.Listeners = append(req.Listeners, idOf(t, l.FD()))
						}

						got := read(t, r, req).Listeners

						if !maps.Equal(got, want) {
							t.Errorf("listeners %+v, want %+v", got, want)
						}
						for _, f := range want {
							if f != flags {
								t.Errorf("getsockopt says %+v, want %+v", f, flags)
							}
						}
					})
				}
			}
		}
	}
}

// A socket has no cookie until a program asks for it. The iterator must not return 0.
func TestListenerCookieIsGivenWhereNobodyAskedBefore(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})

	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}}).Listeners

	want := map[uint64]sockflags.Flags{cookieOf(t, l.FD()): noFlags}
	if !maps.Equal(got, want) {
		t.Errorf("listeners %+v, want %+v", got, want)
	}
}

// Go opens MPTCP first. sock_diag shows the TCP subflow, which has another cookie than the
// descriptor.
func TestGoListenersAreJoinedByWhatSockDiagShows(t *testing.T) {
	for _, mode := range bothModes {
		for _, mptcp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/mptcp=%v", mode, mptcp), func(t *testing.T) {
				r := newReader(t, sockflags.Options{Mode: mode})
				ns := kerneltest.New(t)
				var config net.ListenConfig
				config.SetMultipathTCP(mptcp)
				var l net.Listener
				ns.Do(t, func() {
					var err error
					if l, err = config.Listen(t.Context(), "tcp", fmt.Sprintf("[::]:%d", port)); err != nil {
						t.Fatal(err)
					}
				})
				defer l.Close()
				id := listenerIn(t, ns, unix.AF_INET6)

				got := read(t, r, sockflags.Request{
					NetNS: ns.FD(), Ports: []uint16{port}, Listeners: []sockflags.ListenerID{id},
				}).Listeners

				// Go sets SO_REUSEADDR: setDefaultListenerSockopts.
				want := map[uint64]sockflags.Flags{id.Cookie: {ReuseAddr: true}}
				if !maps.Equal(got, want) {
					t.Errorf("listeners %+v, want %+v", got, want)
				}
			})
		}
	}
}

// listenerIn returns the listener on port in the namespace, by an independent reader of sock_diag.
func listenerIn(t *testing.T, ns *kerneltest.NetNS, family uint8) (id sockflags.ListenerID) {
	t.Helper()
	ns.Do(t, func() {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sockets {
			if s.ID.SourcePort == port && s.State == uint8(sock.StateListen) {
				id = sockflags.ListenerID{Cookie: uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]), Inode: s.INode}
				return
			}
		}
		t.Fatalf("sock_diag shows no listener on port %d", port)
	})
	return id
}

const pythonListener = `
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=True)
print(s.fileno(), flush=True)
sys.stdin.read()
`

func TestListenersOfPython(t *testing.T) {
	python := kerneltest.RequireCommand(t, "python3")
	for _, mode := range bothModes {
		t.Run(string(mode), func(t *testing.T) {
			r := newReader(t, sockflags.Options{Mode: mode})
			ns := kerneltest.New(t)
			cmd := ns.Command(t, python, "-c", pythonListener, fmt.Sprint(port))
			_, stdout := reexec.StartPiped(t, cmd)
			if _, err := stdout.ReadString('\n'); err != nil {
				t.Fatalf("python does not listen: %v", err)
			}
			id := listenerIn(t, ns, unix.AF_INET)

			got := read(t, r, sockflags.Request{
				NetNS: ns.FD(), Ports: []uint16{port}, Listeners: []sockflags.ListenerID{id},
			}).Listeners

			want := map[uint64]sockflags.Flags{id.Cookie: {ReuseAddr: true, ReusePort: true}}
			if !maps.Equal(got, want) {
				t.Errorf("listeners %+v, want %+v", got, want)
			}
		})
	}
}

func TestChangedFlagShowsAtTheNextRead(t *testing.T) {
	for _, mode := range bothModes {
		for _, mptcp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/mptcp=%v", mode, mptcp), func(t *testing.T) {
				// The interval is always over, so that the listener is asked each time.
				r := newReader(t, sockflags.Options{Mode: mode, PidfdInterval: time.Nanosecond})
				ns := kerneltest.New(t)
				l := ns.Listen(t, netip.AddrPortFrom(v6any, port), kerneltest.Options{MPTCP: mptcp})
				id := listenerIn(t, ns, unix.AF_INET6)
				req := sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}, Listeners: []sockflags.ListenerID{id}}

				for i, change := range []struct {
					option, value int
					want          sockflags.Flags
				}{
					{unix.SO_REUSEADDR, 0, sockflags.Flags{}},
					{unix.SO_REUSEADDR, 1, sockflags.Flags{ReuseAddr: true}},
					{unix.SO_REUSEPORT, 1, sockflags.Flags{ReuseAddr: true, ReusePort: true}},
					{unix.SO_REUSEADDR, 0, sockflags.Flags{ReusePort: true}},
				} {
					setsockopt(t, l.FD(), change.option, change.value)
					got := read(t, r, req).Listeners
					if want := map[uint64]sockflags.Flags{id.Cookie: change.want}; !maps.Equal(got, want) {
						t.Errorf("after change %d: listeners %+v, want %+v", i, got, want)
					}
				}
			})
		}
	}
}

// So many listeners need several reads of the iterator: its buffer holds 2048.
func TestManyListenersAreAllReadOnce(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	const n = 5000
	want := make(map[uint64]sockflags.Flags)
	for i := range n {
		flags := allFlags[2+i%2] // with SO_REUSEPORT, so that all can share the port
		l := ns.Listen(t, netip.AddrPortFrom(v4any, port), options(flags))
		want[cookieOf(t, l.FD())] = flags
	}

	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}}).Listeners

	if len(got) != n || !maps.Equal(got, want) {
		t.Errorf("%d listeners, want %d, or flags differ", len(got), n)
	}
}

func TestUnwatchedPortsAndOtherNamespacesAreAbsent(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns, other := kerneltest.New(t), kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	l.Peers(t, kerneltest.StateEstablished, 1, v4lo)
	for _, elsewhere := range []*kerneltest.Listener{
		ns.Listen(t, netip.AddrPortFrom(v4lo, port+1), kerneltest.Options{}),
		ns.Listen(t, netip.AddrPortFrom(v4lo, port+64), kerneltest.Options{}),
		other.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{ReuseAddr: true}),
	} {
		elsewhere.Peers(t, kerneltest.StateEstablished, 1, v4lo)
	}

	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})

	if want := map[uint64]sockflags.Flags{cookieOf(t, l.FD()): noFlags}; !maps.Equal(got.Listeners, want) {
		t.Errorf("listeners %+v, want %+v", got.Listeners, want)
	}
	if len(got.Groups) != 1 || got.Groups[0].Port != port || got.Groups[0].Count != 1 {
		t.Errorf("groups %+v, want one socket on port %d", got.Groups, port)
	}
}

func TestNetNSZeroIsThatOfTheCallingThread(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	var got *sockflags.Result
	ns.Do(t, func() {
		var err error
		if got, err = r.Read(context.Background(), sockflags.Request{Ports: []uint16{port}}); err != nil {
			t.Fatal(err)
		}
	})
	if want := map[uint64]sockflags.Flags{cookieOf(t, l.FD()): noFlags}; !maps.Equal(got.Listeners, want) {
		t.Errorf("listeners %+v, want %+v", got.Listeners, want)
	}
}

// So many listeners need several reads. The connections come after them.
func TestListenersOnlyAreAllListenersAndNothingElse(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	const listeners = 3000
	var ports []uint16
	var last *kerneltest.Listener
	for p := uint16(2000); p < 2000+listeners; p++ {
		last = ns.Listen(t, netip.AddrPortFrom(v4lo, p), options(sockflags.Flags{ReuseAddr: p%2 == 0}))
		ports = append(ports, p)
	}
	last.Peers(t, kerneltest.StateEstablished, 5, v4lo)

	for _, only := range []bool{true, false, true} {
		result := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: ports, ListenersOnly: only})
		reuse := 0
		for _, f := range result.Listeners {
			if f.ReuseAddr {
				reuse++
			}
		}
		if len(result.Listeners) != listeners || reuse != listeners/2 {
			t.Errorf("listeners only %v: %d listeners, %d with SO_REUSEADDR, want %d and %d", only, len(result.Listeners), reuse, listeners, listeners/2)
		}
		want := uint64(5)
		if only {
			want = 0
		}
		if total(result) != want {
			t.Errorf("listeners only %v: %d other sockets, want %d", only, total(result), want)
		}
	}
}

func TestListenersOnlyWhereThereAreNone(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	l.Peers(t, kerneltest.StateEstablished, 5, v4lo)
	result := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port + 1}, ListenersOnly: true})
	if len(result.Listeners) != 0 || total(result) != 0 {
		t.Errorf("got %+v, want nothing", result)
	}
}

// The kernel chose the port where the program named none.
func TestNamedPort(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	opener.EachNamedPort(t, port, func(t *testing.T, ns *kerneltest.NetNS, named bool) {
		for _, listenersOnly := range []bool{false, true} {
			got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}, ListenersOnly: listenersOnly})
			if len(got.Listeners) != 1 {
				t.Fatalf("listeners %+v, want one", got.Listeners)
			}
			for cookie := range got.Listeners {
				if got.NamedPort[cookie] != named {
					t.Errorf("NamedPort %t, want %t", got.NamedPort[cookie], named)
				}
			}
		}
	})
}
