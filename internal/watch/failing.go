package watch

import (
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
)

// maxFailing is how many ports are watched in all because a bind to them failed: any user may fail
// to bind to all ports there are.
const maxFailing = 64

// givesWay is how long after its last failure a port gives way to another one of the same user.
const givesWay = time.Minute

// failing are the ports of all network namespaces to which a bind failed lately.
type failing struct {
	keep time.Duration // after the last failure

	mu    sync.Mutex
	ports map[failingPort]*failure
	users map[user]int // how many of the ports each has
}

type failingPort struct {
	netns    uint32
	protocol sock.Protocol
	port     uint16
}

type failure struct {
	user        user
	first, last time.Time
}

// newFailing keeps ports for the retention, and long enough for a server that is started anew
// twice a minute.
func newFailing(retention time.Duration) *failing {
	return &failing{keep: max(retention, givesWay), ports: make(map[failingPort]*failure), users: make(map[user]int)}
}

// add notes a failed bind. It runs for every event.
func (f *failing) add(now time.Time, at failingPort, by user) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.ports[at]; known != nil {
		known.last = now
		return
	}
	f.expire(now)
	if len(f.ports) >= maxFailing && !f.makeRoom(now, by) {
		return
	}
	f.ports[at] = &failure{user: by, first: now, last: now}
	f.users[by]++
}

func (f *failing) expire(now time.Time) {
	for at, port := range f.ports {
		if now.Sub(port.last) >= f.keep {
			f.remove(at)
		}
	}
}

func (f *failing) remove(at failingPort) {
	by := f.ports[at].user
	delete(f.ports, at)
	if f.users[by]--; f.users[by] == 0 {
		delete(f.users, by)
	}
}

// makeRoom removes a port for one more of the user: the newest port of the user with most, in the network
// namespace with most, or the user's own one that has not failed for longest.
func (f *failing) makeRoom(now time.Time, by user) bool {
	total := make(map[uint32]int)
	for u, n := range f.users {
		total[u.netns] += n
	}
	from := by.netns
	for netns, n := range total {
		if n >= total[by.netns]+2 && n > total[from] {
			from = netns
		}
	}
	most := 0
	for u, n := range f.users {
		if u.netns == from {
			most = max(most, n)
		}
	}
	pushes := from != by.netns || most >= f.users[by]+2
	var (
		victim failingPort
		found  bool
	)
	for at, port := range f.ports {
		switch {
		case pushes && at.netns == from && f.users[port.user] == most:
			if !found || port.first.After(f.ports[victim].first) {
				victim, found = at, true
			}
		case !pushes && port.user == by && now.Sub(port.last) >= givesWay:
			if !found || port.last.Before(f.ports[victim].last) {
				victim, found = at, true
			}
		}
	}
	if found {
		f.remove(victim)
	}
	return found
}

// on returns the ports of a protocol in a network namespace, sorted, in the given slice.
func (f *failing) on(now time.Time, netns uint32, protocol sock.Protocol, into []uint16) []uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	for at := range f.ports {
		if at.netns == netns && at.protocol == protocol {
			into = append(into, at.port)
		}
	}
	slices.Sort(into)
	return into
}

// forget forgets the ports of a network namespace that is gone.
func (f *failing) forget(netns uint32, protocol sock.Protocol) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at := range f.ports {
		if at.netns == netns && at.protocol == protocol {
			f.remove(at)
		}
	}
}

// BindFailed says that a bind to a port failed. The port is watched from the next Update of its
// Watcher on, in a budget of its own: as long as binds fail, and for the retention afterwards. netns
// is 0 for the exporter's own network namespace, and the inode number of another one. Ports that
// nobody asked for are not watched where those with a listener are not, either.
func (p *Plan) BindFailed(now time.Time, netns uint32, protocol sock.Protocol, port uint16, uid uint32) {
	if port == 0 || int(protocol) >= len(p.rules) {
		return
	}
	asked := p.rules[protocol].asked.has(port)
	if !asked && (!p.listeners || p.rules[protocol].excluded.has(port)) {
		return
	}
	p.failing.add(now, failingPort{netns, protocol, port}, user{netns, share.Account(uid)})
}
