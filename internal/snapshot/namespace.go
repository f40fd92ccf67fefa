package snapshot

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/netlinkdiag"
)

// A taking is one snapshot of one network namespace that is being taken. Its steps are stack, list
// and sockets; stack may run beside the others. Each publishes its parts.
type taking struct {
	*worker
	publish func(func(*Namespace))
	walks   *walkBudget

	// Of list, for sockets:
	localPorts sock.PortRange
	listening  Part[[]ports.Listener]
	onWatched  []ports.Listener

	mu     sync.Mutex
	groups Part[[]ports.Group] // all of them: whoever listens blocks a bind
	named  bool                // groups have their owners
}

func (w *worker) begin(publish func(func(*Namespace)), walks *walkBudget) *taking {
	return &taking{worker: w, publish: w.memory.beside(publish), walks: walks}
}

// stack takes the namespace's counters and limits.
func (t *taking) stack() {
	part := take(t.probe.Stack)
	t.publish(func(s *Namespace) { s.Stack = part })
}

// list takes the listeners, the set of watched ports, and UDP.
func (t *taking) list(ctx context.Context) {
	t.localPorts = t.probe.LocalPorts()
	t.listening = take(func() ([]ports.Listener, error) { return t.probe.Listeners(ctx) })
	watched := t.updateWatch()
	t.publish(func(s *Namespace) { s.Watch = watched })
	t.fold()

	udp := take(func() (ports.UDP, error) { return t.readUDP(ctx) })
	t.publish(func(s *Namespace) { s.UDP = udp })
}

// updateWatch brings the set of watched ports up to date. Without knowing who listens it stays
// what it was: no port may go because the exporter could not look.
func (t *taking) updateWatch() Part[ports.Set] {
	if t.listening.Err == nil {
		listening := make([]uint16, len(t.listening.Data))
		for i := range t.listening.Data {
			listening[i] = t.listening.Data[i].Port
		}
		t.set = t.watcher.Update(time.Now(), listening)
	}
	return Part[ports.Set]{Data: t.set, Err: t.listening.Err, Duration: t.listening.Duration}
}

// fold folds the listeners on watched ports into groups.
func (t *taking) fold() {
	t.groups = Part[[]ports.Group]{Err: t.listening.Err, Duration: t.listening.Duration}
	if t.listening.Err != nil {
		return
	}
	// Drops of all of them: a port may be watched again after the budget had no room for it.
	t.drops.Update(time.Now(), t.listening.Data)
	t.onWatched = slices.DeleteFunc(slices.Clone(t.listening.Data), func(l ports.Listener) bool {
		_, ok := t.set.Find(l.Port)
		return !ok
	})
	groups := ports.Groups(t.onWatched)
	devices := make(map[uint32]string)
	for i := range groups {
		groups[i].Drops = t.drops.Total(groups[i].GroupKey)
		if groups[i].Ifindex != 0 {
			devices[groups[i].Ifindex] = ""
		}
	}
	if len(devices) > 0 {
		t.probe.Devices(devices)
		for i := range groups {
			groups[i].Interface = devices[groups[i].Ifindex]
		}
	}
	t.groups.Data = groups
}

// readUDP counts the sockets of UDP ports. It asks for all of them, since there are few as a rule.
func (t *taking) readUDP(ctx context.Context) (ports.UDP, error) {
	if t.udp == nil {
		return ports.UDP{}, ErrOff
	}
	sockets, err := t.probe.UDPSockets(ctx)
	if err != nil {
		// As with TCP: no port may go because the exporter could not look.
		return ports.UDP{Watch: t.udp.Set()}, err
	}
	return t.udp.Update(time.Now(), sockets, t.localPorts), nil
}

