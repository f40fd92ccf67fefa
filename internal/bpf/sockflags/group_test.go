package sockflags_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/sock"
)

// Every state in which a socket can be on a listener's port, with and without
// flags, on both families: counted in the one right group.
func TestSocketsAreToldApartByStateAndFlags(t *testing.T) {
	hidden := []kerneltest.State{
		kerneltest.StateListen, // a listener, not in a group
		kerneltest.StateClose,  // bound only: the kernel's iterator does not visit it
	}
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	for _, addr := range []struct {
		name         string
		listen, from netip.Addr
		want         netip.Addr
	}{
		{"ipv4", v4any, v4lo, v4lo},
		{"ipv6", v6any, v6lo, v6lo},
		{"mapped", v6any, v4lo, netip.MustParseAddr("::ffff:127.0.0.1")},
	} {
		for _, state := range kerneltest.States() {
			if slices.Contains(hidden, state) {
				continue
			}
			for _, flags := range allFlags {
				t.Run(fmt.Sprintf("%s/%v/%+v", addr.name, state, flags), func(t *testing.T) {
					ns := kerneltest.New(t)
					l := ns.Listen(t, netip.AddrPortFrom(addr.listen, port), options(flags))
					l.Peers(t, state, 2, addr.from)

					got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})

					want := sockflags.Group{
						Port: port, Addr: addr.want, State: sock.State(state), Flags: flags, Count: 2,
					}
					switch state {
					case kerneltest.StateTimeWait:
						want.Kind = sock.KindTimeWait
					case kerneltest.StateSynRecv:
						want.Kind = sock.KindRequest
						want.Addr = addr.listen
					case kerneltest.StateSynSent:
						// Made apart from the listener, with IPV6_V6ONLY on IPv6.
						want.V6Only = addr.from.Is6()
					}
					checkGroups(t, got, want)
				})
			}
		}
	}
}

// checkGroups compares all but the expiry, which is checked for being there only
// where it has to.
func checkGroups(t *testing.T, got *sockflags.Result, want ...sockflags.Group) {
	t.Helper()
	for i, g := range got.Groups {
		if expires := g.Expires > 0; expires != (g.Kind == sock.KindTimeWait) {
			t.Errorf("group of kind %d expires in %v", g.Kind, g.Expires)
		}
		got.Groups[i].Expires = 0
	}
	if !slices.Equal(got.Groups, want) || len(got.Missed) > 0 {
		t.Errorf("groups %+v, missed %v\nwant %+v", got.Groups, got.Missed, want)
	}
}

// The kernel keeps an orphan in FIN_WAIT2 as a timewait_sock, for bind() a
// TIME_WAIT; sock_diag shows fin_wait2 for both.
func TestOrphanInFinWait2IsTimeWaitForBind(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{ReuseAddr: true})
	for _, p := range l.Peers(t, kerneltest.StateFinWait2, 2, v4lo) {
		if err := p.Local.Orphan(); err != nil {
			t.Fatal(err)
		}
	}

	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})

	checkGroups(t, got, sockflags.Group{
		Port: port, Addr: v4lo, State: sock.StateFinWait2, Kind: sock.KindTimeWait,
		Flags: sockflags.Flags{ReuseAddr: true}, Count: 2,
	})
}

func TestGroupHasDeviceUIDAndV6Only(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v6any, port), kerneltest.Options{V6Only: &yes})
	peer := l.Peers(t, kerneltest.StateEstablished, 1, v6lo)[0]
	ns.Do(t, func() { bindToDevice(t, peer.Local.FD(), "lo") })
	if err := fchown(peer.Local.FD(), 1234); err != nil {
		t.Fatal(err)
	}

	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})

	checkGroups(t, got, sockflags.Group{
		Port: port, Addr: v6lo, Ifindex: 1, V6Only: true, State: sock.StateEstablished,
		UID: 1234, Count: 1,
	})
}

// First restart after a fix: old sockets without the flag, new ones with it.
func TestTimeWaitWithAndWithoutFlagOnOnePortAreToldApart(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	l.Peers(t, kerneltest.StateTimeWait, 3, v4lo)
	setsockopt(t, l.FD(), soReuseAddr, 1)
	l.Peers(t, kerneltest.StateTimeWait, 4, v4lo)

	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})

	byFlag := tally(got, func(g sockflags.Group) bool { return g.ReuseAddr })
	if want := map[bool]uint64{false: 3, true: 4}; !maps.Equal(byFlag, want) {
		t.Errorf("time_wait by SO_REUSEADDR %v, want %v", byFlag, want)
	}
}

