package failures

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/failures/earlier"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/sock"
)

// A ConflictKey is what failures with EADDRINUSE are counted for.
type ConflictKey struct {
	Key
	Diagnosis codes.Code
}

// A ConflictCount counts since the exporter started: it never falls.
type ConflictCount struct {
	ConflictKey
	N uint64
}

// A user makes calls fail. In containers nearly everybody has uid 0, so users of different network
// namespaces differ. All namespaces that are not watched are one: a user can make more of them.
type user struct {
	netns uint32 // 0: not watched
	uid   uint32 // Event.User
}

// A portID is a port of a network namespace, or for connect() the port of a destination.
type portID struct {
	netns   uint32 // inode number
	port    uint16
	connect bool
}

func (p portID) compare(o portID) int {
	return cmp.Or(cmp.Compare(p.netns, o.netns), cmp.Compare(p.port, o.port), -first(p.connect, o.connect))
}

// A Conflict is the latest failed call of a port, and why it failed: a server cannot have its port, or
// connect() found none.
type Conflict struct {
	Op    bindtrace.Op
	Errno unix.Errno
	Netns uint32 // inode number of the network namespace
	// Namespace is the name of the network namespace: empty for the exporter's own.
	Namespace string

	Port     uint16 // connect: of the destination, as Request.Addr is
	Protocol sock.Protocol
	Time     time.Time
	Process  string // its name: any bytes
	PID      uint32
	Owner    owner.Owner // the process, as far as that is known: it may have ended
	Request  bindrule.Request

	// Diagnosis says why it failed.
	Diagnosis diagnosis.Diagnosis

	// OtherHalf has listeners of the same user on the port that belong to the other address
	// family and do not block the bind: one half of the server runs.
	OtherHalf []netip.AddrPort

	// Failures of the port since the Conflict before, this one included.
	Failures uint64
	// Repeat says that the port had a Conflict a short time before.
	Repeat bool
	// More says that calls failed on other ports that have no Conflict, because too many fail at a time.
	More bool
}

// Bounds of what waits for a look, whoever binds to whatever. Failures beyond them have the
// diagnosis unknown. One user may take a quarter of each, so that a flood of theirs leaves room for
// others.
const (
	maxWaitingPorts  = 256 // watched ones
	maxWaitingOthers = 64  // not watched: any user may fail to bind to all ports there are
	maxWaitingBinds  = 16  // of a port that bind() can tell apart
	userShare        = 4
)

// conflicts looks for what made calls fail, and counts bind() calls that failed with EADDRINUSE by their diagnosis. A port that is watched has a bounded number of keys,
// and gives them back when it is not watched any more. So there is no bound on all keys that one
// user could use up.
type conflicts struct {
	wake   chan struct{} // holds a token while something waits
	recent *recent       // gets the diagnoses
	latest *latest       // gets the diagnoses

	earlier *earlier.Failures[user, ConflictKey]

	mu      sync.Mutex
	heir    func(Key) Key // where counts of what is not watched any more go; nil: all is watched
	counts  map[ConflictKey]uint64
	waiting map[portID]*waitingPort
	others  int                // of waiting: not watched
	shares  map[waitingFor]int // of waiting: how many of each user
	leftOut bool               // some failures had no room in waiting
}

// waitingFor is whose ports wait, and whose notices: those whose first failure was of that user.
type waitingFor struct {
	user
	watched bool
}

// A waitingPort has the failures of a port that wait for the next look.
type waitingPort struct {
	who      waitingFor
	failures uint64
	binds    map[waitingBind]*waitingBinds
	shares   map[user]int // of binds: how many of each user
}

// A waitingBind is a bind that bind() can tell apart from others, and that is counted apart.
type waitingBind struct {
	key     Key
	request bindrule.Request
	op      bindtrace.Op
	errno   unix.Errno
}

// counts says that the failure is one of the conflicts that are counted.
func (b *waitingBind) counts() bool { return b.op == bindtrace.OpBind && b.errno == unix.EADDRINUSE }

func waitingBindOf(key Key, e *bindtrace.Event) waitingBind {
	return waitingBind{key: key, request: facts.RequestOf(e), op: e.Op, errno: e.Errno}
}

type waitingBinds struct {
	n      uint64
	latest bindtrace.Event
	by     owner.Owner
}

func newConflicts(own uint32) *conflicts {
	return &conflicts{
		wake:    make(chan struct{}, 1),
		recent:  newRecent(own),
		latest:  newLatest(),
		earlier: earlier.New[user](func(key ConflictKey) ConflictKey { key.Port, key.OtherPort = 0, true; return key }),
		counts:  make(map[ConflictKey]uint64),
		waiting: make(map[portID]*waitingPort),
		shares:  make(map[waitingFor]int),
	}
}

