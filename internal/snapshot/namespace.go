package snapshot

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/holders"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/ports/shown"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/snapshot/tcpcount"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

// A taking is one snapshot of one network namespace that is being taken. Its steps are stack, list
// and sockets; stack may run beside the others. Each publishes its parts.
type taking struct {
	*worker
	id      netns.ID
	publish func(func(*Namespace))
	walks   *walkBudget
	holders bool // who has what is in the way of a server is asked for

	// list sets these for sockets.
	began      time.Time
	localPorts sock.PortRange
	listening  Part[*ports.Listening]
	onWatched  ports.OnPorts
	udpPorts   Part[[]udp.Port]

	local func(netip.Addr) bool // whether an address is one of the namespace's own

	// notShown are groups of ports with too many, and dropped is their number by port.
	notShown map[ports.GroupKey]bool
	dropped  map[uint16]int

	// expected are the binds that have to be judged exactly, by port, and foldings fold sockets
	// for them and for wildcards, by set.Ports.
	expected map[uint16][]bindrule.Request
	foldings []*bindrule.Folding

	// searched is the count that a walk completes; nil: this namespace is asked on its own.
	searched *count

	unseen bool // bind buckets may lack connections in SYN_RECV that no listener has

	groups Part[[]ports.Group] // also those that are not shown: every listener blocks a bind
	named  bool                // groups have their owners
}

func (w *worker) begin(id netns.ID, publish func(func(*Namespace)), walks *walkBudget, holders bool) *taking {
	return &taking{
		worker: w, id: id, publish: noting(&w.memory, publish), walks: walks, holders: holders,
		local:    probe.IsLocal(w.probe),
		notShown: make(map[ports.GroupKey]bool), dropped: make(map[uint16]int),
	}
}

// stack takes the namespace's counters and limits.
func (t *taking) stack() {
	part := take(t.probe.Stack)
	t.publish(func(s *Namespace) { s.Stack = part })
}

// list takes the listeners, the set of watched ports, and UDP.
func (t *taking) list(ctx context.Context) {
	t.localPorts, t.began = t.probe.LocalPorts(), time.Now()
	t.listening = take(func() (*ports.Listening, error) {
		l := ports.NewListening(time.Now(), t.drops, t.listeners)
		if err := t.probe.Listeners(ctx, l); err != nil {
			return nil, err
		}
		l.End()
		t.listeners = int(l.Total())
		return l, nil
	})
	watched := t.updateWatch()
	t.publish(func(s *Namespace) { s.Watch, s.LocalPorts = watched, t.localPorts })
	t.fold(ctx)

	counts := take(func() (ports.UDP, error) { return t.readUDP(ctx) })
	t.publish(func(s *Namespace) { s.UDP = counts })
	if t.udpPorts.Err = counts.Err; counts.Err == nil {
		t.udpPorts = take(func() ([]udp.Port, error) { return udp.Read(ctx, t.probe, counts.Data.Watch.Numbers()) })
	}
}

// updateWatch updates the set of watched ports. If the listeners are not known, the set does not
// change: no port may disappear because the exporter could not look.
func (t *taking) updateWatch() Part[watch.Set] {
	if t.listening.Err == nil {
		t.set = t.watcher.Discover(time.Now(), t.listening.Data.Servers(), t.localPorts)
	}
	return Part[watch.Set]{Data: t.set, Err: t.listening.Err, Duration: t.listening.Duration}
}

