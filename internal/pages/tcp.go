package pages

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/pages/failed"
	"sockstate_exporter/internal/pages/texts"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/internal/words"
	"sockstate_exporter/netlinkdiag"
)

// A tcpPort is what a snapshot has of one TCP port. What is nil is not known.
type tcpPort struct {
	ns       *snapshot.Namespace
	port     *watch.Port
	tcp      *ports.PortSockets
	verdicts *verdict.Port

	listenersKnown bool
	listeners      []ports.Group
	split          []split.Port
	failed         *failed.Binds // nil: none
}

func tcpPortOf(ns *snapshot.Namespace, i int, binds *failed.Binds) tcpPort {
	p := tcpPort{ns: ns, port: &ns.Watch.Data.Ports[i], failed: binds, listenersKnown: ns.Listeners.Err == nil}
	if ns.TCP.Err == nil && i < len(ns.TCP.Data) {
		p.tcp = &ns.TCP.Data[i]
	}
	if ns.Verdicts.Err == nil && i < len(ns.Verdicts.Data) {
		p.verdicts = &ns.Verdicts.Data[i]
	}
	p.split = splitNow(ns.Split, p.port.Number)
	if !p.listenersKnown {
		return p
	}
	groups := ns.Listeners.Data // sorted by port
	find := func(port int) int {
		n, _ := slices.BinarySearchFunc(groups, port, func(g ports.Group, port int) int { return int(g.Port) - port })
		return n
	}
	first, last := find(int(p.port.Number)), find(int(p.port.Number)+1)
	p.listeners = groups[first:last]
	return p
}

// problems are what is wrong with the port.
func (p *tcpPort) problems() (found problemSet) {
	listening, known := len(p.listeners) > 0, p.listenersKnown || p.verdicts != nil
	found.add(NotKnown, p.verdicts == nil)
	if p.verdicts != nil {
		for i := range p.verdicts.Restarts {
			r := &p.verdicts.Restarts[i]
			listening = listening || r.Listening
			found.add(RestartBlocked, r.Listening && r.Outcome == bindrule.Blocked)
			found.add(NoReuseAddr, r.Listening && r.ReuseAddr == bindrule.No)
			found.add(Down, !r.Listening && r.Outcome == bindrule.Blocked)
			found.add(ListenerGone, !r.Listening)
			found.add(NotKnown, r.Outcome == bindrule.Unknown && !p.own())
		}
		for i := range p.verdicts.Binds {
			b := &p.verdicts.Binds[i]
			nobody := len(p.verdicts.Restarts) == 0 && !b.ReuseAddr
			found.add(Down, nobody && b.Outcome == bindrule.Blocked)
			found.add(NotKnown, nobody && b.Outcome == bindrule.Unknown)
		}
	}
	nobody := p.bindsFail() && known && !listening
	over := nobody && p.failed.MayBeOver() && !found[Down.rank()] && !found[NotKnown.rank()]
	found.add(Down, nobody && !over) // for whatever reason
	found.add(BindsFail, p.bindsFail())
	found.add(BindsFailed, p.failed != nil && !p.failed.Failing && p.failed.Ago < lately.Seconds())
	found.add(NoListener, over || known && !listening && p.port.Source == watch.SourceFlag)
	found.add(RestartBlocked, slices.ContainsFunc(p.listeners, func(g ports.Group) bool { return facts.Inherited(&g.Owner) }))
	found.add(QueueFull, slices.ContainsFunc(p.listeners, func(g ports.Group) bool { return g.QueueRatio >= 1 }))
	found.add(SplitPort, len(p.split) > 0)
	found.add(OnlyIPv6, len(p.split) == 0 && report.OnlyIPv6(p.listeners))
	found.add(NoReuseAddr, slices.ContainsFunc(p.listeners, func(g ports.Group) bool { return g.ReuseAddr == bindrule.No }))
	return found
}

// lately is how long a bind that failed beside a server matters.
const lately = 5 * time.Minute

// bindsFail says that binds have failed, and none has worked since.
func (p *tcpPort) bindsFail() bool { return p.failed != nil && p.failed.Failing }

// splitNow says how a port is split.
func splitNow(known []split.Port, number uint16) (on []split.Port) {
	for i := range known {
		if known[i].Number == number && known[i].Now {
			on = append(on, known[i])
		}
	}
	return on
}

// own says that only the exporter itself listens. Its connections are those that ask for pages and metrics: they come
// and go with each request, have the flag of its listener, and tell nobody anything.
func (p *tcpPort) own() bool {
	self := func(g ports.Group) bool { return g.Owner.PID == os.Getpid() && g.ReuseAddr == bindrule.Yes }
	return len(p.listeners) > 0 && !slices.ContainsFunc(p.listeners, func(g ports.Group) bool { return !self(g) })
}

