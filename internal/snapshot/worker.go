package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// A worker asks the sources of one network namespace. It is used by one flight at a time, and
// keeps what has to outlive a snapshot.
type worker struct {
	cfg     Config
	watcher *ports.Watcher
	conn    *netlinkdiag.Conn // nil until dialled
	drops   *dropCounter
	set     ports.Set // the latest

	udp *udpWorker // nil: off

	memory *memory
	quiet  bool // nothing but listeners was on the watched ports last time

	flags      *sockflags.Result // the latest, of
	flagsAsked []sockflags.ListenerID

	// Of the flight that runs:
	listed     listed
	localPorts sock.PortRange // that the kernel chooses from; empty where that is not known
	idle       bool           // connections are not looked for
}

// listed is what list has seen: take goes on from there.
type listed struct {
	all       Part[[]listener]
	onWatched []listener
	groups    Part[[]Group] // all of them: whoever listens is in the way of a bind
	cut       cut
}

// newWorker makes one; plan makes its Watcher.
func newWorker(cfg Config, plan func(sock.Protocol) *ports.Watcher) *worker {
	watcher := plan(sock.TCP)
	w := &worker{
		cfg:     cfg,
		watcher: watcher,
		drops:   newDropCounter(cfg.Retention),
		set:     watcher.Update(time.Time{}, nil),

		memory: newMemory(cfg.Retention),
	}
	if cfg.UDP {
		w.udp = newUDPWorker(plan(sock.UDP), cfg.Retention)
	}
	return w
}

// forget gives its ports back.
func (w *worker) forget() {
	w.watcher.Close()
	if w.udp != nil {
		w.udp.watcher.Close()
	}
}

func (w *worker) dial() error {
	if w.conn != nil {
		return nil
	}
	conn, err := w.cfg.Dial()
	if err != nil {
		return err
	}
	w.conn = conn
	return nil
}

func (w *worker) close() error {
	if w.conn == nil {
		return nil
	}
	return w.conn.Close()
}

// readStack takes the namespace's counters and limits.
func (w *worker) readStack(publish func(func(*Namespace))) {
	part := take(func() (stack.Stats, error) {
		if w.cfg.Stack == nil {
			return stack.Stats{}, ErrOff
		}
		return w.cfg.Stack()
	})
	publish(func(s *Namespace) { s.Stack = part })
}

// list takes the listeners, and with them the set of watched ports.
func (w *worker) list(ctx context.Context, publish func(func(*Namespace))) {
	w.localPorts = sock.PortRange{}
	if w.cfg.LocalPorts != nil {
		// Where that fails, the stack part says so.
		if first, last, err := w.cfg.LocalPorts(); err == nil {
			w.localPorts = sock.PortRange{First: first, Last: last}
		}
	}
	all := take(func() ([]listener, error) { return w.listening(ctx) })
	watched := w.watched(all)
	publish(func(s *Namespace) { s.Watch = watched })

	onWatched := w.onWatched(all.Data)
	groups := w.listeners(all, onWatched)
	w.listed = listed{all: all, onWatched: onWatched, groups: groups, cut: cutOf(groups.Data)}

	udp := take(func() (UDP, error) { return w.readUDP(ctx) })
	publish(func(s *Namespace) { s.UDP = udp })
}