// fold folds the listeners on watched ports into groups. Where there are too many listeners to keep
// them all until it is known which ports are watched, it asks for those on these ports.
func (t *taking) fold(ctx context.Context) {
	t.groups = Part[[]ports.Group]{Err: t.listening.Err, Duration: t.listening.Duration}
	if t.listening.Err != nil {
		return
	}
	var ok bool
	if t.onWatched, ok = t.listening.Data.On(t.set); !ok {
		selected := take(func() (*ports.Selection, error) {
			s := t.listening.Data.Select(t.set)
			return s, t.probe.Listeners(ctx, s, t.set.Numbers()...)
		})
		t.listening.Duration += selected.Duration
		t.listening.Err = selected.Err
		t.groups.Duration, t.groups.Err = t.listening.Duration, selected.Err
		if selected.Err != nil {
			return
		}
		t.onWatched = selected.Data.On()
	}
	groups := t.onWatched.Groups
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
	now := time.Now()
	t.choose(now)
	t.history.Update(now, t.set, t.chosen(), t.local)
	t.expect()
}

// choose decides which groups are shown.
func (t *taking) choose(now time.Time) {
	for port, n := range t.onWatched.GroupsUnknown {
		t.dropped[port] += int(n)
	}
	if shown.Fit(t.groups.Data) {
		return
	}
	candidates := make([]shown.Candidate, len(t.groups.Data))
	for i := range candidates {
		g := &t.groups.Data[i]
		candidates[i] = shown.Candidate{GroupKey: g.GroupKey, UID: g.UID, First: t.history.First(g.GroupKey, now)}
	}
	for port, keys := range shown.TooMany(candidates, t.local) {
		t.dropped[port] += len(keys)
		for _, key := range keys {
			t.notShown[key] = true
		}
	}
}

// chosen returns the groups that are shown, as they are now. Callers only read them.
func (t *taking) chosen() []ports.Group {
	if len(t.notShown) == 0 {
		return t.groups.Data
	}
	return slices.DeleteFunc(slices.Clone(t.groups.Data), func(g ports.Group) bool { return t.notShown[g.GroupKey] })
}

// expect decides which binds the answers have to be exact for: those that judge asks about, and
// those of the caller.
func (t *taking) expect() {
	always := slices.Concat(t.cfg.Binds, []bindrule.Request{{Addr: netip.IPv4Unspecified()}, {Addr: netip.IPv6Unspecified()}})
	t.expected = t.history.Requests()
	common := bindrule.NewFolding(always)
	t.foldings = make([]*bindrule.Folding, len(t.set.Ports))
	for i, p := range t.set.Ports {
		t.foldings[i] = common
		of := t.expected[p.Number]
		if len(of) > 0 {
			t.foldings[i] = bindrule.NewFolding(slices.Concat(of, always))
		}
		if len(t.cfg.Binds) > 0 {
			t.expected[p.Number] = slices.Concat(of, t.cfg.Binds)
		}
	}
}

// readUDP counts the sockets of UDP ports.
func (t *taking) readUDP(ctx context.Context) (ports.UDP, error) {
	if t.udp == nil {
		return ports.UDP{}, ErrOff
	}
	return udp.Count(ctx, t.probe, t.udp, t.localPorts)
}

// sockets takes the sockets on the watched ports, their flags, and the verdicts that follow from
// both.
func (t *taking) sockets(ctx context.Context) {
	var beside sync.WaitGroup
	t.nameOwners(ctx)
	noConnections := t.searched == nil && t.listening.Err == nil && t.probe.OnlyListeners(t.listening.Data.Total())
	t.unseen = t.listening.Err != nil || t.requests.MayBeUnseen(t.set, t.onWatched.Listeners)
	how := t.approach(noConnections)
	tcp := t.searched
	if tcp == nil {
		tcp = t.newCount(how)
	} else {
		how = walked
	}
	var flags Part[*probe.Flags]
	switch how {
	case walked:
		t.addListening(tcp)
		flags = t.complete(ctx, tcp)
	case sideBySide:
		beside.Go(func() { flags = t.readFlags(ctx, math.MaxUint64, false) })
		t.dump(ctx, tcp, notListening)
		t.publishCount(tcp)
	case dumpFirst:
		t.dump(ctx, tcp, notListening)
		t.publishCount(tcp)
		flags = t.readFlags(ctx, tcp.Sockets(), tcp.err == nil && len(tcp.Counter.Lingering()) == 0)
	case flagsFirst:
		flags = t.readFlags(ctx, fewSockets, false) // as many as last time
		t.dumpRest(ctx, tcp, flags)
		t.publishCount(tcp)
	case listenersOnly:
		t.dump(ctx, tcp, 0)
		t.publishCount(tcp)
		flags = t.rememberedFlags(ctx)
	}
	if noConnections {
		t.walks.spend(tcp.took)
	}
	beside.Wait()
	t.few = tcp.err == nil && tcp.Sockets() <= fewSockets
	t.requests.Seen(tcp.Counter)
	verdicts := t.judge(tcp, flags)
	t.publish(func(s *Namespace) { s.Verdicts = verdicts })
	if t.holders && t.cfg.Owners != nil {
		open := holders.Of(ctx, t.probe, verdicts.Data, t.cfg.Owners)
		t.publish(func(s *Namespace) { s.Open = open })
	}
}

