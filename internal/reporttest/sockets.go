package reporttest

import (
	"net/netip"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// TimeWait is what n connections of a server left, which had the flag or not.
func TimeWait(addr netip.Addr, n uint64, reuseAddr bindrule.Flag, left time.Duration) bindrule.Socket {
	return bindrule.Socket{
		Addr: addr, State: sock.StateTimeWait, Kind: sock.KindTimeWait,
		ReuseAddr: reuseAddr, ReusePort: bindrule.No, Count: n, Expires: left,
	}
}

// Live is n sockets of user 1000 that no timer ends.
func Live(state netlinkdiag.State, n uint64, reuseAddr bindrule.Flag) bindrule.Socket {
	return bindrule.Socket{
		Addr: netip.MustParseAddr("127.0.0.1"), State: state, ReuseAddr: reuseAddr, ReusePort: bindrule.No, Count: n, UID: bindrule.UIDOf(1000),
	}
}

// Listener is a socket of user 1000 that listens.
func Listener(addr netip.Addr, v6only bool, reuseAddr bindrule.Flag) bindrule.Socket {
	return bindrule.Socket{
		Addr: addr, V6Only: bindrule.FlagOf(v6only), State: sock.StateListen,
		ReuseAddr: reuseAddr, ReusePort: bindrule.No, Count: 1, UID: bindrule.UIDOf(1000),
	}
}

// OnDevice is a SO_REUSEPORT group, bound to a device whose name would move the cursor.
func OnDevice() bindrule.Socket {
	s := Listener(netip.IPv4Unspecified(), false, bindrule.Yes)
	s.Ifindex, s.Count, s.ReusePort = 7, 4, bindrule.Yes
	return s
}

// SnapshotOf is a snapshot of ports, counted up from 4840, with those sockets.
func SnapshotOf(sockets ...[]bindrule.Socket) *snapshot.Snapshot {
	s := new(snapshot.Snapshot)
	for i, onPort := range sockets {
		v := verdict.Port{Number: uint16(4840 + i), Port: bindrule.Port{Sockets: onPort}}
		for _, l := range onPort {
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
