package failures

import (
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
)

// A Watch watches ports to which a bind has failed: *watch.Plan. netns is 0 for the exporter's own
// network namespace.
type Watch interface {
	BindFailed(now time.Time, netns uint32, protocol sock.Protocol, port uint16, uid uint32)
}

// keepInSight has the port watched where a bind() or listen() failed, so that a server that cannot
// start is seen for as long as it tries. It runs for every event.
func (r *Recorder) keepInSight(e *bindtrace.Event) {
	if r.cfg.Watch == nil || !e.PortKnown || e.Op == bindtrace.OpConnect || !r.isWatchedNetns(e.Netns) {
		return
	}
	netns := e.Netns
	if netns == r.cfg.Host.OwnInode {
		netns = 0
	}
	switch e.Protocol {
	case sock.TCP, sock.MPTCP:
		r.cfg.Watch.BindFailed(time.Now(), netns, sock.TCP, e.Port, e.User)
	case sock.UDP:
		r.cfg.Watch.BindFailed(time.Now(), netns, sock.UDP, e.Port, e.User)
	default: // has no watched ports
	}
}

func (r *Recorder) isWatchedNetns(inode uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.watched.namespaces[inode]
	return ok
}

// noteFailing notes that a server cannot have its port: another socket has it, the address is not
// there, or the server may not. Other errors say that the call itself was wrong. It runs for every
// event.
func (r *Recorder) noteFailing(e *bindtrace.Event) {
	switch e.Errno {
	case unix.EADDRINUSE, unix.EADDRNOTAVAIL, unix.EACCES, unix.EPERM:
	default:
		return
	}
	of := r.failing
	if e.Protocol == sock.UDP {
		of = r.udp
	}
	known := e.Protocol == sock.TCP || e.Protocol == sock.MPTCP || e.Protocol == sock.UDP
	if !known || e.Op == bindtrace.OpConnect || !e.PortKnown || e.Port == 0 || !r.isWatchedNetns(e.Netns) {
		return
	}
	of.Failed(failing.Failure{
		Key:  failing.Key{Netns: e.Netns, Port: e.Port, Family: e.Family},
		Time: e.Time, User: e.User, Addr: e.Addr, V6Only: e.V6Only, PID: int(e.PID), Process: e.Process,
	})
}

// Look takes the TCP listeners on the watched ports of a network namespace, which say whether a bind
// has worked since one failed. err says why they are not known. at is when the caller began to ask for
// them.
func (r *Recorder) Look(netns uint32, at time.Time, listeners []ports.Listener, err error) {
	if err == nil {
		r.failing.Look(netns, at, listeners)
	}
}

// LookUDP is Look for the UDP sockets that anybody can send to.
func (r *Recorder) LookUDP(netns uint32, at time.Time, found []udp.Port, err error) {
	if err != nil {
		return
	}
	var sockets []ports.Listener
	for i := range found {
		sockets = append(sockets, found[i].Listeners()...)
	}
	r.udp.Look(netns, at, sockets)
}