// sockets takes the sockets on the watched ports, their flags, and the verdicts that follow from
// both.
func (t *taking) sockets(ctx context.Context) {
	var beside sync.WaitGroup
	beside.Go(func() { t.nameOwners(ctx) })
	noConnections := t.listening.Err == nil && t.probe.OnlyListeners(uint64(len(t.listening.Data)))
	how := t.approach(noConnections, t.walks)
	tcp := t.newCount(how)
	var flags Part[*probe.Flags]
	switch how {
	case sideBySide:
		beside.Go(func() { flags = t.readFlags(ctx, math.MaxUint64, false) })
		t.dump(ctx, tcp, how)
	case dumpFirst:
		t.dump(ctx, tcp, how)
		flags = t.readFlags(ctx, tcp.sockets(), tcp.quiet())
	case listenersOnly:
		t.dump(ctx, tcp, how)
		flags = t.rememberedFlags(ctx)
	}
	if noConnections {
		t.walks.spend(tcp.took)
	}
	beside.Wait()
	t.few = tcp.err == nil && tcp.sockets() <= fewSockets
	verdicts := t.judge(tcp, flags)
	t.publish(func(s *Namespace) { s.Verdicts = verdicts })
}

// setGroups changes the groups, and publishes those that are shown once they have their owners.
func (t *taking) setGroups(change func(*Part[[]ports.Group])) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.groups)
	if !t.named {
		return
	}
	shown, dropped := t.shown()
	t.publish(func(s *Namespace) { s.Listeners, s.GroupsDropped = shown, dropped })
}

// shown returns the groups that are shown, in a slice of their own, and how many are not, by port.
func (t *taking) shown() (part Part[[]ports.Group], dropped map[uint16]int) {
	part, dropped = t.groups, make(map[uint16]int)
	if !t.cfg.Parts.Listeners {
		part.Err = ErrOff
	}
	leftOut := make(map[ports.GroupKey]bool)
	for port, keys := range ports.TooMany(keysOf(part.Data), ports.ByRank) {
		dropped[port] = len(keys)
		for _, key := range keys {
			leftOut[key] = true
		}
	}
	part.Data = slices.DeleteFunc(slices.Clone(part.Data), func(g ports.Group) bool { return leftOut[g.GroupKey] })
	return part, dropped
}

// nameOwners finds the owners of the listeners. A group gets the owner of its oldest socket, which
// has the lowest cookie. That owners cannot be found is not this part's failure: they are not known
// then.
func (t *taking) nameOwners(ctx context.Context) {
	owners := make(map[ports.GroupKey]owner.Owner)
	start := time.Now()
	if t.cfg.Owners != nil && len(t.onWatched) > 0 {
		sockets := make([]owner.Socket, len(t.onWatched))
		for i := range t.onWatched {
			sockets[i] = owner.Socket{Cookie: t.onWatched[i].Cookie, Inode: t.onWatched[i].Inode}
		}
		found, _ := t.cfg.Owners.Find(ctx, sockets)
		oldest := make(map[ports.GroupKey]uint64)
		for i := range t.onWatched {
			l := &t.onWatched[i]
			of, ok := found[l.Cookie]
			if before, seen := oldest[l.GroupKey]; ok && (!seen || l.Cookie < before) {
				oldest[l.GroupKey], owners[l.GroupKey] = l.Cookie, of
			}
		}
	}
	t.setGroups(func(groups *Part[[]ports.Group]) {
		t.named = true
		groups.Duration += time.Since(start)
		for i := range groups.Data {
			groups.Data[i].Owner = owners[groups.Data[i].GroupKey]
		}
	})
}

// readFlags reads the reuse flags and publishes what they say. There are about so many sockets on the
// ports, and with onlyListeners nothing but listeners.
func (t *taking) readFlags(ctx context.Context, sockets uint64, onlyListeners bool) Part[*probe.Flags] {
	req := probe.FlagRequest{Ports: t.set.Numbers(), Listeners: t.onWatched, OnlyListeners: onlyListeners, Sockets: sockets}
	return t.takeFlags(func() (*probe.Flags, error) {
		flags, err := t.probe.Flags(ctx, req)
		if err == nil {
			t.rememberFlags(flags, t.onWatched)
		}
		return flags, err
	})
}

