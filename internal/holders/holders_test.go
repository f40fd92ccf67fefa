package holders_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/facts"
	"sockstate_exporter/internal/holders"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/probe/probetest"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/snapshot"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/verdict"
	"sockstate_exporter/internal/watch"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

const port = 4840

var lo4, any4 = netip.MustParseAddr("127.0.0.1"), netip.IPv4Unspecified()

// A page knows who is in the way of a server that is not there, and who is at the other end.
func TestASnapshotNamesWhoIsInTheWay(t *testing.T) {
	kerneltest.RequireRoot(t)
	at := netip.AddrPortFrom(lo4, port)
	for _, tt := range []struct {
		name string
		make func(*testing.T, *kerneltest.NetNS)
		code codes.Code
		says string // "": nobody is named
		peer bool
	}{
		{"a client", func(t *testing.T, ns *kerneltest.NetNS) {
			l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4850"), kerneltest.Options{})
			connect(t, ns, at, l.Addr())
		}, codes.OutgoingConnection, "an outgoing connection of ", true},
		{"a client of itself", func(t *testing.T, ns *kerneltest.NetNS) { connect(t, ns, at, at) }, codes.SelfConnection, " is connected to itself on 127.0.0.1:4840", true},
		{"only bound", func(t *testing.T, ns *kerneltest.NetNS) { ns.Bind(t, at, kerneltest.Options{}) }, codes.BoundOnly, " has bound 127.0.0.1:4840 and does not listen", false},
		{"a server", func(t *testing.T, ns *kerneltest.NetNS) {
			ns.Listen(t, netip.AddrPortFrom(any4, port), kerneltest.Options{}).Peers(t, kerneltest.StateEstablished, 1, lo4)
		}, codes.AcceptedConnection, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			tt.make(t, ns)
			s, d := look(t, ns)
			if d == nil || d.Code != tt.code || !strings.Contains(d.Sentence, tt.says) {
				t.Fatalf("diagnosis %+v, want %s: %q", d, tt.code, tt.says)
			}
			if named := d.Holder != nil && int(d.Holder.PID) == os.Getpid(); named != (tt.says != "") || len(s.Open[port]) > 0 != named {
				t.Errorf("holder %+v, open %+v", d.Holder, s.Open)
			}
			if (d.Peer != "") != tt.peer {
				t.Errorf("peer %q", d.Peer)
			}
		})
	}
}

// look is what /ports does.
func look(t *testing.T, ns *kerneltest.NetNS) (*snapshot.Snapshot, *report.Diagnosis) {
	t.Helper()
	flags, err := sockflags.New(sockflags.Options{Mode: sockflags.ModeBPF})
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { _ = flags.Close() })
	buckets, err := bindbucket.New(nil)
	if err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { _ = buckets.Close() })
	finder, err := owner.New(owner.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = finder.Close() })
	plan, err := watch.NewPlan(watch.Config{MaxPorts: 1, Ports: []watch.Spec{{PortRange: sock.PortRange{First: port, Last: port}}}})
	if err != nil {
		t.Fatal(err)
	}
	taker := snapshot.New(snapshot.Config{
		Host: &probe.Host{Config: probe.Config{NetNS: ns.FD(), Flags: flags, Buckets: buckets}}, Watch: plan,
		Parts: snapshot.Parts{Listeners: true, Verdicts: true}, Owners: patient{finder},
	})
	t.Cleanup(func() { _ = taker.Close() })
	if s := taker.Take(t.Context()); s.Open != nil {
		t.Errorf("a scrape asked who is in the way: %+v", s.Open)
	}
	s := taker.TakeWithHolders(t.Context())
	if s.Verdicts.Err != nil {
		t.Fatal(s.Verdicts.Err)
	}
	judged := report.NewPort(&s.Verdicts.Data[0], s.Listeners.Data, &report.Query{Restart: true, Open: s.Open})
	return &s, judged.Diagnosis
}

