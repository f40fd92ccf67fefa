package verdict_test

import (
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
)

func TestExplainNamesTheCauseThatSaysMost(t *testing.T) {
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
		want      verdict.Cause
	}{
		{"nothing there", no, bindrule.Port{}, verdict.CauseUnknown},
		{"of all the listener", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound, established, listen}}, verdict.CauseListener},
		{"of others the connection", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound, established}}, verdict.CauseConnection},
		{"before TIME_WAIT the bound one", no, bindrule.Port{Sockets: []bindrule.Socket{wait, bound}}, verdict.CauseBound},
		{"TIME_WAIT", no, bindrule.Port{Sockets: []bindrule.Socket{wait}}, verdict.CauseTimeWait},
		{"a FIN_WAIT2 without a process", no, bindrule.Port{Sockets: []bindrule.Socket{mini(sock.StateFinWait2, no)}}, verdict.CauseConnection},
		{"those that let it pass are no cause", yes, bindrule.Port{Sockets: []bindrule.Socket{full(sock.StateEstablished, yes), wait}}, verdict.CauseTimeWait},
		{"all let it pass", yes, bindrule.Port{Sockets: []bindrule.Socket{full(sock.StateEstablished, yes)}}, verdict.CauseUnknown},
		{"flags unknown, but nothing else there", yes, bindrule.Port{Sockets: []bindrule.Socket{mini(sock.StateTimeWait, unknown)}}, verdict.CauseTimeWait},
		{"flags unknown, and others may be there", yes, bindrule.Port{Incomplete: true, Sockets: []bindrule.Socket{mini(sock.StateTimeWait, unknown)}}, verdict.CauseUnknown},
		{"flags unknown of two kinds", yes, bindrule.Port{Sockets: []bindrule.Socket{mini(sock.StateTimeWait, unknown), full(sock.StateClose, unknown)}}, verdict.CauseUnknown},
		{"one is sure, whatever others are", yes, bindrule.Port{Incomplete: true, Sockets: []bindrule.Socket{full(sock.StateEstablished, unknown), wait}}, verdict.CauseTimeWait},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request := bindrule.Request{Addr: any4, V6Only: no, ReuseAddr: tt.reuseAddr, ReusePort: yes, UID: bindrule.UIDOf(1)}
			if got, _ := verdict.Explain(&tt.port, request); got != tt.want {
				t.Errorf("cause %v, want %v", got, tt.want)
			}
		})
	}
}