// publishGroups publishes the groups that are shown, and how many are not.
func (t *taking) publishGroups() {
	shown, dropped := t.groups, t.dropped
	if shown.Data = t.chosen(); !t.cfg.Parts.Listeners {
		shown.Err = ErrOff
	}
	t.publish(func(s *Namespace) { s.Listeners, s.GroupsDropped = shown, dropped })
}

// nameOwners finds the owners of the listeners, once. That owners cannot be found is not this part's
// failure: they are not known then.
func (t *taking) nameOwners(ctx context.Context) {
	if t.named {
		return
	}
	t.named = true
	start := time.Now()
	var found map[uint64]owner.Owner
	if t.cfg.Owners != nil && len(t.onWatched.Listeners) > 0 {
		sockets := make([]owner.Socket, len(t.onWatched.Listeners))
		for i, l := range t.onWatched.Listeners {
			sockets[i] = owner.Socket{Cookie: l.Cookie, Inode: l.Inode}
		}
		found, _ = t.cfg.Owners.Find(ctx, sockets)
	}
	t.groups.Duration += time.Since(start)
	ports.SetOwners(t.groups.Data, t.onWatched.Listeners, found)
	t.boundNames(t.groups.Data, start)
	t.publishGroups()
	t.namer.Name(ctx, t.udpPorts.Data, t.cfg.Owners)
	t.publish(func(s *Namespace) { s.UDPPorts = t.udpPorts })
}

// noteSplit says which ports are split. It comes after all other steps.
func (t *taking) noteSplit(binds *failures.Binds) {
	if t.groups.Err == nil {
		found := t.split.Update(t.set, t.groups.Data, uint32(t.id.Inode), binds.Failing)
		t.publish(func(s *Namespace) { s.Split = found })
	}
	if t.udp != nil && t.udpPorts.Err == nil {
		found := t.splitUDP.Update(t.udp.Set(), udp.Servers(t.udpPorts.Data), uint32(t.id.Inode), binds.FailingUDP)
		t.publish(func(s *Namespace) { s.SplitUDP = found })
	}
}

// boundNames leaves out names of owners where a port has had too many of them.
func (t *taking) boundNames(groups []ports.Group, now time.Time) {
	t.names.Keep(func(port uint16) bool { _, watched := t.set.Find(port); return watched })
	for i := range groups {
		g := &groups[i]
		if !g.Owner.Known() {
			continue
		}
		user := g.UID.ID
		if !g.UID.Known {
			user = math.MaxUint32 // several
		}
		g.Owner.Many = t.names.Of(g.Port).Add(now, user, g.Owner.Process, g.Owner.Place())
	}
}