// patient waits for owners, also beside a busy neighbour.
type patient struct{ *owner.Finder }

func (p patient) Lookup(ctx context.Context, inodes []uint32) (map[uint32]owner.Owner, error) {
	return p.Finder.Lookup(context.WithoutCancel(ctx), inodes)
}

func connect(t *testing.T, ns *kerneltest.NetNS, from, to netip.AddrPort) {
	t.Helper()
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := errors.Join(unix.Bind(fd, kerneltest.Sockaddr(from)), unix.Connect(fd, kerneltest.Sockaddr(to))); err != nil {
			t.Fatal(err)
		}
	})
}

// A crowd is what one user has in the way, on many ports.
func crowd(uid uint32, first, n uint16, sockets uint64) (ports []verdict.Port, held []bindbucket.Held) {
	for number := first; number < first+n; number++ {
		s := bindrule.Socket{Addr: lo4, State: sock.StateEstablished, UID: bindrule.UIDOf(uid), Count: sockets}
		v := verdict.Port{Number: number, Port: bindrule.Port{Sockets: []bindrule.Socket{s}}}
		v.Binds = []verdict.Bind{{Verdict: verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Blocked}}}}
		ports = append(ports, v)
		held = append(held, bindbucket.Held{Socket: bhash.Socket{Port: number, Addr: lo4, State: sock.StateEstablished}, Inode: uint64(number)})
	}
	return ports, held
}

// everybody has each socket.
type everybody struct{ asked int }

func (e *everybody) Lookup(_ context.Context, inodes []uint32) (map[uint32]owner.Owner, error) {
	out := make(map[uint32]owner.Owner)
	for _, inode := range inodes {
		out[inode] = owner.Owner{Process: "client", PID: int(inode)}
	}
	e.asked += len(inodes)
	return out, nil
}

// A user cannot keep the exporter from looking at the ports of others, nor have it look at thousands.
func TestPortsAreSharedByUser(t *testing.T) {
	hostile, many := crowd(1000, 10000, 500, 1)
	large, few := crowd(1000, 20000, 5, 100_000)
	server, one := crowd(0, 60000, 1, 1)
	ns := &probetest.Namespace{HeldSockets: append(append(many, few...), one...)}
	var finder everybody
	open := holders.Of(t.Context(), ns, append(append(hostile, large...), server...), &finder)
	if want := (facts.Open{State: sock.StateEstablished, Addr: lo4, Count: 1, Owner: owner.Owner{Process: "client", PID: 60000}}); len(open[60000]) != 1 || open[60000][0] != want {
		t.Errorf("the server's port: %+v, want %+v", open[60000], want)
	}
	if len(open) > 32 || finder.asked > 32 {
		t.Errorf("%d ports, %d sockets looked up", len(open), finder.asked)
	}
}

// On a quiet host nobody is asked.
func TestNothingIsAskedWhereNothingIsInTheWay(t *testing.T) {
	blocked, _ := crowd(0, 80, 1, 1)
	server, timeWait, free := blocked[0], blocked[0], blocked[0]
	server.Port.Sockets = append([]bindrule.Socket{{Addr: any4, State: sock.StateListen, Count: 1}}, server.Port.Sockets...)
	timeWait.Port.Sockets = []bindrule.Socket{{Addr: lo4, State: sock.StateTimeWait, Kind: sock.KindTimeWait, Count: 1}}
	free.Binds = []verdict.Bind{{Verdict: verdict.Verdict{Verdict: bindrule.Verdict{Outcome: bindrule.Free}}}}
	ns := new(probetest.Namespace)
	var finder everybody
	if open := holders.Of(t.Context(), ns, []verdict.Port{server, timeWait, free}, &finder); len(open) != 0 || len(ns.Asked()) != 0 || finder.asked != 0 {
		t.Errorf("got %v, asked %v", open, ns.Asked())
	}
}
