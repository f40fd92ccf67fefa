package snapshot

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/netlinkdiag"
)

// A Cause is what made a bind() fail with EADDRINUSE. Where there are several in the way it is
// the first of them, in the order of the constants.
type Cause uint8

// The causes.
const (
	CauseUnknown    Cause = iota // gone before it was looked for, not visible, or not decided
	CauseListener                // a socket that listens
	CauseConnection              // a connection, live or closing
	CauseBound                   // a socket that is bound, and neither listens nor connects
	CauseTimeWait                // a connection in TIME_WAIT
)

// Causes are all of them.
func Causes() []Cause {
	return []Cause{CauseListener, CauseConnection, CauseBound, CauseTimeWait, CauseUnknown}
}

func (c Cause) String() string {
	switch c {
	case CauseListener:
		return "listener"
	case CauseConnection:
		return "connection"
	case CauseBound:
		return "bound"
	case CauseTimeWait:
		return "time_wait"
	default:
		return "unknown"
	}
}

// before says whether the cause is more telling than another.
func (c Cause) before(o Cause) bool { return c != CauseUnknown && (o == CauseUnknown || c < o) }

// CauseOf is the cause that a socket in the way is.
func CauseOf(s *bindrule.Socket) Cause {
	switch netlinkdiag.State(s.State) {
	case netlinkdiag.StateListen:
		return CauseListener
	case netlinkdiag.StateClose:
		return CauseBound
	case netlinkdiag.StateTimeWait:
		return CauseTimeWait
	default: // FIN_WAIT2 of KindTimeWait too
		return CauseConnection
	}
}

// A ConflictKey is what failures with EADDRINUSE are counted for.
type ConflictKey struct {
	FailureKey
	ReuseAddr bool // the socket that failed to bind had SO_REUSEADDR
	Cause     Cause
}

// A ConflictCount counts since the exporter started: it never falls.
type ConflictCount struct {
	ConflictKey
	N uint64
}

// A place is a port of a network namespace.
type place struct {
	netns uint32 // inode number
	port  uint16
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.netns, o.netns), cmp.Compare(p.port, o.port))
}

// A Conflict is one port's latest failure with EADDRINUSE, and what was in its way.
type Conflict struct {
	Netns uint32 // inode number of the network namespace
	// Namespace is what it is called: empty for the exporter's own.
	Namespace string

	Port     uint16
	Protocol bindtrace.Protocol
	Time     time.Time
	Process  string // what the thread called itself: any bytes
	PID      uint32
	Owner    owner.Owner // the process, as far as that is known: it may have ended
	Request  bindrule.Request

	Cause Cause
	// Blockers were in the way when the exporter looked. Connections have no address and
	// no owner here, and of the others no more than some.
	Blockers []bindrule.Socket
	// OtherHalf has listeners of the same user on the port that are not in the way, of the
	// other address family: one half of the server runs.
	OtherHalf []netip.AddrPort
	// Err is why not everything on the port was seen.
	Err error

	// Failures of the port since the Conflict before, this one included.
	Failures uint64
}

// Bounds of what waits for a look, whoever binds to whatever. What is beyond them is
// of unknown cause.
const (
	maxWaitingPorts  = 128 // watched ones
	maxWaitingOthers = 32  // not watched: any user may fail to bind to all ports there are
	maxWaitingBinds  = 16  // of a port that bind() can tell apart
	maxConflictKeys  = 8192
)

// conflicts find the causes of failures, and count by them.
type conflicts struct {
	wake   chan struct{} // holds a token while something waits
	recent *recent       // is told the causes

	mu      sync.Mutex
	counts  map[ConflictKey]uint64
	waiting map[place]*waitingPort
	others  int // of waiting: not watched
}

// A waitingPort has the failures of a port that wait for the next look.
type waitingPort struct {
	watched  bool
	failures uint64
	binds    map[waitingBind]*waitingBinds
}

// A waitingBind is what bind() can tell apart, and what is counted apart.
type waitingBind struct {
	key     FailureKey
	request bindrule.Request
}

type waitingBinds struct {
	n      uint64
	latest bindtrace.Event
	by     owner.Owner
}

func newConflicts() *conflicts {
	return &conflicts{
		wake:    make(chan struct{}, 1),
		recent:  newRecent(),
		counts:  make(map[ConflictKey]uint64),
		waiting: make(map[place]*waitingPort),
	}
}

