package diagtest

import (
	"net/netip"
	"time"

	"sockstate_exporter/netlinkdiag"
)

// NewSocket returns a socket with these addresses, written as 127.0.0.1:80 or [::1]:80. Its family
// is that of the local one.
func NewSocket(state netlinkdiag.State, local, remote string) netlinkdiag.Socket {
	s := netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4,
		State:  state,
		Local:  netip.MustParseAddrPort(local),
		Remote: netip.MustParseAddrPort(remote),
	}
	if s.Local.Addr().Is6() {
		s.Family = netlinkdiag.FamilyIPv6
	}
	return s
}

// NewListener returns a listening socket with a backlog of 128.
func NewListener(local string, cookie uint64) netlinkdiag.Socket {
	remote := "0.0.0.0:0"
	if netip.MustParseAddrPort(local).Addr().Is6() {
		remote = "[::]:0"
	}
	s := NewSocket(netlinkdiag.StateListen, local, remote)
	s.Cookie, s.WQueue, s.HasMem = cookie, 128, true
	return s
}

// NewTimeWait returns a socket in TIME_WAIT whose timer is due in left.
func NewTimeWait(local, remote string, left time.Duration) netlinkdiag.Socket {
	s := NewSocket(netlinkdiag.StateTimeWait, local, remote)
	s.Timer, s.Expires = netlinkdiag.TimerTimeWait, left
	return s
}
