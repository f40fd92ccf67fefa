package snapshot

import (
	"slices"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/seen"
	"sockstate_exporter/internal/share"
	"sockstate_exporter/internal/snapshot/tcpcount"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

// A worker takes the parts of one network namespace. It keeps what has to outlive a snapshot.
type worker struct {
	cfg   *Config
	probe probe.Namespace // for the current snapshot; that of the own namespace is for all

	watcher         *watch.Watcher
	set             watch.Set // the latest
	drops           *ports.DropCounter
	udp             *ports.UDPWatcher // nil: off
	history         *verdict.History
	memory          seen.Memory
	split, splitUDP split.Memory
	names           share.PortNames // of those who listen
	namer           udp.Namer

	requests tcpcount.Requests

	few  bool // there were no more than fewSockets on the watched ports last time
	slow bool // the host has many sockets: the dump took long last time, or a walk passed many

	views     []verdict.View // of the latest count, to be used again
	listeners int            // how many there were last time

	flags   *probe.Flags // the latest
	flagsOf []uint64     // cookies of the listeners that flags is about, sorted
}

// newWorker makes one; watch makes its Watchers.
func newWorker(cfg *Config, watch func(sock.Protocol) *watch.Watcher, ns probe.Namespace) *worker {
	watcher := watch(sock.TCP)
	w := &worker{
		cfg:     cfg,
		probe:   ns,
		watcher: watcher,
		set:     watcher.Set(),
		drops:   ports.NewDropCounter(cfg.Retention),
		history: verdict.NewHistory(cfg.Retention),
		few:     true, // as on most hosts
	}
	if cfg.Parts.UDP {
		w.udp = ports.NewUDPWatcher(watch(sock.UDP), cfg.Retention)
	}
	return w
}

// forget gives the ports of the worker back to the budget.
func (w *worker) forget() {
	w.watcher.Close()
	if w.udp != nil {
		w.udp.Close()
	}
}

// sets returns the watched ports of each protocol.
func (w *worker) sets() []watch.Set {
	if w.udp == nil {
		return []watch.Set{w.set}
	}
	return []watch.Set{w.set, w.udp.Set()}
}

// noteFailures notes the calls that failed in the Namespace.
func (w *worker) noteFailures(ns *Namespace, counts []bindtrace.Count) {
	w.memory.Failures(ns.Inode, counts)
	ns.Seen = w.memory.Namespace()
}

// fewSockets is the number of sockets up to which reading the flags waits for the dump. Such a dump
// takes less than a millisecond.
const fewSockets = 4096

// An approach is how connections and flags are looked for.
type approach uint8

const (
	// sideBySide reads the flags beside the dump: both walk the same table, and take as long.
	sideBySide approach = iota
	// dumpFirst is for ports that had few sockets last time: the dump says whether a walk for the
	// flags of sockets is needed at all.
	dumpFirst
	// flagsFirst is dumpFirst where flags come with all sockets on the ports, read out of bind buckets. The dump
	// leaves these out.
	flagsFirst
	// listenersOnly does not look for connections: the kernel counts none, and the time for
	// looking all the same is used up.
	listenersOnly
	// walked has the connections, and their flags, from the walk through all namespaces.
	walked
)

func (t *taking) approach(noConnections bool) approach {
	switch {
	case noConnections && t.walks.spent():
		return listenersOnly
	case t.few && t.cfg.Host.Buckets != nil && len(t.set.Ports) <= probe.MaxBucketPorts && t.probe.FlagScope() != probe.FlagsOff:
		return flagsFirst
	case t.few:
		return dumpFirst
	default:
		return sideBySide
	}
}

// rememberFlags keeps the flags of listeners, for when connections are not looked for.
func (w *worker) rememberFlags(flags *probe.Flags, listeners []ports.Listener) {
	w.flags = &probe.Flags{Listeners: flags.Listeners, NamedPort: flags.NamedPort, Buckets: flags.Buckets, At: flags.At}
	w.flagsOf = ports.Cookies(listeners)
}

// remembered returns the flags of the same listeners, if they were read before. Flags of a listener
// are set before it listens, as a rule.
func (w *worker) remembered(listeners []ports.Listener) (*probe.Flags, bool) {
	return w.flags, w.flags != nil && slices.Equal(w.flagsOf, ports.Cookies(listeners))
}
