package verdict_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

func TestExplainFindsTheSocketsThatBlockedABind(t *testing.T) {
	// All binders have SO_REUSEPORT, for which the kernel has a shortcut, and none of the others.
	any4 := netip.IPv4Unspecified()
	full := func(state sock.State, flag bindrule.Flag) bindrule.Socket {
		return bindrule.Socket{Addr: any4, State: state, Count: 1, V6Only: bindrule.No, ReuseAddr: flag, ReusePort: bindrule.No, UID: bindrule.UIDOf(1)}
	}
	mini := func(state sock.State, flag bindrule.Flag) bindrule.Socket {
		s := full(state, flag)
		s.Kind, s.Expires, s.UID = sock.KindTimeWait, time.Second, bindrule.UID{}
		return s
	}
	const no, yes, unknown = bindrule.No, bindrule.Yes, bindrule.FlagUnknown
	listen, bound := full(sock.StateListen, no), full(sock.StateClose, no)
	established, wait := full(sock.StateEstablished, no), mini(sock.StateTimeWait, no)
	for _, tt := range []struct {
		name      string
		reuseAddr bindrule.Flag
		port      bindrule.Port
		want      []int // of the port's sockets
	}{
		{"nothing there", no, bindrule.Port{}, nil},
		{"all kinds", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound, established, listen}}, []int{0, 1, 2, 3}},
		{"a FIN_WAIT2 without a process", no, bindrule.Port{Sockets: []bindrule.Socket{mini(sock.StateFinWait2, no)}}, []int{0}},
		{"one lets it pass", yes, bindrule.Port{Sockets: []bindrule.Socket{full(sock.StateEstablished, yes), wait}}, []int{1}},
		{"all let it pass", yes, bindrule.Port{Sockets: []bindrule.Socket{full(sock.StateEstablished, yes)}}, nil},
		{"flags unknown, but nothing else there", yes, bindrule.Port{Sockets: []bindrule.Socket{mini(sock.StateTimeWait, unknown)}}, []int{0}},
		{"flags unknown, and others may be there", yes, bindrule.Port{Incomplete: true, Sockets: []bindrule.Socket{mini(sock.StateTimeWait, unknown)}}, nil},
		{"flags unknown of two kinds", yes, bindrule.Port{Sockets: []bindrule.Socket{mini(sock.StateTimeWait, unknown), full(sock.StateClose, unknown)}}, nil},
		{"one is sure, whatever others are", yes, bindrule.Port{Incomplete: true, Sockets: []bindrule.Socket{full(sock.StateEstablished, unknown), wait}}, []int{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request := bindrule.Request{Addr: any4, V6Only: no, ReuseAddr: tt.reuseAddr, ReusePort: yes, UID: bindrule.UIDOf(1)}
			var want []bindrule.Socket
			for _, i := range tt.want {
				want = append(want, tt.port.Sockets[i])
			}
			if got := verdict.Explain(&tt.port, request); !slices.Equal(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}