// take takes the sockets on the watched ports, their flags, and what follows from both.
func (w *worker) take(ctx context.Context, publish func(func(*Namespace))) {
	l := w.listed
	var beside sync.WaitGroup
	named := l.groups
	beside.Go(func() {
		named = w.named(ctx, l.groups, l.onWatched)
		publish(func(s *Namespace) {
			s.Listeners, s.GroupsDropped = named, l.cut.dropped
			s.Listeners.Data = cutDown(l.cut, named.Data)
			if !w.cfg.Listeners {
				s.Listeners, s.GroupsDropped = Part[[]Group]{Err: ErrOff}, nil
			}
		})
	})
	var reuse Part[Reuse]
	readReuse := func(listenersOnly bool) {
		reuse = Part[Reuse]{Err: l.all.Err, Duration: l.all.Duration}
		if reuse.Err == nil || w.cfg.Flags == nil {
			reuse = take(func() (Reuse, error) { return w.readReuse(ctx, l.onWatched, l.groups.Data, listenersOnly) })
		}
		publish(func(s *Namespace) {
			s.Reuse = reuse
			s.Reuse.Data.Listeners = cutDown(l.cut, reuse.Data.Listeners)
		})
	}
	sparse := l.all.Err == nil && w.cfg.sparse != nil && w.cfg.sparse(uint64(len(l.all.Data)))
	w.idle = sparse && w.cfg.walks.spent()
	w.quiet = w.quiet || w.idle
	// The flags beside the dump: both walk the same table, for as long. Where nothing but
	// listeners was there last time, the dump says whether that walk is needed at all.
	if !w.quiet {
		beside.Go(func() { readReuse(false) })
	}
	tcp := w.tcp(ctx, l.all)
	if sparse {
		w.cfg.walks.spend(tcp.Duration - l.all.Duration)
	}
	publish(func(s *Namespace) {
		s.TCP = part(w.cfg.TCP, &tcp, func(f *fold) []PortSockets { return f.ports })
		s.Remote = part(w.cfg.Remote != nil, &tcp, func(f *fold) []RemotePort { return f.clients.ports })
		s.Ephemeral = part(w.cfg.Ephemeral, &tcp, func(f *fold) Ephemeral { return f.clients.to.busiest() })
		if s.Ephemeral.Err == nil && w.localPorts == (sock.PortRange{}) {
			s.Ephemeral = Part[Ephemeral]{Err: errLocalPorts, Duration: tcp.Duration}
		}
	})
	quiet := tcp.Err == nil && !slices.ContainsFunc(tcp.Data.ports, func(p PortSockets) bool { return p.lingers() })
	if w.quiet {
		readReuse(quiet)
	}
	beside.Wait()
	w.quiet = quiet

	verdicts := w.judge(l.onWatched, named, tcp, reuse)
	publish(func(s *Namespace) { s.Verdicts = verdicts })
}

// errLocalPorts: the stack part says why.
var errLocalPorts = errors.New("net.ipv4.ip_local_port_range is not known")

// part is one of those that come out of the dump.
func part[T any](on bool, tcp *Part[fold], of func(*fold) T) Part[T] {
	switch {
	case !on:
		return Part[T]{Err: ErrOff}
	case tcp.Err != nil:
		return Part[T]{Err: tcp.Err, Duration: tcp.Duration}
	}
	return Part[T]{Data: of(&tcp.Data), Duration: tcp.Duration}
}

// take calls a source and notes how long it took.
func take[T any](source func() (T, error)) Part[T] {
	start := time.Now()
	data, err := source()
	return Part[T]{Data: data, Err: err, Duration: time.Since(start)}
}

// listening dumps every listening socket. They are few, in tables of their own, and all parts
// of TCP need them.
func (w *worker) listening(ctx context.Context) ([]listener, error) {
	if err := w.dial(); err != nil {
		return nil, err
	}
	var found []listener
	req := netlinkdiag.Request{
		States:     netlinkdiag.States(netlinkdiag.StateListen),
		Extensions: netlinkdiag.ExtensionSKMemInfo,
	}
	for s, err := range w.conn.Dump(ctx, req) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			found = found[:0]
		case err != nil:
			return nil, fmt.Errorf("dump listening sockets: %w", err)
		default:
			found = append(found, newListener(&s))
		}
	}
	return found, nil
}

// watched brings the set of watched ports up to date. Without knowing who listens it stays
// what it was: no port may go because we could not look.
func (w *worker) watched(listening Part[[]listener]) Part[ports.Set] {
	if listening.Err == nil {
		ports := make([]uint16, len(listening.Data))
		for i, l := range listening.Data {
			ports[i] = l.key.Port
		}
		w.set = w.watcher.Update(time.Now(), ports)
	}
	return Part[ports.Set]{Data: w.set, Err: listening.Err, Duration: listening.Duration}
}

// onWatched are the listeners on watched ports.
func (w *worker) onWatched(listening []listener) []listener {
	return slices.DeleteFunc(slices.Clone(listening), func(l listener) bool {
		_, ok := w.set.Find(l.key.Port)
		return !ok
	})
}

// listeners folds the listeners on watched ports into groups, and sorts them.
func (w *worker) listeners(listening Part[[]listener], onWatched []listener) Part[[]Group] {
	out := Part[[]Group]{Err: listening.Err, Duration: listening.Duration}
	if listening.Err != nil {
		return out
	}
	// All of them: a port may be watched again after the budget had no room for it.
	w.drops.update(time.Now(), listening.Data)
	out.Data = groups(onWatched)
	// Nothing is opened while no socket is bound to a device. A name that cannot be had
	// is replaced by the index, which still tells the groups apart.
	names := netns.NewInterfaces(w.cfg.NetNS)
	defer names.Close()
	for i := range out.Data {
		g := &out.Data[i]
		g.Drops = w.drops.total(g.GroupKey)
		g.Interface = names.Name(g.Ifindex)
	}
	return out
}

