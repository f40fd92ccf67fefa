package collector

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/failing"
	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/metric"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/seen"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/split"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/udp"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
	"sockstate_exporter/netlinkdiag"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

var (
	errBroken = errors.New("netlink is broken")
	errOther  = errors.New("netlink is broken in another way")
)

// hostileNames of network devices, all but the last legal (dev_valid_name).
var hostileNames = []string{
	"\xff\xfe", "\xfe\xff", "new\nline", `"q"\`, "tab\there", "\u202egnirts", strings.Repeat("é", 5000),
}

// overBudget is logged for the first wholeSnapshot.
const overBudget = "WARN more ports to watch than --watch.max-ports allows limit=2 not_watched=1"

// wholeSnapshot has something of everything that a Collector renders.
func wholeSnapshot(t testing.TB) snapshot.Snapshot {
	t.Helper()
	watcher, err := watch.New(watch.Config{
		Ports:     []watch.Spec{{PortRange: sock.PortRange{First: 4840, Last: 4840}, Name: `opc "ua"\`}},
		Listeners: true,
		MaxPorts:  2,
	})
	if err != nil {
		t.Fatal(err)
	}
	busy := ports.PortSockets{Number: 4840}
	for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
		busy.IPv4.States[state] = uint64(state)
		busy.IPv6.States[state] = 1_000_000 * uint64(state)
	}
	busy.IPv4.TimeWaitRemaining = 59_999 * time.Millisecond
	busy.IPv6.TimeWaitRemaining = time.Millisecond

	group := func(port uint16, address string, ifindex uint32) ports.Group {
		g := ports.Group{GroupKey: ports.GroupKey{
			Port: port, Family: netlinkdiag.FamilyIPv4, Address: netip.MustParseAddr(address), Ifindex: ifindex,
		}, Sockets: 1, QueueLimit: 128, DropsKnown: true}
		if g.Address.Is6() {
			g.Family = netlinkdiag.FamilyIPv6
		}
		return g
	}
	reused := group(80, "0.0.0.0", 0)
	reused.Sockets, reused.Queue, reused.QueueLimit, reused.QueueRatio, reused.Drops = 4, 130, 512, 129.0/128, math.MaxUint32+1
	reused.Mixed = true
	dual, only, mapped := group(80, "::", 0), group(4840, "::", 0), group(4840, "::ffff:192.0.2.1", 0)
	only.V6Only = true
	mapped.DropsKnown = false
	groups := []ports.Group{reused, dual, only, mapped}
	for i, name := range hostileNames {
		g := group(4840, "0.0.0.0", uint32(i+2))
		g.Interface = name
		groups = append(groups, g)
	}
	plain := group(4840, "0.0.0.0", 99)
	plain.Interface = "eth0.100"
	plain.Owner = owner.Owner{
		Process: "nginx", Unit: "cri-containerd-" + strings.Repeat("0a", 32) + ".scope", Runtime: sock.RuntimeContainerd, Container: strings.Repeat("0a", 32),
		Named: sock.Container{Runtime: sock.RuntimeContainerd, Namespace: "shop", Pod: "web-7d9f4-abcde", Name: "nginx"},
	}

	groups = append(groups, plain)
	for i := range groups {
		groups[i].ReuseAddr, groups[i].ReusePort = bindrule.Flag(i%3), bindrule.No
	}

	plan, err := watch.NewPlan(watch.Config{Ports: []watch.Spec{{PortRange: sock.PortRange{First: 53, Last: 53}, Protocol: sock.UDP, Name: "dns"}}, MaxPorts: 2})
	if err != nil {
		t.Fatal(err)
	}
	counted := ports.UDP{
		Watch: plan.Own(sock.UDP).Update(time.Time{}, nil),
		Ports: []ports.UDPPort{{
			Number: 53,
			IPv4:   ports.UDPSockets{Sockets: 2, Queue: 4096, Drops: 7, DropsKnown: true},
			IPv6:   ports.UDPSockets{Sockets: 1},
		}},
	}
	remote := ports.RemotePort{Number: 5432}
	remote.IPv4[netlinkdiag.StateEstablished], remote.IPv6[netlinkdiag.StateTimeWait] = 20, 3

	known := func(v uint64) stack.Value { return stack.Value{V: v, OK: true} }
	return snapshot.Snapshot{
		Namespace: snapshot.Namespace{
			Inode:         ownNetns,
			Watch:         snapshot.Part[watch.Set]{Data: watcher.Update(time.Time{}, []watch.Server{{Port: 80}, {Port: 81}}), Duration: time.Millisecond},
			Listeners:     snapshot.Part[[]ports.Group]{Data: groups, Duration: 2 * time.Millisecond},
			GroupsDropped: map[uint16]int{4840: 9936},
			TCP:           snapshot.Part[[]ports.PortSockets]{Data: []ports.PortSockets{{Number: 80}, busy}, Duration: 250 * time.Millisecond},
			Reuse:         snapshot.Part[[]uint16]{Data: []uint16{80}, Duration: 3 * time.Millisecond},
			Remote:        snapshot.Part[[]ports.RemotePort]{Data: []ports.RemotePort{remote}, Duration: 250 * time.Millisecond},
			Ephemeral:     snapshot.Part[ports.Ephemeral]{Data: ports.Ephemeral{IPv4: []uint64{28000, 12}}, Duration: 250 * time.Millisecond},
			UDP:           snapshot.Part[ports.UDP]{Data: counted, Duration: 2 * time.Millisecond},
			UDPPorts:      snapshot.Part[[]udp.Port]{Data: someUDPPorts(), Duration: 2 * time.Millisecond},
			Verdicts:      snapshot.Part[[]verdict.Port]{Data: someVerdicts(), Duration: 250 * time.Millisecond},
			Split:         []split.Port{{Number: 80, Now: true}, {Number: 80, Missing: sock.FamilyIPv4}},
			SplitUDP:      []split.Port{{Number: 53, Missing: sock.FamilyIPv6, Now: true}},
			Stack: snapshot.Part[stack.Stats]{Data: stack.Stats{
				TimeWait: known(1), TimeWaitLimit: known(2), TimeWaitOverflows: known(3),
				ListenOverflows: known(4), ListenDrops: known(5), EphemeralPorts: known(28232),
				Memory: known(1 << 20), MemoryPressure: known(1 << 29), MemoryLimit: known(1 << 30), Orphans: known(6), OrphansLimit: known(131072),
			}, Duration: 4 * time.Millisecond},
		},
		Others:    []snapshot.Namespace{podNamespace()},
		Discovery: snapshot.Part[snapshot.Discovery]{Data: snapshot.Discovery{Dropped: 1, Unreadable: 2}, Duration: time.Millisecond},
		Binds:     snapshot.Part[failures.Binds]{Data: someBinds(), Duration: 500 * time.Microsecond},
	}
}

// everyMetric is a snapshot in which each metric has a series: a collector fails, and has its data.
func everyMetric(t testing.TB) snapshot.Snapshot {
	t.Helper()
	s := wholeSnapshot(t)
	s.Stack.Err = errBroken
	s.Unix = someUnix()
	return s
}

// someVerdicts: 0.0.0.0:80 is free but for 212 sockets in TIME_WAIT that lack SO_REUSEADDR,
// and a live one is on [::]:80.
func someVerdicts() []verdict.Port {
	waiting := verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Blocked, Until: 43200 * time.Millisecond, UntilKnown: true}, BlockersKnown: true}
	waiting.Blockers[netlinkdiag.StateTimeWait] = 212
	live := verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Blocked, Forever: true, UntilKnown: true}, BlockersKnown: true}
	live.Blockers[netlinkdiag.StateCloseWait] = 1
	free := verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Free, UntilKnown: true}, BlockersKnown: true}
	unknown := verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Unknown}}
	v4, v6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	return []verdict.Port{{
		Number: 80,
		Binds: []verdict.Bind{
			{Address: v4, Verdict: waiting}, {Address: v4, ReuseAddr: true, Verdict: free},
			{Address: v6, Verdict: live}, {Address: v6, ReuseAddr: true, Verdict: unknown},
		},
		Restarts: []verdict.Restart{
			{Address: v4, Verdict: waiting}, {Address: v6, Listening: true, Verdict: live},
		},
	}}
}

// ownNetns is the inode number of the exporter's network namespace.
const ownNetns = 4026531840

// count is a failed bind() in the exporter's network namespace.
func count(port uint16, family sock.Family, protocol sock.Protocol, errno unix.Errno, n uint64) bindtrace.Count {
	return bindtrace.Count{N: n, Key: bindtrace.Key{
		Netns: ownNetns, Port: port, Family: family, Protocol: protocol, Errno: errno,
	}}
}

// changed is a count with another key.
func changed(c bindtrace.Count, change func(*bindtrace.Key)) bindtrace.Count {
	change(&c.Key)
	return c
}

func elsewhere(k *bindtrace.Key) { k.Netns = 0 }
func otherPort(k *bindtrace.Key) { k.Port, k.OtherPort = 0, true }
func byConnect(k *bindtrace.Key) { k.Op = bindtrace.OpConnect }
func byListen(k *bindtrace.Key)  { k.Op = bindtrace.OpListen }

// someBinds has a failure of every kind.
func someBinds() failures.Binds {
	web := count(80, sock.FamilyIPv4, sock.TCP, unix.EADDRINUSE, 3)
	at := time.UnixMilli(1_700_000_000_123)
	return failures.Binds{
		Counts: []bindtrace.Count{
			web,
			changed(web, elsewhere),
			changed(web, otherPort),
			changed(web, byListen),
			count(0, sock.FamilyIPv6, sock.UDP, unix.EADDRINUSE, 1),
			count(4840, sock.FamilyIPv6, sock.MPTCP, 0, 1<<40),
			changed(count(0, sock.FamilyIPv4, sock.TCP, unix.EADDRNOTAVAIL, 17), byConnect),
			changed(changed(count(0, sock.FamilyIPv4, sock.TCP, unix.EADDRNOTAVAIL, 1000), byConnect), otherPort),
		},
		Conflicts: []failures.ConflictCount{{
			ConflictKey: failures.ConflictKey{
				Key:       failures.Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP},
				Diagnosis: codes.TimeWait,
			},
			N: 2,
		}},
		Connects: true,
		Stats:    bindtrace.Stats{Lost: 4, Unattributed: 5, Missed: 6, VSOCK: 9, SlotsUsed: 7, SlotsLimit: 1536, SlotsLacking: 8},
		Failing: []failing.State{
			{Key: failing.Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4}, Failing: true},
			{Key: failing.Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv6}},
		},
		Latest: []failures.Failure{{
			Key:  failures.Key{Netns: ownNetns, Port: 80, Family: sock.FamilyIPv4, Protocol: sock.TCP},
			Time: at, Errno: unix.EADDRINUSE, Process: "nginx",
		}, {
			Key:  failures.Key{OtherPort: true, Family: sock.FamilyIPv6, Protocol: sock.UDP},
			Time: at.Add(time.Second), Errno: unix.EACCES, Process: "evil\n\xff\"}\u202e",
		}},
	}
}

// podNamespace has nothing but its name.
func podNamespace() snapshot.Namespace {
	return snapshot.Namespace{Name: "shop/web-7d9f4-abcde", Inode: 4026532001, Container: sock.Container{
		Runtime: sock.RuntimeContainerd, Namespace: "shop", Pod: "web-7d9f4-abcde", PodUID: "0b5c4a3f-6f0e-4a52-9f3e-1f2d3c4b5a69",
	}}
}

// collectorOf makes metrics of the same snapshot again and again.
func collectorOf(s snapshot.Snapshot) (*Collector, *logbook) {
	log := new(logbook)
	return New(constant(s), nil, slog.New(log)), log
}

// constant takes the same snapshot again and again, as the first one of a Taker.
func constant(s snapshot.Snapshot) source {
	s.Others = slices.Clone(s.Others)
	for ns := range s.Namespaces() {
		note(ns, s.Binds.Data.Counts)
	}
	return func(context.Context) snapshot.Snapshot { return s }
}

// note notes what the namespace shows, as a Taker does.
func note(ns *snapshot.Namespace, failures []bindtrace.Count) {
	var m seen.Memory
	m.Watch(ns.Watch.Data)
	m.Listeners(ns.Listeners.Data, ns.GroupsDropped, true)
	m.TCP(ns.TCP.Data)
	m.UDP(&ns.UDP.Data)
	m.UDPPorts(ns.UDPPorts.Data)
	m.Remote(ns.Remote.Data, ns.Name == "")
	m.Ephemeral(&ns.Ephemeral.Data)
	m.Unreserved(ns.Reuse.Data)
	m.Verdicts(ns.Verdicts.Data)
	m.Failures(ns.Inode, failures)
	ns.Seen = m.Namespace()
}

// rendered is what a Collector makes of a snapshot.
func rendered(t *testing.T, c *Collector) *metric.Sink {
	t.Helper()
	s := metric.NewSink()
	snap := c.take(t.Context())
	c.render(&snap, s, 0)
	return s
}

// exposition is what the Collector exposes, as text, sorted.
func exposition(t *testing.T, c *Collector) []byte {
	t.Helper()
	families, err := rendered(t, c).Parsed()
	if err != nil {
		t.Fatal(err)
	}
	return encoded(t, pedantic(t, families), expfmt.NewFormat(expfmt.TypeTextPlain))
}

// encoded is what expfmt writes.
func encoded(t *testing.T, families []*dto.MetricFamily, format expfmt.Format) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// pedantic passes families through client_golang's own checks: names, types, labels in
// order, each combination of values once.
func pedantic(t *testing.T, families []*dto.MetricFamily) []*dto.MetricFamily {
	t.Helper()
	checked, err := prometheus.Gatherers{prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		return families, nil
	})}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return checked
}

// A logbook is a slog.Handler that keeps what it is given.
type logbook struct {
	mu      sync.Mutex
	records []string // level, message and attributes
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logbook) WithGroup(string) slog.Handler            { return l }

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, line)
	return nil
}

// take returns what was logged since the last take.
func (l *logbook) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.records = nil }()
	return l.records
}

// someUDPPorts have two servers that share port 53, and a child of a server that is in the way of its restart.
func someUDPPorts() []udp.Port {
	socket := func(addr string, uid uint32, process string) udp.Socket {
		return udp.Socket{
			Socket: bindrule.Socket{
				Addr: netip.MustParseAddr(addr), UID: bindrule.UIDOf(uid), State: sock.StateClose, Count: 1,
				V6Only: bindrule.No, ReuseAddr: bindrule.Yes, ReusePort: bindrule.No,
			},
			Owner: owner.Owner{Process: process, PID: 1},
		}
	}
	alone := socket("::", 0, "named")
	alone.ReuseAddr, alone.Owner.Unit = bindrule.No, "named.service"
	child := socket("127.0.0.1", 0, "helper")
	child.State, child.ReuseAddr = sock.StateEstablished, bindrule.No
	tunnel := socket("192.0.2.1", 0, "")
	tunnel.Kernel, tunnel.Owner, tunnel.Ifindex, tunnel.Interface = true, owner.Owner{}, 2, "eth0"
	tunnel.V6Only, tunnel.ReuseAddr, tunnel.ReusePort = bindrule.FlagUnknown, bindrule.FlagUnknown, bindrule.FlagUnknown
	return []udp.Port{{
		Number: 53, InOrder: true, Crowded: bindrule.No,
		Sockets: []udp.Socket{socket("0.0.0.0", 0, "dnsmasq"), socket("0.0.0.0", 0, "unbound"), alone, child, tunnel},
	}}
}
