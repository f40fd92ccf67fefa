package failures

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/failures/pace"
	"sockstate_exporter/internal/inspect"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
)

// Looks are at least minLookGap apart, and take at most a fifth of the time of a CPU, however many
// sockets there are.
const (
	minLookGap   = 200 * time.Millisecond
	lookGapRatio = 4 // a gap lasts at least this many times the duration of the look before it
)

// An inspector looks for what made calls fail. It does not use the snapshots' connection,
// because a snapshot may take as long as a dump does.
type inspector struct {
	cfg       *Config
	conflicts *conflicts
	served    func(netns uint32, port uint16) bool // something listened there lately
	notices   *notices
	looking   sync.WaitGroup
}

func newInspector(cfg *Config, c *conflicts, served func(netns uint32, port uint16) bool) *inspector {
	return &inspector{cfg: cfg, conflicts: c, served: served, notices: newNotices()}
}

// run looks until ctx ends.
func (i *inspector) run(ctx context.Context) {
	defer i.looking.Wait()
	for {
		due := time.NewTimer(i.notices.wait(time.Now()))
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-i.conflicts.wake:
			took := i.look(ctx)
			pace.Pause(ctx, max(minLookGap, lookGapRatio*took))
		case <-due.C:
		}
		due.Stop()
		i.report(ctx)
	}
}

// look finds the causes of all failures that wait, and returns how long it worked for that.
func (i *inspector) look(ctx context.Context) (worked time.Duration) {
	waiting := make(map[uint32]map[portID]*waitingPort)
	taken, leftOut := i.conflicts.take()
	i.notices.leftOut = i.notices.leftOut || leftOut
	owners, locals := i.ownersOf(ctx, taken), addressesOf(taken)
	for at, port := range taken {
		if waiting[at.netns] == nil {
			waiting[at.netns] = make(map[portID]*waitingPort)
		}
		waiting[at.netns][at] = port
	}
	i.cfg.Host.Each(slices.Collect(maps.Keys(waiting)), func(inode uint32, name string, n probe.Namespace) {
		start := time.Now()
		observed := i.observe(ctx, n, waiting[inode], locals[inode])
		i.lookAfterwards(ctx, n, waiting[inode], observed)
		worked += time.Since(start)
		named := i.withSeen(ctx, owners(), waiting[inode], observed)
		for at, port := range waiting[inode] {
			observed[at].Owners = named // what has to be seen at once is seen
			conflict := i.conflicts.settle(at, port, observed[at])
			conflict.Namespace = name
			i.notices.add(time.Now(), conflict, port)
		}
	})
	return worked
}

// lookAfterwards looks at the ports with failures whose blockers the kernel could not capture, or not
// all of them.
func (i *inspector) lookAfterwards(ctx context.Context, ns probe.Namespace, waiting map[portID]*waitingPort, observed map[portID]*facts.Observation) {
	failed, of, udpPorts := make(map[uint16][]bindrule.Request), make(map[uint16]*facts.Observation), make(map[uint16]*facts.Observation)
	for at, port := range waiting {
		for bind, same := range port.binds {
			switch {
			case !facts.AsksForSockets(&same.latest) || observed[at].Complete(&same.latest, bind.request):
			case bind.key.Protocol == sock.UDP:
				udpPorts[at.port] = observed[at]
			default:
				failed[at.port] = append(failed[at.port], bind.request)
				of[at.port] = observed[at]
			}
		}
	}
	onUDP, err := udp.Look(ctx, ns, slices.Collect(maps.Keys(udpPorts)), i.cfg.Sockets)
	for n := range onUDP {
		o := udpPorts[onUDP[n].Number]
		o.UDP, o.Err = &onUDP[n], err
	}
	if len(failed) == 0 {
		return
	}
	found, err := inspect.Ports(ctx, ns, failed)
	for number, o := range of {
		o.Seen, o.Err, o.Listeners = found.Port(number), err, found.Listeners(number)
	}
}

// report reports the conflicts that are due, with who listens by now: the other half of a server
// comes up a moment after the first half has failed.
func (i *inspector) report(ctx context.Context) {
	conflicts := i.notices.due(time.Now())
	if len(conflicts) == 0 || ctx.Err() != nil {
		return
	}
	numbers := make(map[uint32][]uint16)
	for n := range conflicts {
		c := &conflicts[n]
		of := numbers[c.Netns]
		if c.Op == bindtrace.OpBind && c.Port != 0 {
			of = append(of, c.Port)
		}
		numbers[c.Netns] = of
	}
	i.cfg.Host.Each(slices.Sorted(maps.Keys(numbers)), func(inode uint32, _ string, ns probe.Namespace) {
		// An error leaves the sentence shorter.
		var listeners map[uint16][]ports.Listener
		if len(numbers[inode]) > 0 {
			listeners, _ = inspect.Listeners(ctx, ns, numbers[inode]...)
		}
		for n := range conflicts {
			c := &conflicts[n]
			if c.Netns != inode {
				continue
			}
			if c.Op == bindtrace.OpBind {
				c.OtherHalf = inspect.OtherHalf(c.Port, c.Request, inspect.NotOfOthers(c.PID, listeners[c.Port], func(of []uint32) map[uint32]owner.Owner { return i.lookup(ctx, of) }))
			}
			i.cfg.OnConflict(*c)
		}
	})
}