func TestTwentyThousandTimeWaitAreCountedExactly(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	// Two kinds that come mixed, so that the group changes with nearly every socket.
	for i, flags := range []sockflags.Flags{{}, {ReuseAddr: true}} {
		timewait.MustMake(t, ns, timewait.Options{Count: 10_000, Ports: []uint16{port + uint16(i)}, Options: options(flags)})
	}
	sockstat, err := ns.TimeWaitCount()
	if err != nil {
		t.Fatal(err)
	}

	for range 3 {
		got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port, port + 1}})
		type key struct {
			port uint16
			sockflags.Flags
		}
		sums := tally(got, func(g sockflags.Group) key { return key{g.Port, g.Flags} })
		want := map[key]uint64{{port, noFlags}: 10_000, {port + 1, sockflags.Flags{ReuseAddr: true}}: 10_000}
		if !maps.Equal(sums, want) || total(got) != uint64(sockstat) {
			t.Fatalf("%v, want %v; sockstat counts %d", sums, want, sockstat)
		}
	}
}

func TestExpiryAgreesWithSockDiag(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF})
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	for range 10 { // of which the last one counts, wherever it is in the table
		l.Peers(t, kerneltest.StateTimeWait, 1, v4lo)
		time.Sleep(20 * time.Millisecond)
	}

	// Whatever time passes between the looks, the middle one lies between the others.
	before := sockDiagExpires(t, ns)
	got := read(t, r, sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port}})
	after := sockDiagExpires(t, ns)

	if len(got.Groups) != 1 {
		t.Fatalf("groups %+v, want one", got.Groups)
	}
	// sock_diag rounds to a millisecond.
	if e := got.Groups[0].Expires; e > before+time.Millisecond || e < after-time.Millisecond {
		t.Errorf("expires in %v, sock_diag said %v before and %v afterwards", e, before, after)
	}
}

// A port of two has one group as it comes here, and two folded ones. The sockets beyond are missed,
// by port.
func TestGroupsBeyondThePortsShareAreMissed(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF, MaxGroups: 8})
	ns := kerneltest.New(t)
	crowded := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	for _, state := range []kerneltest.State{
		kerneltest.StateEstablished, kerneltest.StateCloseWait, kerneltest.StateFinWait2, kerneltest.StateTimeWait,
	} {
		crowded.Peers(t, state, 3, v4lo)
	}
	quiet := ns.Listen(t, netip.AddrPortFrom(v4any, port+1), kerneltest.Options{})
	quiet.Peers(t, kerneltest.StateEstablished, 5, v4lo)
	req := sockflags.Request{NetNS: ns.FD(), Ports: []uint16{port, port + 1}}

	for range 2 { // what one Read missed does not add to the next
		got := read(t, r, req)
		counted := tally(got, func(g sockflags.Group) uint16 { return g.Port })
		if want := map[uint16]uint64{port: 9, port + 1: 5}; !maps.Equal(counted, want) {
			t.Errorf("counted %v, want %v", counted, want)
		}
		if want := map[uint16]uint64{port: 3}; !maps.Equal(got.Missed, want) {
			t.Errorf("missed %v, want %v", got.Missed, want)
		}
	}
}

func TestGroupsBeyondTheMapAreMissed(t *testing.T) {
	r := newReader(t, sockflags.Options{Mode: sockflags.ModeBPF, MaxGroups: 4})
	ns := kerneltest.New(t)
	req := sockflags.Request{NetNS: ns.FD()}
	for p := uint16(port); p < port+6; p++ {
		ns.Listen(t, netip.AddrPortFrom(v4any, p), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 2, v4lo)
		req.Ports = append(req.Ports, p)
	}

	for range 2 {
		got := read(t, r, req)
		var missed uint64
		for p, n := range got.Missed {
			missed += n
			if slices.ContainsFunc(got.Groups, func(g sockflags.Group) bool { return g.Port == p }) {
				t.Errorf("port %d is both counted and missed", p)
			}
		}
		if total(got) != 8 || missed != 4 || len(got.Missed) != 2 {
			t.Errorf("counted %d, missed %v; want 8, and 2 each on 2 ports", total(got), got.Missed)
		}
	}
}