// rememberedFlags is readFlags where connections are not looked for, as an eBPF iterator would walk
// over all of them.
func (t *taking) rememberedFlags(ctx context.Context) Part[*probe.Flags] {
	if flags, ok := t.remembered(t.onWatched); ok {
		return t.takeFlags(func() (*probe.Flags, error) { return flags, nil })
	}
	return t.readFlags(ctx, uint64(len(t.onWatched)), true)
}

func (t *taking) takeFlags(read func() (*probe.Flags, error)) Part[*probe.Flags] {
	scope := t.probe.FlagScope()
	var part Part[*probe.Flags]
	switch {
	case scope == probe.FlagsOff:
		part.Err = ErrOff
	case t.listening.Err != nil:
		part = Part[*probe.Flags]{Err: t.listening.Err, Duration: t.listening.Duration}
	case len(t.set.Ports) > 0:
		part = take(read)
	}
	if part.Data == nil {
		part.Data = new(probe.Flags)
	}
	reuse := Part[struct{}]{Err: part.Err, Duration: part.Duration}
	if part.Err == nil {
		t.setGroups(func(groups *Part[[]ports.Group]) { ports.SetFlags(groups.Data, t.onWatched, part.Data.Listeners) })
	}
	t.publish(func(s *Namespace) { s.Reuse = reuse })
	return part
}

// A count is what the dump of TCP sockets has shown. It is a probe.Visitor.
type count struct {
	set     ports.Set
	counter *ports.Counter
	clients *ports.Clients

	// views have what bind() meets, as far as the flags of the sockets are not read: of all
	// sockets where all is set, else of those that are bound and do nothing else.
	views []verdict.View // by set.Ports
	all   bool

	err    error
	took   time.Duration
	dumped time.Time // when it ended
}

func (t *taking) newCount(how approach) *count {
	var unseen sock.StateSet
	if how == listenersOnly {
		// What the kernel does not count in sockstat.
		unseen = netlinkdiag.States(sock.StateSynRecv, sock.StateClose)
	}
	localPorts := t.localPorts
	if !t.cfg.Parts.Ephemeral {
		localPorts = sock.PortRange{}
	}
	return &count{
		set:     t.set,
		counter: ports.NewCounter(t.set, unseen),
		clients: ports.NewClients(t.cfg.Parts.Remote, localPorts, t.listening.Data, t.set),
		views:   make([]verdict.View, len(t.set.Ports)),
		all:     t.cfg.Parts.Verdicts && t.probe.FlagScope() != probe.FlagsOfAll,
	}
}

// Reset implements probe.Visitor.
func (c *count) Reset() {
	c.counter.Reset()
	c.clients.Reset()
	for i := range c.views {
		c.views[i].ResetSockets()
	}
}

// Add implements probe.Visitor. It runs once per socket.
func (c *count) Add(s *netlinkdiag.Socket) {
	c.clients.Add(s)
	if i := c.counter.Add(s); i >= 0 && (c.all || s.State == sock.StateClose) {
		c.views[i].Add(s)
	}
}

// sockets returns how many are on the watched ports, listeners included.
func (c *count) sockets() (n uint64) {
	for _, p := range c.counter.Ports() {
		for state := range p.IPv4.States {
			n += p.IPv4.States[state] + p.IPv6.States[state]
		}
	}
	return n
}

// quiet: nothing but listeners is on the watched ports.
func (c *count) quiet() bool { return c.err == nil && len(c.counter.Lingering()) == 0 }

