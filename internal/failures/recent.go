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
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/sock"
)

// A Recent is a call that failed lately, once or more often: calls that differ only in time,
// process id and flags are one.
type Recent struct {
	Op        bindtrace.Op
	Netns     uint32 // inode number of the socket's network namespace, watched or not
	Watched   bool   // the port was a watched one, or 0 without OwnRange, and the namespace too
	Port      uint16 // that was asked for; connect: of the destination; valid where PortKnown
	PortKnown bool
	OwnRange  bool       // the socket has a range of its own (IP_LOCAL_PORT_RANGE) without a free port
	Addr      netip.Addr // invalid unless PortKnown; the zone is the interface index
	Family    sock.Family
	Protocol  sock.Protocol
	Errno     unix.Errno
	Process   string // its name: any bytes

	Count       uint64
	First, Last time.Time

	// The latest of them.
	PID     uint32
	Owner   owner.Owner // as far as it is known: it may have ended
	Request bindrule.Request

	Host    diagnosis.Host      // what the call says of it
	settled diagnosis.Diagnosis // once the exporter has looked
}

// Diagnosis says why the latest of them failed. Some errors need no look.
func (r *Recent) Diagnosis() diagnosis.Diagnosis {
	if r.settled.Code != "" {
		return r.settled
	}
	return diagnosis.Of(&diagnosis.Facts{
		Call: facts.CallOf(r.Op), Errno: r.Errno, Protocol: r.Protocol, Port: r.Port, PortKnown: r.PortKnown, OwnRange: r.OwnRange,
		Request: r.Request, Process: r.Process, By: r.Owner, Host: r.Host,
	})
}

// Settle says why they failed.
func (r *Recent) Settle(d *diagnosis.Diagnosis) { r.settled = *d }

// Bounds of what is remembered, in the own network namespace and as much elsewhere, and how much of it is kept when a bound is reached. So trimming is
// rare, also when somebody makes binds fail in a loop.
const (
	maxRecent, keepRecent             = 256, 128 // of watched ports
	maxRecentOthers, keepRecentOthers = 64, 32   // of other ports: any user may fail to bind to all of them
)

// Failures with the same recentKey are one Recent.
type recentKey struct {
	op        bindtrace.Op
	netns     uint32
	port      uint16
	portKnown bool
	ownRange  bool
	addr      netip.Addr
	family    sock.Family
	protocol  sock.Protocol
	errno     unix.Errno
	process   string
}

// recent remembers the latest failures. Those of watched ports are kept apart from others, and those in the
// exporter's own network namespace from those elsewhere: whoever runs in a container can make as many as they
// like.
type recent struct {
	own uint32 // inode number of the exporter's own network namespace

	mu   sync.Mutex
	logs [4]recentLog // see log
}

// log is where failures with a key are kept.
func (r *recent) log(key Key) *recentLog {
	i := 0
	if key.Netns == 0 || key.OtherPort {
		i++
	}
	if key.Netns != r.own {
		i += 2
	}
	return &r.logs[i]
}

type recentLog struct {
	rows map[recentKey]*recentRow
	seq  uint64
}

type recentRow struct {
	Recent
	key recentKey
	// Of the latest.
	seq  uint64
	user uint32 // bindtrace.Event.User
}

func newRecent(own uint32) *recent {
	r := &recent{own: own}
	for i := range r.logs {
		r.logs[i].rows = make(map[recentKey]*recentRow)
	}
	return r
}

// add takes a failed call. It runs for every event.
func (r *recent) add(key Key, e *bindtrace.Event, by owner.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key.Netns != 0 && !key.OtherPort {
		r.log(key).add(e, by, true, maxRecent, keepRecent)
		return
	}
	r.log(key).add(e, by, false, maxRecentOthers, keepRecentOthers)
}

func (l *recentLog) add(e *bindtrace.Event, by owner.Owner, watched bool, bound, keep int) {
	key := recentKey{
		op: e.Op, netns: e.Netns, port: e.Port, portKnown: e.PortKnown, ownRange: e.OwnRange, addr: e.Addr,
		family: e.Family, protocol: e.Protocol, errno: e.Errno, process: e.Process,
	}
	row, ok := l.rows[key]
	if !ok {
		if len(l.rows) == bound {
			l.trim(keep)
		}
		row = &recentRow{key: key, Recent: Recent{
			Op: e.Op, Netns: e.Netns, Watched: watched, Port: e.Port, PortKnown: e.PortKnown, OwnRange: e.OwnRange, Addr: e.Addr,
			Family: e.Family, Protocol: e.Protocol, Errno: e.Errno, Process: e.Process, First: e.Time,
		}}
		l.rows[key] = row
	}
	l.seq++
	row.seq, row.user = l.seq, e.User
	row.Count++
	row.Last, row.PID, row.Owner, row.Request, row.Host = e.Time, e.PID, by, facts.RequestOf(e), facts.HostOf(e)
}

// trim keeps some rows. Each user has a share, with all ids of a user namespace or of a range of
// subordinate ids as one user. It is shared by user id, then by network namespace, then by port, and
// of each port the latest rows stay. A user who makes many binds fail pushes out their own rows.
func (l *recentLog) trim(keep int) {
	rows := slices.Collect(maps.Values(l.rows))
	levels := slices.Concat(
		share.ByUser(func(r **recentRow) bindrule.UID { return bindrule.UIDOf((*r).user) }),
		share.ByUser(func(r **recentRow) bindrule.UID { return (*r).Request.UID }),
		[]func(**recentRow) uint64{byNetns, byPort},
	)
	share.Fairly(rows, func(a, b **recentRow) int { return cmp.Compare((*b).seq, (*a).seq) }, levels...)
	for _, r := range rows[keep:] {
		delete(l.rows, r.key)
	}
}

func byNetns(r **recentRow) uint64 { return uint64((*r).Netns) }
func byPort(r **recentRow) uint64  { return uint64((*r).Port) }

// settle notes why these calls failed.
func (r *recent) settle(at portID, bind waitingBind, d *diagnosis.Diagnosis) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, row := range r.log(bind.key).rows {
		if key.port != at.port || key.netns != at.netns || key.op != bind.op || key.errno != bind.errno ||
			row.Protocol != bind.key.Protocol || row.Request != bind.request {
			continue
		}
		row.Settle(d)
	}
}

// all returns copies, the latest first.
func (r *recent) all() []Recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Recent
	for i := range r.logs {
		for _, row := range r.logs[i].rows {
			out = append(out, row.Recent)
		}
	}
	slices.SortFunc(out, func(a, b Recent) int {
		return cmp.Or(
			b.Last.Compare(a.Last), cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Port, b.Port),
			a.Addr.Compare(b.Addr), cmp.Compare(a.Process, b.Process), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Errno, b.Errno),
			cmp.Compare(a.Op, b.Op),
		)
	})
	return out
}