// add takes a failed bind: this runs for every event.
func (c *conflicts) add(key FailureKey, e *bindtrace.Event, by owner.Owner) {
	if e.Errno != unix.EADDRINUSE {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !visible(e) || key.Netns == 0 || !c.wait(key, e, by) {
		c.count(ConflictKey{FailureKey: key, ReuseAddr: e.ReuseAddr}, 1)
	}
}

// visible: a look could show the cause. Port 0 fails where no port is free at all.
func visible(e *bindtrace.Event) bool {
	return e.PortKnown && e.Port != 0 && (e.Protocol == bindtrace.ProtocolTCP || e.Protocol == bindtrace.ProtocolMPTCP)
}

// wait puts a failure down for the next look, if there is room.
func (c *conflicts) wait(key FailureKey, e *bindtrace.Event, by owner.Owner) bool {
	at := place{netns: key.Netns, port: e.Port}
	port, ok := c.waiting[at]
	if !ok {
		switch {
		case key.OtherPort && c.others == maxWaitingOthers,
			!key.OtherPort && len(c.waiting)-c.others == maxWaitingPorts:
			return false
		case key.OtherPort:
			c.others++
		}
		port = &waitingPort{watched: !key.OtherPort, binds: make(map[waitingBind]*waitingBinds)}
		c.waiting[at] = port
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	port.failures++
	bind := waitingBind{key: key, request: requestOf(e)}
	same, ok := port.binds[bind]
	if !ok {
		if len(port.binds) == maxWaitingBinds {
			return false
		}
		same = new(waitingBinds)
		port.binds[bind] = same
	}
	same.n++
	same.latest, same.by = *e, by
	return true
}

func requestOf(e *bindtrace.Event) bindrule.Request {
	return bindrule.Request{
		Addr:      e.Addr.WithZone(""), // which is in Ifindex too, since __inet6_bind
		Ifindex:   uint32(e.Ifindex),
		V6Only:    bindrule.FlagOf(e.V6Only),
		ReuseAddr: bindrule.FlagOf(e.ReuseAddr),
		ReusePort: bindrule.FlagOf(e.ReusePort),
		UID:       bindrule.UIDOf(e.UID),
	}
}

// count adds to a key. Ports that were watched once keep theirs, up to a bound.
func (c *conflicts) count(key ConflictKey, n uint64) {
	if _, ok := c.counts[key]; !ok && len(c.counts) >= maxConflictKeys {
		key.Port, key.OtherPort = 0, true
	}
	c.counts[key] += n
}

// retire counts what namespaces that are gone have had as of others: at each snapshot, since a
// look that was under way counts for one that is gone after that.
func (c *conflicts) retire(gone func(netns uint32) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, n := range c.counts {
		if key.Netns != 0 && gone(key.Netns) {
			delete(c.counts, key)
			key.Netns = 0
			c.count(key, n)
		}
	}
}

// take hands over what waits.
func (c *conflicts) take() map[place]*waitingPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.waiting
	c.waiting, c.others = make(map[place]*waitingPort), 0
	return taken
}

// settle counts what waited on a port by what a look has shown there, and returns the failure
// that says most.
func (c *conflicts) settle(at place, port *waitingPort, seen *bindrule.Port) Conflict {
	told := Conflict{Netns: at.netns, Port: at.port, Failures: port.failures}
	for bind, same := range port.binds {
		cause, blockers := causeOf(seen, bind.request)
		c.recent.settle(at, bind, cause, summary(blockers))
		c.settled(ConflictKey{FailureKey: bind.key, ReuseAddr: bind.request.ReuseAddr == bindrule.Yes, Cause: cause}, same.n)
		if e := &same.latest; cause.before(told.Cause) || cause == told.Cause && e.Time.After(told.Time) {
			told.Protocol, told.Time, told.Process, told.PID = e.Protocol, e.Time, e.Command(), e.PID
			told.Owner, told.Request, told.Cause, told.Blockers = same.by, bind.request, cause, summary(blockers)
		}
	}
	return told
}

func (c *conflicts) settled(key ConflictKey, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count(key, n)
}

// causeOf says what made a bind fail, of what is seen on the port now.
func causeOf(seen *bindrule.Port, request bindrule.Request) (Cause, []bindrule.Socket) {
	port := *seen
	port.Bucket = bindrule.Bucket{Known: true} // it admitted nothing, or bind() had not failed
	verdict := port.Bind(request)
	blockers := verdict.Blockers
	if len(blockers) == 0 && !port.Incomplete && alike(port.Sockets, verdict.Doubtful) {
		// Something was in the way, and nothing else is there.
		blockers = verdict.Doubtful
	}
	cause := CauseUnknown
	out := make([]bindrule.Socket, len(blockers))
	for i, b := range blockers {
		out[i] = port.Sockets[b]
		if of := CauseOf(&out[i]); of.before(cause) {
			cause = of
		}
	}
	return cause, out
}

// alike: all of them are the same cause.
func alike(sockets []bindrule.Socket, which []int) bool {
	for _, i := range which {
		if CauseOf(&sockets[i]) != CauseOf(&sockets[which[0]]) {
			return false
		}
	}
	return true
}

// maxBlockersTold bounds the listeners and bound sockets that a Conflict keeps.
const maxBlockersTold = 8

// summary joins connections that differ by address or owner only.
func summary(blockers []bindrule.Socket) []bindrule.Socket {
	var out []bindrule.Socket
	owned := 0
	for _, b := range blockers {
		switch CauseOf(&b) {
		case CauseListener, CauseBound:
			if owned++; owned <= maxBlockersTold {
				out = append(out, b)
			}
			continue
		}
		b.Addr, b.Ifindex, b.UID, b.V6Only = netip.Addr{}, 0, bindrule.UID{}, bindrule.FlagUnknown
		same := slices.IndexFunc(out, func(o bindrule.Socket) bool {
			o.Count, o.Expires = b.Count, b.Expires
			return o == b
		})
		if same < 0 {
			out = append(out, b)
			continue
		}
		out[same].Count += b.Count
		out[same].Expires = max(out[same].Expires, b.Expires)
	}
	return out
}

// all are the counts, in order.
func (c *conflicts) all() []ConflictCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]ConflictCount, 0, len(c.counts))
	for key, n := range c.counts {
		out = append(out, ConflictCount{ConflictKey: key, N: n})
	}
	slices.SortFunc(out, func(a, b ConflictCount) int {
		return cmp.Or(a.compare(b.FailureKey), -first(a.ReuseAddr, b.ReuseAddr), cmp.Compare(a.Cause, b.Cause))
	})
	return out
}
