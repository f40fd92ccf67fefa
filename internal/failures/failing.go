package failures

import (
	"time"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/sock"
)

// A Watch watches ports to which a bind has failed: *watch.Plan. netns is 0 for the exporter's own
// network namespace.
type Watch interface {
	BindFailed(now time.Time, netns uint32, protocol sock.Protocol, port uint16, uid uint32)
}

// keepInSight has the port watched where a bind() or listen() failed, so that a server that cannot
// start is seen for as long as it tries. It runs for every event.
func (r *Recorder) keepInSight(e *bindtrace.Event) {
	if r.cfg.Watch == nil || !e.PortKnown || !r.isWatchedNetns(e.Netns) {
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
