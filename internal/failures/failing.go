package failures

import (
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/facts"
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

// noteFailing notes that a server cannot have its port. It runs for every event.
func (r *Recorder) noteFailing(e *bindtrace.Event) {
	f, ok := facts.FailureOf(e)
	switch {
	case !ok || !r.isWatchedNetns(e.Netns):
	case e.Protocol == sock.UDP:
		r.udp.Failed(f)
	default:
		r.failing.Failed(f)
	}
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
	if err == nil {
		r.udp.Look(netns, at, udp.Listeners(found))
	}
}
