package inspect

import (
	"net/netip"
	"testing"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe/probetest"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// Any user may listen on every loopback address. The cause of another one's failure is known all the
// same.
func TestListenersThatALookComparesAreFew(t *testing.T) {
	var sockets []netlinkdiag.Socket
	const many = 3000
	for i := range many {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 80)
		sockets = append(sockets, diagtest.Listening(addr.String(), uint64(i)))
	}
	// They share one address.
	for i := range many {
		sockets = append(sockets, diagtest.Listening("0.0.0.0:81", uint64(len(sockets)+i)))
	}
	request := bindrule.Request{Addr: netip.MustParseAddr("127.0.0.1"), ReuseAddr: bindrule.Yes, ReusePort: bindrule.No}
	failed := []bindrule.Request{request}
	l, err := Ports(t.Context(), &probetest.Namespace{TCP: sockets}, map[uint16][]bindrule.Request{80: failed, 81: failed})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		port    uint16
		most    uint64 // of the listeners
		outcome bindrule.Outcome
	}{{80, maxListenersPerPort + maxAlike, bindrule.Free}, {81, maxAlike, bindrule.Blocked}} {
		seen := l.Port(tt.port)
		if got := seen.Bind(request).Outcome; len(seen.Sockets) != 1 || seen.Sockets[0].Count > tt.most || got != tt.outcome {
			t.Errorf("port %d has %+v, a bind is %v; want one socket that stands for %d at most, and %v", tt.port, seen.Sockets, got, tt.most, tt.outcome)
		}
	}
}

func TestOtherHalf(t *testing.T) {
	server := func(local string, uid uint32, v6only bool) ports.Listener {
		s := diagtest.Listening(local, 1)
		s.UID, s.V6Only = uid, v6only
		return ports.NewListener(&s)
	}
	for _, tt := range []struct {
		name   string
		failed string
		listen ports.Listener
		want   bool
	}{
		{"IPv6 beside IPv4", "0.0.0.0", server("[::]:80", 7, true), true},
		{"IPv4 beside IPv6", "::1", server("127.0.0.1:80", 7, false), true},
		{"another address of the same family", "127.0.0.1", server("127.0.0.2:80", 7, false), false},
		{"a v4-mapped one is IPv4", "127.0.0.1", server("[::ffff:127.0.0.2]:80", 7, false), false},
		{"of another user", "0.0.0.0", server("[::]:80", 8, true), false},
		{"on another port", "0.0.0.0", server("[::]:81", 7, true), false},
		{"blocks the bind itself", "0.0.0.0", server("[::]:80", 7, false), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failed := bindrule.Request{
				Addr: netip.MustParseAddr(tt.failed), V6Only: bindrule.No, ReuseAddr: bindrule.No, ReusePort: bindrule.No, UID: bindrule.UIDOf(7),
			}
			if got := len(OtherHalf(80, failed, []ports.Listener{tt.listen})) == 1; got != tt.want {
				t.Errorf("other half: %t, want %t", got, tt.want)
			}
		})
	}
}
