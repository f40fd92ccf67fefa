package facts

import (
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/sock"
)

// FailureOf says that a server cannot have its port: another socket has it, the address is not there, or the
// server may not. Other errors say that the call itself was wrong.
func FailureOf(e *bindtrace.Event) (f failing.Failure, ok bool) {
	switch e.Errno {
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.EACCES, unix.EPERM:
	default:
		return f, false
	}
	known := e.Protocol == sock.TCP || e.Protocol == sock.MPTCP || e.Protocol == sock.UDP
	if !known || e.Op == bindtrace.OpConnect || !e.PortKnown || e.Port == 0 {
		return f, false
	}
	var inTheWay []uint32
	for i := range e.Blockers {
		if inode := uint32(e.Blockers[i].Inode); inode != 0 {
			inTheWay = append(inTheWay, inode)
		}
	}
	return failing.Failure{
		Key:  failing.Key{Netns: e.Netns, Port: e.Port, Family: e.Family},
		Time: e.Time, User: e.User, Addr: e.Addr, V6Only: e.V6Only, InTheWay: inTheWay, PID: int(e.PID), Process: e.Process,
	}, true
}
