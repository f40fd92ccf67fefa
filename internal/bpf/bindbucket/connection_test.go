package bindbucket_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// everyPort is a range in which the table of bind buckets ends, and begins anew.
var everyPort = sock.PortRange{First: 1, Last: 65535}

// connections counts what sock_diag shows of the connections on the ports of a range but some.
func connections(t *testing.T, ns *kerneltest.NetNS, of sock.PortRange, except ...uint16) map[bindbucket.Connection]int {
	t.Helper()
	conn, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	found := make(map[bindbucket.Connection]int)
	for s, err := range conn.Dump(t.Context(), netlinkdiag.Request{}) {
		if err != nil {
			t.Fatal(err)
		}
		local := s.Local.Port()
		// A request is in no bind bucket.
		if of.Contains(local) && !slices.Contains(except, local) && s.Remote.Port() != 0 && s.State != sock.StateSynRecv {
			found[bindbucket.Connection{Local: s.Local, Peer: s.Remote, State: s.State}]++
		}
	}
	return found
}

func TestConnectionsAreThoseOfSockDiag(t *testing.T) {
	r := newReader(t)
	ns, other := kerneltest.New(t), kerneltest.New(t)
	for _, ns := range []*kerneltest.NetNS{ns, other} {
		for n, addr := range []netip.Addr{v4any, v6any} {
			l := ns.Listen(t, netip.AddrPortFrom(addr, port+uint16(n)), kerneltest.Options{})
			for _, state := range kerneltest.States() {
				if state == kerneltest.StateListen {
					continue
				}
				l.Peers(t, state, 2, v4lo)
				if addr == v6any {
					l.Peers(t, state, 3, v6lo)
				}
			}
		}
	}
	local := sock.PortRange{First: 32768, Last: 60999}
	for of := range connections(t, ns, local) {
		local.First = max(local.First, of.Local.Port()) // one of those that are in use
	}
	for _, tt := range []struct {
		of     sock.PortRange
		except []uint16
	}{
		{sock.PortRange{First: 32768, Last: 60999}, nil},
		{sock.PortRange{First: 32768, Last: 60999}, []uint16{local.First}},
		{sock.PortRange{First: local.First, Last: local.First}, nil},
		{sock.PortRange{First: 32768, Last: local.First}, nil},
		{sock.PortRange{First: local.First, Last: 65535}, nil},
		{everyPort, nil},
		{everyPort, []uint16{port, local.First}},
		{sock.PortRange{First: 1, Last: 2}, nil},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			want := connections(t, ns, tt.of, tt.except...)
			found, err := r.ReadConnections(ns.FD(), tt.of, tt.except)
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[bindbucket.Connection]int)
			for _, c := range found {
				got[c]++
			}
			if !maps.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestManyConnectionsAreTooMany(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	l.Peers(t, kerneltest.StateEstablished, 512, v4lo)
	if got, err := r.ReadConnections(ns.FD(), everyPort, nil); err != nil || len(got) != 1024 {
		t.Errorf("%d connections, %v; want 1024", len(got), err)
	}
	l.Peers(t, kerneltest.StateEstablished, 1, v4lo)
	if _, err := r.ReadConnections(ns.FD(), everyPort, nil); !errors.Is(err, bindbucket.ErrTooMany) {
		t.Errorf("error %v, want %v", err, bindbucket.ErrTooMany)
	}
	if got, err := r.ReadConnections(ns.FD(), everyPort, []uint16{port}); err != nil || len(got) != 513 {
		t.Errorf("%d connections, %v; want those of the other side", len(got), err)
	}
	// The table is as before for those who ask for a port.
	if got, err := r.Read(ns.FD(), []uint16{port}); err != nil || len(got.Sockets) != 514 {
		t.Errorf("%v; want all sockets of the port", err)
	}
}

// While connections come and go, those that stay are there each time, and each once.
func TestConnectionsDuringChurn(t *testing.T) {
	r := newReader(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4any, port), kerneltest.Options{})
	l.Peers(t, kerneltest.StateEstablished, 20, v4lo)
	stay := connections(t, ns, everyPort)
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			peers, err := l.OpenPeers(kerneltest.StateEstablished, 5, v4lo)
			for _, p := range peers {
				p.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	reads, changed := 0, 0
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); reads++ {
		found, err := r.ReadConnections(ns.FD(), everyPort, nil)
		switch {
		case errors.Is(err, bindbucket.ErrTooMany):
			continue // TIME_WAIT
		case err != nil:
			changed++
			continue
		}
		seen := make(map[bindbucket.Connection]int)
		for _, c := range found {
			seen[c]++
		}
		for c := range stay {
			if seen[c] != 1 {
				t.Errorf("%v was read %d times", c, seen[c])
			}
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if t.Logf("%d of %d reads failed", changed, reads); changed > reads/10 {
		t.Error("more than a tenth")
	}
}

// A socket whose connection was reset keeps the port that its program has named, and its peer.
func TestConnectionThatWasResetIsNone(t *testing.T) {
	const named = 33000
	r := newReader(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{})
	client := ns.Bind(t, netip.AddrPortFrom(v4lo, named), kerneltest.Options{})
	if err := unix.Connect(client.FD(), &unix.SockaddrInet4{Port: port, Addr: v4lo.As4()}); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	accepted, _, err := unix.Accept4(l.FD(), unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	read := func() []bindbucket.Connection {
		got, err := r.ReadConnections(ns.FD(), sock.PortRange{First: named, Last: named}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := bindbucket.Connection{Local: netip.AddrPortFrom(v4lo, named), Peer: netip.AddrPortFrom(v4lo, port), State: sock.StateEstablished}
	if got := read(); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := errors.Join(unix.SetsockoptLinger(accepted, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Close(accepted)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		state, err := client.State()
		if err != nil || state != kerneltest.StateClose && time.Now().After(deadline) {
			t.Fatalf("state %v, %v", state, err)
		}
		if state == kerneltest.StateClose {
			break
		}
	}
	if got := read(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
	bound, err := r.Read(ns.FD(), []uint16{named})
	if err != nil || len(bound.Sockets) != 1 {
		t.Errorf("%+v, %v: this test shows nothing", bound, err)
	}
}
