package sockflags

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// connectFrom makes connections from local addresses to a listener on another port, as a user.
func connectFrom(t *testing.T, ns *kerneltest.NetNS, device string, uid func(i int) int, locals ...netip.AddrPort) {
	t.Helper()
	addr := netip.MustParseAddr("127.0.0.1")
	if locals[0].Addr().Unmap().Is6() {
		addr = netip.IPv6Loopback()
	}
	to := netip.AddrPortFrom(addr, locals[0].Port()+10_000)
	l := ns.Listen(t, to, kerneltest.Options{})
	t.Cleanup(func() { _ = l.Close() })
	if locals[0].Addr().Is4In6() {
		to = netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	ns.Do(t, func() {
		for i, local := range locals {
			fd, err := unix.Socket(kerneltest.Family(local.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			if device != "" {
				if err := unix.BindToDevice(fd, device); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Fchown(fd, uid(i), -1); err != nil {
				t.Fatal(err)
			}
			if err := unix.Bind(fd, kerneltest.Sockaddr(local)); err != nil {
				t.Fatalf("bind %v: %v", local, err)
			}
			if err := unix.Connect(fd, kerneltest.Sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
				t.Fatalf("connect from %v: %v", local, err)
			}
		}
	})
}

// flood are n addresses of 127.0.0.0/8.
func flood(n int, number uint16) (out []netip.AddrPort) {
	for i := range n {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), number))
	}
	return out
}

func newFoldReader(t *testing.T, maxGroups int) (*Reader, *iterator) {
	t.Helper()
	kerneltest.RequireRoot(t)
	r, err := New(Options{Mode: ModeBPF, MaxGroups: maxGroups})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	it, ok := r.source.(*iterator)
	if !ok {
		t.Fatalf("reads by %T", r.source)
	}
	return r, it
}

// As bindrule.Folding folds.
func TestFoldedGroupsKeepWhatExpectedBindsTellApart(t *testing.T) {
	const port = 4840
	r, it := newFoldReader(t, 0)
	it.groupsMax = 1 // so every group is folded
	server, another := netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.8")
	first, second := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	mapped := func(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }
	expected := map[uint16][]Bind{
		port: {
			{Addr: server, UID: 1000, UIDKnown: true},
			{Addr: first, Ifindex: 1, UID: 1001, UIDKnown: true},
			{Addr: netip.IPv4Unspecified(), UID: 1002, UIDKnown: true},
		},
		port + 1: {{Addr: another, Ifindex: 1, UID: 7, UIDKnown: true}},
	}
	for _, tt := range []struct {
		name   string
		local  netip.Addr
		device string
		uid    int
		want   Group
	}{
		{"an expected bind", server, "", 1000, Group{Addr: server, UID: 1000}},
		{"the same, mapped", mapped(server), "", 1000, Group{Addr: mapped(server), UID: 1000}},
		{"of the wildcard's user", server, "", 1002, Group{Addr: server, UID: 1002}},
		{"of another bind's user", server, "", 1001, Group{Addr: server, UID: sock.OtherUID}},
		{"on a device that the bind does not name", server, "lo", 1000, Group{Addr: server, UID: 1000, Ifindex: sock.OtherIfindex}},
		{"elsewhere", another, "", 1000, Group{Elsewhere: sock.FamilyIPv4, UID: sock.OtherUID}},
		{"elsewhere, of the wildcard's user", another, "", 1002, Group{Elsewhere: sock.FamilyIPv4, UID: 1002}},
		{"elsewhere, mapped", mapped(another), "", 7, Group{Elsewhere: sock.FamilyIPv4, UID: sock.OtherUID}},
		{"IPv6 on the device of the bind", first, "lo", 1001, Group{Addr: first, UID: 1001, Ifindex: 1, V6Only: true}},
		{"IPv6 elsewhere", second, "", 1001, Group{Elsewhere: sock.FamilyIPv6, UID: sock.OtherUID, V6Only: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.AddDummy(t, "dummy0", netip.PrefixFrom(first, 128), netip.PrefixFrom(second, 128))
			connectFrom(t, ns, tt.device, func(int) int { return tt.uid }, netip.AddrPortFrom(tt.local, port))
			got, err := r.Read(t.Context(), Request{NetNS: ns.FD(), Ports: []uint16{port}, Expected: expected})
			if err != nil {
				t.Fatal(err)
			}
			want := tt.want
			want.Port, want.Count = port, 1
			if len(got.Groups) == 1 {
				want.State = got.Groups[0].State // SYN_SENT or ESTABLISHED, which makes no difference here
			}
			if len(got.Groups) != 1 || got.Groups[0] != want || len(got.Missed) > 0 {
				t.Errorf("groups %+v, missed %v, want %+v", got.Groups, got.Missed, want)
			}
		})
	}
}

func TestFloodOnSomePortsLeavesOthersComplete(t *testing.T) {
	r, _ := newFoldReader(t, 256)
	ns := kerneltest.New(t)
	req := Request{NetNS: ns.FD(), Expected: make(map[uint16][]Bind)}
	const crowded, quiet = 4, 16
	for p := range uint16(crowded) {
		number := 5000 + p
		// A user with a range of subordinate ids.
		connectFrom(t, ns, "", func(i int) int { return 100_000 + i }, flood(300, number)...)
		req.Ports = append(req.Ports, number)
		req.Expected[number] = []Bind{{Addr: netip.MustParseAddr("127.0.0.1"), UID: 1000, UIDKnown: true}}
	}
	for p := range uint16(quiet) {
		number := 6000 + p
		l := ns.Listen(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), number), kerneltest.Options{})
		for _, state := range []kerneltest.State{kerneltest.StateEstablished, kerneltest.StateCloseWait, kerneltest.StateTimeWait} {
			l.Peers(t, state, 2, netip.MustParseAddr("127.0.0.1"))
		}
		req.Ports = append(req.Ports, number)
	}
	for range 2 {
		got, err := r.Read(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Missed) > 0 {
			t.Errorf("missed %v, want none", got.Missed)
		}
		sums, folded := counts(got), make(map[uint16]bool)
		for _, g := range got.Groups {
			folded[g.Port] = folded[g.Port] || g.Elsewhere != 0
		}
		for p := range uint16(crowded) {
			if n := sums[5000+p]; n != 300 || !folded[5000+p] {
				t.Errorf("%d sockets on crowded port %d, folded %v; want 300, folded", n, 5000+p, folded[5000+p])
			}
		}
		for p := range uint16(quiet) {
			if n := sums[6000+p]; n != 6 {
				t.Errorf("%d sockets on quiet port %d, want 6", n, 6000+p)
			}
		}
	}
}

// Where there is no room to say what is expected, folded groups would be wrong.
func TestPortsWhoseBindsAreTooManyAreMissedWhereTheyAreFolded(t *testing.T) {
	r, it := newFoldReader(t, 0)
	it.groupsMax = 1
	ns := kerneltest.New(t)
	const port = 4840
	local := netip.MustParseAddrPort("127.0.0.9:4840")
	connectFrom(t, ns, "", func(int) int { return 1000 }, local)
	req := Request{NetNS: ns.FD(), Ports: []uint16{port}, Expected: map[uint16][]Bind{port: {{Addr: local.Addr()}}}}
	for i := range maxExpected + 1 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		req.Expected[port] = append(req.Expected[port], Bind{Addr: addr})
	}
	got, err := r.Read(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Groups) > 0 || got.Missed[port] != 1 {
		t.Errorf("groups %+v, missed %v; want the one socket missed", got.Groups, got.Missed)
	}
}