// add takes a failed call, and returns its diagnosis, which is empty if a look has to show it. It runs for
// every event.
func (c *conflicts) add(key Key, e *bindtrace.Event, by owner.Owner) codes.Code {
	bind := waitingBindOf(key, e)
	c.mu.Lock()
	defer c.mu.Unlock()
	waits := facts.Looks(e) && key.Netns != 0 && c.wait(bind, e, by)
	if waits && (facts.AsksForSockets(e) || facts.AsksForAddress(e) || e.Op == bindtrace.OpConnect) {
		return ""
	}
	code := facts.CodeOf(e)
	if bind.counts() && !waits {
		c.counts[ConflictKey{key, code}]++
	}
	return code
}

// wait notes a failure for the next look, if there is room.
func (c *conflicts) wait(bind waitingBind, e *bindtrace.Event, owner owner.Owner) bool {
	at, by := portID{bind.key.Netns, e.Port, e.Op == bindtrace.OpConnect}, user{bind.key.Netns, e.User}
	port, ok := c.waiting[at]
	if !ok {
		if port = c.waitFor(at, waitingFor{by, !bind.key.OtherPort}); port == nil {
			c.leftOut = true
			return false
		}
	}
	port.failures++
	same, ok := port.binds[bind]
	if !ok {
		if len(port.binds) == maxWaitingBinds || port.shares[by] == maxWaitingBinds/userShare {
			return false
		}
		port.shares[by]++
		same = new(waitingBinds)
		port.binds[bind] = same
	}
	same.n++
	// In a storm the kernel captures the sockets of a few failures only.
	if e.PID != same.latest.PID || e.Captured >= same.latest.Captured {
		same.latest, same.by = *e, owner
	}
	return true
}

// waitFor makes a port wait for a look, or returns nil where there is no room.
func (c *conflicts) waitFor(at portID, who waitingFor) *waitingPort {
	used, most := c.others, maxWaitingOthers
	if who.watched {
		used, most = len(c.waiting)-c.others, maxWaitingPorts
	}
	if used == most || c.shares[who] == most/userShare {
		return nil
	}
	c.shares[who]++
	if !who.watched {
		c.others++
	}
	port := &waitingPort{who: who, binds: make(map[waitingBind]*waitingBinds), shares: make(map[user]int)}
	c.waiting[at] = port
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return port
}

// retire moves the counts of what is not watched any more to the key that heir returns, so that no
// sum falls. It is called at each snapshot.
func (c *conflicts) retire(heir func(Key) Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heir = heir
	c.move()
}

// move is called with mu held.
func (c *conflicts) move() {
	if c.heir == nil {
		return
	}
	for key, n := range c.counts {
		if to := c.heir(key.Key); to != key.Key {
			delete(c.counts, key)
			key.Key = to
			c.counts[key] += n
		}
	}
}

// take returns what waits, and whether there was more, and forgets it.
func (c *conflicts) take() (taken map[portID]*waitingPort, leftOut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken, leftOut = c.waiting, c.leftOut
	c.waiting, c.others, c.shares, c.leftOut = make(map[portID]*waitingPort), 0, make(map[waitingFor]int), false
	return taken, leftOut
}

// settle counts the failures that waited on a port, by what a look has shown there, and returns
// the one that says most.
func (c *conflicts) settle(at portID, port *waitingPort, known *facts.Observation) Conflict {
	worst := Conflict{Netns: at.netns, Port: at.port, Failures: port.failures}
	for bind, same := range port.binds {
		d := known.Explain(&same.latest, bind.request, same.by)
		c.recent.settle(at, bind, &d)
		if bind.op == bindtrace.OpBind {
			c.latest.settle(bind.key, &same.latest, d.Code)
		}
		if key := (ConflictKey{bind.key, d.Code}); bind.counts() {
			c.settled(key, same.n)
			if key.OtherPort {
				key.Port, key.OtherPort = at.port, false
				c.earlier.Add(user{at.netns, same.latest.User}, key, same.n)
			}
		}
		e, most := &same.latest, worst.Diagnosis.Code
		if d.Code.Before(most) || d.Code == most && e.Time.After(worst.Time) {
			worst.Op, worst.Errno = e.Op, e.Errno
			worst.Protocol, worst.Time, worst.Process, worst.PID = e.Protocol, e.Time, e.Process, e.PID
			worst.Owner, worst.Request, worst.Diagnosis = same.by, bind.request, d
		}
	}
	return worst
}

func (c *conflicts) settled(key ConflictKey, n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[key] += n
}

// all returns the counts, sorted.
func (c *conflicts) all() []ConflictCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.move() // a look that was under way may have counted for a port that is not watched any more
	counts := maps.Clone(c.counts)
	c.earlier.Apply(counts)
	c.earlier.Shown(counts)
	out := make([]ConflictCount, 0, len(counts))
	for key, n := range counts {
		out = append(out, ConflictCount{ConflictKey: key, N: n})
	}
	slices.SortFunc(out, func(a, b ConflictCount) int {
		return cmp.Or(a.compare(b.Key), cmp.Compare(a.Diagnosis, b.Diagnosis))
	})
	return out
}