// readFlags reads the reuse flags and publishes what they say. There are about so many sockets on the
// ports, and with onlyListeners nothing but listeners. Only verdicts need the flags of other sockets.
func (t *taking) readFlags(ctx context.Context, sockets uint64, onlyListeners bool) Part[*probe.Flags] {
	req := probe.FlagRequest{Ports: t.set.Numbers(), Listeners: t.onWatched.Listeners, Expected: t.expected, OnlyListeners: onlyListeners || !t.cfg.Parts.Verdicts, Sockets: sockets}
	return t.takeFlags(func() (*probe.Flags, error) {
		flags, err := t.probe.Flags(ctx, req)
		if err == nil {
			t.rememberFlags(flags, t.onWatched.Listeners)
		}
		return flags, err
	})
}

// rememberedFlags is readFlags for a namespace in which connections are not looked for. To read the
// flags anew, an eBPF iterator would walk over all connections of the host.
func (t *taking) rememberedFlags(ctx context.Context) Part[*probe.Flags] {
	if flags, ok := t.remembered(t.onWatched.Listeners); ok {
		return t.takeFlags(func() (*probe.Flags, error) { return flags, nil })
	}
	return t.readFlags(ctx, uint64(len(t.onWatched.Listeners)), true)
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
	reuse := Part[[]uint16]{Err: part.Err, Duration: part.Duration}
	if part.Err == nil {
		reuse.Data = ports.Unreserved(t.localPorts, t.onWatched.Listeners, part.Data.NamedPort, t.probe.ReservedPorts)
		t.groups.Data = slices.Clone(t.groups.Data) // the others are published
		ports.SetFlags(t.groups.Data, t.onWatched.Listeners, part.Data.Listeners)
		t.publishGroups()
	}
	t.publish(func(s *Namespace) { s.Reuse = reuse })
	return part
}

// A count is what a dump or a walk of TCP sockets has shown.
type count struct {
	tcpcount.Count

	bound    []verdict.View // sockets that are only bound, beside a walk; nil: they are in Views
	allBound bool           // the walk has found the sockets that are only bound

	onlyClients bool // the sockets on the watched ports are there already

	err    error
	took   time.Duration
	dumped time.Time // when it ended; set before the other steps where a walk has shown it
}

func (t *taking) newCount(how approach) *count {
	var unseen sock.StateSet
	if how == listenersOnly {
		// The kernel does not count these states in sockstat.
		unseen = netlinkdiag.States(sock.StateSynRecv, sock.StateClose)
	}
	localPorts := t.localPorts
	if !t.cfg.Parts.Ephemeral {
		localPorts = sock.PortRange{}
	}
	views := verdict.EmptyViews(t.views, len(t.set.Ports))
	t.views = nil
	for i, f := range t.foldings {
		views[i].Expect(f)
	}
	return &count{Count: tcpcount.Count{
		Set:     t.set,
		Counter: ports.NewCounter(t.set, unseen),
		Clients: ports.NewClients(t.cfg.Parts.Remote, localPorts, t.listening.Data.Ports(), t.set),
		Views:   views,
		All:     t.cfg.Parts.Verdicts && t.probe.FlagScope() != probe.FlagsOfAll,

		CountBound: t.cfg.Host.BoundInactive,
	}}
}

const (
	notListening = netlinkdiag.AllStates &^ (1 << sock.StateListen)

	// notBound leaves out the sockets that are only bound, too: for these, the kernel walks the lists of all
	// ports.
	notBound = notListening &^ (1 << netlinkdiag.StateBoundInactive)
)

// dump counts the sockets on the watched ports in some states, and the listeners.
func (t *taking) dump(ctx context.Context, c *count, states netlinkdiag.StateSet) {
	start := time.Now()
	switch {
	case !t.cfg.Parts.anyTCP():
		c.err = ErrOff
	case t.listening.Err != nil:
		c.err = t.listening.Err
	case states == 0:
	case c.onlyClients && t.cfg.Parts.Remote == nil && t.probe.Connections(c.Clients) == nil:
	default:
		c.err = t.ask(ctx, c, c.Clients.Filter(), states)
	}
	c.dumped = time.Now()
	c.took = c.dumped.Sub(start)
	t.slow = c.took > slowDump
	t.addListening(c)
}