// dump counts the sockets on the watched ports, and publishes the parts that come out of it.
func (t *taking) dump(ctx context.Context, c *count, how approach) {
	start := time.Now()
	switch {
	case !t.cfg.Parts.anyTCP():
		c.err = ErrOff
	case t.listening.Err != nil:
		c.err = t.listening.Err
	case how != listenersOnly:
		c.err = t.ask(ctx, c)
	}
	c.dumped = time.Now()
	c.took = c.dumped.Sub(start)
	c.counter.AddListeners(t.listening.Data)
	if c.err == nil {
		t.watcher.Lingering(c.counter.Lingering())
	}
	t.publish(func(s *Namespace) {
		s.TCP = partOf(c, t.cfg.Parts.TCP, t.listening.Duration, c.counter.Ports)
		s.Remote = partOf(c, t.cfg.Parts.Remote != nil, t.listening.Duration, c.clients.Remote)
		s.Ephemeral = partOf(c, t.cfg.Parts.Ephemeral, t.listening.Duration, c.clients.Ephemeral)
		if s.Ephemeral.Err == nil && t.localPorts == (sock.PortRange{}) {
			s.Ephemeral = Part[ports.Ephemeral]{Err: errLocalPorts, Duration: s.Ephemeral.Duration}
		}
	})
}

func (t *taking) ask(ctx context.Context, c *count) error {
	req := netlinkdiag.Request{States: netlinkdiag.AllStates.Without(sock.StateListen), Ports: c.clients.Filter()}
	for _, p := range t.set.Ports {
		req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(p.Number))
	}
	if len(req.Ports.Local)+len(req.Ports.Remote) == 0 {
		return nil
	}
	return t.probe.Sockets(ctx, req, c)
}

// errLocalPorts: the stack part says why.
var errLocalPorts = errors.New("net.ipv4.ip_local_port_range is not known")

// partOf is one of the parts that come out of the dump. Its time includes that of the listeners.
func partOf[T any](c *count, on bool, listening time.Duration, of func() T) Part[T] {
	switch {
	case !on:
		return Part[T]{Err: ErrOff}
	case c.err != nil:
		return Part[T]{Err: c.err, Duration: listening + c.took}
	}
	return Part[T]{Data: of(), Duration: listening + c.took}
}

// judge says what binds would answer, by what the dump and the flags have shown.
func (t *taking) judge(c *count, flags Part[*probe.Flags]) Part[[]verdict.Port] {
	if !t.cfg.Parts.Verdicts {
		return Part[[]verdict.Port]{Err: ErrOff}
	}
	if flags.Off() {
		flags.Err = nil // no flag is known then, and some verdicts are
	}
	duration := max(t.listening.Duration+c.took, flags.Duration)
	if err := cmp.Or(t.listening.Err, c.err, flags.Err); err != nil {
		return Part[[]verdict.Port]{Err: err, Duration: duration}
	}
	timers := linux.ReadTimers()
	now := time.Now()
	t.history.Update(now, t.set, t.groups.Data)
	return Part[[]verdict.Port]{Data: t.history.Judge(now, t.set, t.bindPorts(c, flags.Data, timers)), Duration: duration}
}

// bindPorts returns, for each watched port, the sockets that a bind would meet.
func (t *taking) bindPorts(c *count, flags *probe.Flags, timers linux.Timers) []bindrule.Port {
	if flags.Bound {
		for i := range c.views {
			c.views[i].ResetSockets()
		}
	}
	for _, s := range flags.Sockets {
		if i, ok := t.set.Find(s.Port); ok {
			c.views[i].AddFlagged(s.Socket, flags.At)
		}
	}
	listeners := make(map[uint16][]ports.Listener)
	for _, l := range t.onWatched {
		listeners[l.Port] = append(listeners[l.Port], l)
	}
	out := make([]bindrule.Port, len(c.views))
	for i := range c.views {
		number := t.set.Ports[i].Number
		v := &c.views[i]
		v.SetBucket(flags.Buckets[number])
		v.SetIncomplete(flags.Missed[number] > 0)
		v.SetListeners(listeners[number], flags.Listeners)
		out[i] = v.Port(timers, c.dumped)
	}
	return out
}

func keysOf(groups []ports.Group) iter.Seq[ports.GroupKey] {
	return func(yield func(ports.GroupKey) bool) {
		for i := range groups {
			if !yield(groups[i].GroupKey) {
				return
			}
		}
	}
}