// row makes the row that shows the port.
func (p *tcpPort) row() PortRow {
	r := newPortRow(p.ns, p.port, sock.TCP, p.problems())
	r.Own = p.own()
	if p.tcp != nil {
		r.Sockets, r.TimeWait = socketCounts(p.tcp), p.timeWait()
	}
	groups, leftOut := boundedGroups(p.listeners)
	r.ListenersLeftOut = leftOut
	verdicts := p.verdicts
	if verdicts == nil {
		verdicts = &verdict.Port{Number: p.port.Number}
	}
	judged := p.judge(verdicts, groups)
	if p.listenersKnown {
		r.Listeners = make([]ListenerRow, len(groups))
		for i := range groups {
			r.Listeners[i] = p.listener(&groups[i], &judged.Listeners[i])
		}
	}
	if p.verdicts == nil {
		why := "not judged"
		if err := p.ns.Verdicts.Err; err != nil {
			why = words.OneLine(err.Error())
		}
		r.Verdict = []report.Sentence{{What: "restart", Outcome: report.Unknown, Text: "unknown: " + why}}
		return r
	}
	r.Binds, r.Advice, r.Diagnosis, r.Split = judged.Binds, judged.Advice, judged.Diagnosis, judged.Split
	r.Outcome, r.Verdict = judged.Verdict()
	if r.Own && r.Outcome == report.Unknown {
		r.Verdict, r.Advice, r.Diagnosis = []report.Sentence{}, []string{}, nil
	}
	for i := range r.Verdict {
		if s := &r.Verdict[i]; len(groups) == 0 && p.bindsFail() && s.Outcome == report.Free {
			s.Text = "no socket is in the way, but binds fail"
			if p.failed.MayBeOver() {
				s.Text = fmt.Sprintf("the last bind failed %s (%s); nothing is in the way now: start the server", texts.Ago(p.failed.Ago), p.failed.Why())
			}
		}
	}
	if p.bindsFail() && p.failed.Explains(r.Diagnosis, len(groups) > 0) && !slices.Contains(r.Advice, p.failed.Advice) {
		r.Advice = append(r.Advice, p.failed.Advice)
	}
	for i := range r.Listeners {
		if l := &r.Listeners[i]; l.Full() {
			r.Advice = slices.Insert(r.Advice, 0, cmp.Or(l.By(), "the server on "+l.Place())+
				" does not call accept() fast enough: the accept queue is full, and new connections are dropped. "+
				"Look whether it hangs, lacks file descriptors (LimitNOFILE=) or workers. A longer backlog helps only against bursts.")
		}
	}
	for i := range judged.Restarts {
		if restart := &judged.Restarts[i]; !restart.Listening && len(r.Gone) < maxListeners {
			r.Gone = append(r.Gone, *restart)
		}
	}
	return r
}

// judge answers what a restart would meet. Where nobody has seen a server, the flag is that of the socket whose
// bind failed last.
func (p *tcpPort) judge(verdicts *verdict.Port, groups []ports.Group) report.PortReport {
	q := report.Query{Restart: true, Split: p.split, LocalPorts: p.ns.LocalPorts, Open: p.ns.Open}
	if p.failed != nil && p.failed.ReuseAddr == bindrule.Yes && len(verdicts.Restarts)+len(groups) == 0 {
		q.ReuseAddr = true
		if judged := report.NewPort(verdicts, groups, &q); judged.Diagnosis != nil {
			return judged
		}
		q.ReuseAddr = false
	}
	return report.NewPort(verdicts, groups, &q)
}

// boundedGroups returns the groups that have a row, in their order. Each user keeps a share: any user may
// listen on more addresses of the port than there are rows.
func boundedGroups(groups []ports.Group) (kept []ports.Group, leftOut int) {
	if len(groups) <= maxListeners {
		return groups, 0
	}
	chosen := slices.Clone(groups)
	share.Fairly(chosen,
		func(a, b *ports.Group) int { return ports.ByRank(a.GroupKey, b.GroupKey) },
		share.ByUser(func(g *ports.Group) bindrule.UID { return g.UID })...)
	kept, leftOut = bounded(chosen, maxListeners)
	slices.SortFunc(kept, func(a, b ports.Group) int { return a.Compare(b.GroupKey) })
	return kept, leftOut
}

func (p *tcpPort) listener(g *ports.Group, judged *report.ListenerReport) ListenerRow {
	l := ListenerRow{ListenerReport: *judged, Queue: g.Queue, QueueLimit: g.QueueLimit, QueueRatio: g.QueueRatio}
	if g.DropsKnown {
		l.Drops = &g.Drops
	}
	if p.verdicts == nil {
		l.ReuseAddr, l.ReusePort = g.ReuseAddr, g.ReusePort
	}
	return l
}

// timeWait counts as the dump does. For the time it asks the verdicts, too: they know that
// the kernel's timers are late.
func (p *tcpPort) timeWait() *TimeWait {
	const tw = netlinkdiag.StateTimeWait
	n := p.tcp.IPv4.States[tw] + p.tcp.IPv6.States[tw]
	if n == 0 {
		return new(TimeWait) // even if the verdicts, of another walk of the table, saw one
	}
	left := max(p.tcp.IPv4.TimeWaitRemaining, p.tcp.IPv6.TimeWaitRemaining)
	if p.verdicts != nil {
		for i := range p.verdicts.Port.Sockets {
			if s := &p.verdicts.Port.Sockets[i]; s.State == tw {
				left = max(left, s.Expires)
			}
		}
	}
	return &TimeWait{Sockets: n, RemainingSeconds: report.Seconds(left)}
}

// socketCounts are the sockets of both families, by the states that there are.
func socketCounts(p *ports.PortSockets) map[string]uint64 {
	out := make(map[string]uint64)
	for state := range p.IPv4.States {
		if n := p.IPv4.States[state] + p.IPv6.States[state]; n > 0 {
			out[netlinkdiag.State(state).String()] = n
		}
	}
	return out
}
