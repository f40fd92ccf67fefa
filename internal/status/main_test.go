package status

import (
	"net/netip"
	"testing"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

var (
	any4 = netip.IPv4Unspecified()
	any6 = netip.IPv6Unspecified()
	lo4  = netip.MustParseAddr("127.0.0.1")
	lo6  = netip.IPv6Loopback()
)

// timeWait is what is left of n connections of a server that had the flag or not.
func timeWait(addr netip.Addr, n uint64, reuseAddr bindrule.Flag, left time.Duration) bindrule.Socket {
	return bindrule.Socket{
		Addr: addr, State: sock.State(netlinkdiag.StateTimeWait), Kind: sock.KindTimeWait,
		ReuseAddr: reuseAddr, ReusePort: bindrule.No, Count: n, Expires: left,
	}
}

func live(state netlinkdiag.State, n uint64, reuseAddr bindrule.Flag) bindrule.Socket {
	return bindrule.Socket{
		Addr: lo4, State: sock.State(state), ReuseAddr: reuseAddr, ReusePort: bindrule.No, Count: n, UID: bindrule.UIDOf(1000),
	}
}

func listener(addr netip.Addr, v6only bool, reuseAddr bindrule.Flag) bindrule.Socket {
	return bindrule.Socket{
		Addr: addr, V6Only: bindrule.FlagOf(v6only), State: sock.StateListen,
		ReuseAddr: reuseAddr, ReusePort: bindrule.No, Count: 1, UID: bindrule.UIDOf(1000),
	}
}

// snapshotOf is a snapshot of ports, counted up from 4840, with those sockets.
func snapshotOf(sockets ...[]bindrule.Socket) *snapshot.Snapshot {
	s := new(snapshot.Snapshot)
	for i, of := range sockets {
		v := verdict.Port{Number: uint16(4840 + i), Port: bindrule.Port{Sockets: of}}
		for _, l := range of {
			if l.State != sock.StateListen {
				continue
			}
			s.Listeners.Data = append(s.Listeners.Data, ports.Group{
				GroupKey: ports.GroupKey{Port: v.Number, Family: sock.FamilyOf(l.Addr), Address: l.Addr, Ifindex: l.Ifindex},
				V6Only:   l.V6Only == bindrule.Yes, Sockets: l.Count, Interface: map[uint32]string{7: "eth\x1b7"}[l.Ifindex],
			})
			v.Restarts = append(v.Restarts, verdict.Restart{
				Address: l.Addr, Ifindex: l.Ifindex, Listening: true, ReuseAddr: l.ReuseAddr, ReusePort: l.ReusePort,
				Verdict: verdict.Verdict{Verdict: v.Port.Bind(bindrule.Request{
					Addr: l.Addr, Ifindex: l.Ifindex, V6Only: l.V6Only, ReuseAddr: l.ReuseAddr, ReusePort: l.ReusePort,
					UID: l.UID, ListenersAside: true,
				})},
			})
		}
		s.Verdicts.Data = append(s.Verdicts.Data, v)
	}
	return s
}
