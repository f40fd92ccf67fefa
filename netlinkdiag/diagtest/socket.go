package diagtest

import (
	"net/netip"
	"time"

	"sockstate_exporter/netlinkdiag"
)

// InState returns a socket with these addresses, written as 127.0.0.1:80 or [::1]:80. Its family is
// that of the local one.
func InState(state netlinkdiag.State, local, remote string) netlinkdiag.Socket {
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

// Listening returns a listening socket whose accept queue is empty and takes 128 connections. It
// has counters of memory, all 0.
func Listening(local string, cookie uint64) netlinkdiag.Socket {
	remote := "0.0.0.0:0"
	if netip.MustParseAddrPort(local).Addr().Is6() {
		remote = "[::]:0"
	}
	s := InState(netlinkdiag.StateListen, local, remote)
	s.Cookie, s.WQueue, s.HasMem = cookie, 128, true
	return s
}

// TimeWait returns a socket in TIME_WAIT that expires after left.
func TimeWait(local, remote string, left time.Duration) netlinkdiag.Socket {
	s := InState(netlinkdiag.StateTimeWait, local, remote)
	s.Timer, s.Expires = netlinkdiag.TimerTimeWait, left
	return s
}