// addListening counts the listeners, too.
func (t *taking) addListening(c *count) { c.Counter.AddListening(t.listening.Data) }

// publishCount publishes the parts that come out of the count.
func (t *taking) publishCount(c *count) {
	if c.err == nil {
		t.watcher.Lingering(c.Counter.Lingering())
	}
	t.publish(func(s *Namespace) {
		s.TCP = partOf(c, t.cfg.Parts.TCP, t.listening.Duration, c.Counter.Ports)
		s.Remote = partOf(c, t.cfg.Parts.Remote != nil, t.listening.Duration, c.Clients.Remote)
		s.Ephemeral = partOf(c, t.cfg.Parts.Ephemeral, t.listening.Duration, c.Clients.Ephemeral)
		if s.Ephemeral.Err == nil && t.localPorts == (sock.PortRange{}) {
			s.Ephemeral = Part[ports.Ephemeral]{Err: errLocalPorts, Duration: s.Ephemeral.Duration}
		}
	})
}

// ask dumps the sockets on the watched ports, and others on these.
func (t *taking) ask(ctx context.Context, c *count, others netlinkdiag.PortFilter, states netlinkdiag.StateSet) error {
	req := netlinkdiag.Request{States: states, Ports: others}
	var visitor probe.Visitor = c.Clients
	if !c.onlyClients {
		visitor = c
		for _, p := range t.set.Ports {
			req.Ports.Local = append(req.Ports.Local, netlinkdiag.Port(p.Number))
		}
	}
	if len(req.Ports.Local)+len(req.Ports.Remote) == 0 {
		return nil
	}
	return t.probe.Sockets(ctx, req, visitor)
}

// errLocalPorts gives no reason, because the error of the stack part does.
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
		flags.Err = nil // some verdicts are known without flags
	}
	duration := max(t.listening.Duration+c.took, flags.Duration)
	if err := cmp.Or(t.listening.Err, c.err, flags.Err); err != nil {
		return Part[[]verdict.Port]{Err: err, Duration: duration}
	}
	timers := linux.ReadTimers()
	now := time.Now()
	t.history.Update(now, t.set, t.chosen(), t.local)
	return Part[[]verdict.Port]{Data: t.history.Judge(now, t.set, t.bindPorts(c, flags.Data, timers)), Duration: duration}
}

// bindPorts returns, for each watched port, the sockets that a bind would meet.
func (t *taking) bindPorts(c *count, flags *probe.Flags, timers linux.Timers) []bindrule.Port {
	if flags.Bound {
		for i := range c.Views {
			c.Views[i].ResetSockets()
		}
	}
	for i := range flags.Sockets {
		s := &flags.Sockets[i]
		if n, ok := t.set.Find(s.Port); ok {
			c.Views[n].AddFlagged(&s.Socket, flags.At)
		}
	}
	listeners := make(map[uint16][]ports.Listener, min(len(c.Views), len(t.onWatched.Listeners)))
	for port, of := range ports.ByPort(t.onWatched.Listeners, func(l *ports.Listener) uint16 { return l.Port }) {
		listeners[port] = of
	}
	out := make([]bindrule.Port, len(c.Views))
	for i := range c.Views {
		number := t.set.Ports[i].Number
		v := &c.Views[i]
		v.SetBucket(flags.Buckets[number])
		v.SetIncomplete(flags.Missed[number] > 0 || t.onWatched.Unknown[number] > 0)
		v.SetListeners(listeners[number], flags.Listeners)
		out[i] = v.Port(timers, c.dumped)
		out[i].MappedMeetsAny = t.cfg.Host.MappedMeetsAny
		if c.bound != nil {
			out[i].Sockets = append(out[i].Sockets, c.bound[i].Port(timers, c.dumped).Sockets...)
		}
	}
	t.views = c.Views
	return out
}