// tcp dumps the sockets on the watched ports.
func (w *worker) tcp(ctx context.Context, listening Part[[]listener]) Part[fold] {
	if !w.cfg.TCP && !w.cfg.Verdicts && w.cfg.Remote == nil && !w.cfg.Ephemeral {
		return Part[fold]{Err: ErrOff}
	}
	if listening.Err != nil {
		return Part[fold]{Err: listening.Err, Duration: listening.Duration}
	}
	part := take(func() (fold, error) { return w.foldTCP(ctx, listening.Data) })
	part.Duration += listening.Duration
	if part.Err == nil {
		w.watcher.Lingering(lingering(part.Data.ports))
	}
	return part
}

// judge says what binds would answer, of what the dump and the flags have shown.
func (w *worker) judge(onWatched []listener, listeners Part[[]Group], tcp Part[fold], reuse Part[Reuse]) Part[[]PortVerdicts] {
	if !w.cfg.Verdicts {
		return Part[[]PortVerdicts]{Err: ErrOff}
	}
	if reuse.Off() {
		reuse.Err = nil // all flags are unknown then, and some verdicts known
	}
	duration := max(tcp.Duration, reuse.Duration)
	if err := cmp.Or(listeners.Err, tcp.Err, reuse.Err); err != nil {
		return Part[[]PortVerdicts]{Err: err, Duration: duration}
	}
	wheel := readWheel()
	now := time.Now()
	w.memory.update(now, w.set, onWatched, listeners.Data, reuse.Data.Listeners)
	ports := bindPorts(w.set, &tcp.Data, &reuse.Data, wheel)
	addListeners(ports, w.set, onWatched, listeners.Data, reuse.Data.Listeners)
	return Part[[]PortVerdicts]{Data: w.memory.verdicts(now, w.set, ports), Duration: duration}
}

// flagsOfAll: the reuse flags of all sockets are read, not of listeners alone.
func (w *worker) flagsOfAll() bool {
	return w.cfg.Flags != nil && w.cfg.Flags.Mode() == sockflags.ModeBPF
}

// maxKernelFilter is up to how many ports the kernel filters: sockets on other ports, on most
// hosts the many, are then never copied, which takes up to two fifths off a dump. Where every
// socket is on a watched port it costs, up to a sixth with 512 scattered ports, and the program
// itself is audited at each dump, in time that grows with its square (docs/performance.md).
const maxKernelFilter = 1024

func (w *worker) foldTCP(ctx context.Context, listening []listener) (fold, error) {
	f := newFold(w.set, w.cfg.Verdicts && !w.flagsOfAll(), w.clients())
	f.clients.serve(listening, w.set)
	req := netlinkdiag.Request{States: netlinkdiag.AllStates.Without(netlinkdiag.StateListen), Ports: f.clients.filter()}
	req.Ports.Local = append(req.Ports.Local, ranges(w.set.Ports)...)
	switch n := len(req.Ports.Local) + len(req.Ports.Remote); {
	case n == 0:
		return *f, nil
	case n > maxKernelFilter:
		req.Ports = netlinkdiag.PortFilter{}
	}
	if w.idle {
		f.leaveOut(netlinkdiag.StateSynRecv, netlinkdiag.StateClose)
	} else if err := w.dumpTCP(ctx, req, f); err != nil {
		return fold{}, fmt.Errorf("dump tcp sockets: %w", err)
	}
	f.at = time.Now()
	for i := range listening {
		f.addListener(&listening[i])
	}
	return *f, nil
}

func (w *worker) clients() *clients {
	if !w.cfg.Ephemeral {
		return newClients(w.cfg.Remote, sock.PortRange{})
	}
	return newClients(w.cfg.Remote, w.localPorts)
}

func (w *worker) dumpTCP(ctx context.Context, req netlinkdiag.Request, f *fold) error {
	for s, err := range w.conn.Dump(ctx, req) {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			f.reset()
		case err != nil:
			return err
		default:
			f.add(&s)
		}
	}
	return nil
}
