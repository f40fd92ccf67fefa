package snapshot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/bpf/sockwalk"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/opener"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/internal/watch"
)

// A countingWalker counts walks, and may fail.
type countingWalker struct {
	probe.Walker
	walks atomic.Int32
	err   error
	gone  bool // no namespace is found
}

func (w *countingWalker) Walk(ctx context.Context, req sockwalk.Request, visit func(*sockwalk.Group)) (*sockwalk.Result, error) {
	w.walks.Add(1)
	result, err := w.Walker.Walk(ctx, req, visit)
	if err == nil && w.gone {
		clear(result.Found)
	}
	if w.err != nil {
		return nil, w.err
	}
	return result, err
}

func newWalker(t testing.TB) *countingWalker {
	t.Helper()
	return &countingWalker{Walker: opener.Since61(t, func() (*sockwalk.Walker, error) { return sockwalk.New(sockwalk.Options{}) })}
}

// walkConfig takes everything of a namespace as the own one, and of others. walker may be nil.
func walkConfig(t testing.TB, walker *countingWalker, own *kerneltest.NetNS, others ...*kerneltest.NetNS) Config {
	t.Helper()
	host := &probe.Host{OwnInode: uint32(own.Inode()), BoundInactive: kerneltest.KernelAtLeast(t, 6, 8)}
	own.Do(t, func() {
		var err error
		if host.OwnCookie, err = linux.NetNSCookie(); err != nil {
			t.Error(err)
		}
	})
	if walker != nil {
		host.Walker = walker
	}
	if len(others) > 0 {
		var cfg netns.Config
		for _, ns := range others {
			spec, err := netns.ParseSpec(ns.Path())
			if err != nil {
				t.Fatal(err)
			}
			cfg.Specs = append(cfg.Specs, spec)
		}
		var err error
		if host.Others, err = netns.New(cfg); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := stack.NewReader("/proc")
	if err != nil {
		t.Fatal(err)
	}
	flags := opener.OrSkip(t, func() (*sockflags.Reader, error) { return sockflags.New(sockflags.Options{}) })
	buckets := opener.OrSkip(t, func() (*bindbucket.Reader, error) { return bindbucket.New(nil) })
	host.Config = probe.Config{
		NetNS: own.FD(), Flags: flags, Buckets: buckets, TCPSockets: reader.TCPSockets, LocalPorts: reader.LocalPorts,
	}
	return Config{
		Host: host, Retention: retention,
		Parts: Parts{
			TCP: true, Listeners: true, Verdicts: true, Ephemeral: true,
			Remote: watch.NewFixed([]sock.PortRange{one(80)}),
		},
	}
}

// allKinds makes sockets of all kinds on port 80.
func allKinds(t *testing.T, ns *kerneltest.NetNS) {
	t.Helper()
	l := ns.Listen(t, netip.MustParseAddrPort("[::]:80"), kerneltest.Options{ReuseAddr: true})
	for _, state := range kerneltest.States() {
		if state != kerneltest.StateListen && state != kerneltest.StateClose {
			l.Peers(t, state, 1, localhost6)
			l.Peers(t, state, 2, localhost4)
		}
	}
	ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:81"), kerneltest.Options{ReusePort: true}).Peers(t, kerneltest.StateTimeWait, 3, localhost4)
	ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:82"), kerneltest.Options{ReuseAddr: true}).Peers(t, kerneltest.StateClose, 1, localhost4)
}

// changing are times, and pointers, in what factsOf returns.
var changing = regexp.MustCompile(`\b[0-9.]+(m[0-9.]+|µ|m|n)?s\b|0x[0-9a-f]+`)

// factsOf are what a snapshot says of a namespace, without times.
func factsOf(ns *Namespace) string {
	verdicts := slices.Clone(ns.Verdicts.Data)
	for i := range verdicts {
		slices.SortFunc(verdicts[i].Port.Sockets, func(a, b bindrule.Socket) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
		for j := range verdicts[i].Binds { // positions in Sockets
			verdicts[i].Binds[j].Verdict.Verdict.Blockers, verdicts[i].Binds[j].Verdict.Doubtful = nil, nil
		}
		for j := range verdicts[i].Restarts {
			verdicts[i].Restarts[j].Verdict.Verdict.Blockers, verdicts[i].Restarts[j].Doubtful = nil, nil
		}
	}
	out := fmt.Sprintf("TCP %+v\nRemote %+v\nEphemeral %+v\nVerdicts %+v\n", ns.TCP.Data, ns.Remote.Data, ns.Ephemeral.Data, verdicts)
	for _, g := range ns.Listeners.Data {
		out += fmt.Sprintf("%+v %v %v\n", g.GroupKey, g.ReuseAddr, g.ReusePort)
	}
	out += fmt.Sprintln(ns.TCP.Err, ns.Remote.Err, ns.Ephemeral.Err, ns.Verdicts.Err, ns.Listeners.Err, ns.Reuse.Err)
	return changing.ReplaceAllString(out, "?")
}

// sameFacts compares snapshots of two Takers. Sockets may change between them.
func sameFacts(t *testing.T, walking, dumping *Taker) Snapshot {
	t.Helper()
	var got, want Snapshot
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		want, got = dumping.Take(t.Context()), walking.Take(t.Context())
		same := len(got.Others) == len(want.Others) && factsOf(&got.Namespace) == factsOf(&want.Namespace)
		for i := range min(len(got.Others), len(want.Others)) {
			same = same && factsOf(&got.Others[i]) == factsOf(&want.Others[i])
		}
		if same {
			return got
		}
	}
	t.Errorf("own:\n%s\nwant\n%s", factsOf(&got.Namespace), factsOf(&want.Namespace))
	for i := range got.Others {
		t.Errorf("other:\n%s\nwant\n%s", factsOf(&got.Others[i]), factsOf(&want.Others[i]))
	}
	t.FailNow()
	return got
}

func TestKernelWalkShowsWhatDumpsShow(t *testing.T) {
	walker := newWalker(t)
	own, red, blue := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	red.Sysctl(t, "net.ipv4.tcp_child_ehash_entries", "256")
	green := red.NewChild(t) // has a table of its own
	for _, ns := range []*kerneltest.NetNS{own, red, green} {
		allKinds(t, ns)
	}
	blue.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{ReuseAddr: true})
	walking := newTaker(t, walkConfig(t, walker, own, red, green, blue), discovering())
	dumping := newTaker(t, walkConfig(t, nil, own, red, green, blue), discovering())
	got := sameFacts(t, walking, dumping)
	if walker.walks.Load() == 0 {
		t.Error("there was no walk")
	}
	for name, ns := range map[string]*Namespace{"own": &got.Namespace, "other": &got.Others[0]} {
		p := ns.TCP.Data[0]
		if p.Number != 80 || p.IPv6.States[sock.StateTimeWait] != 3 || p.IPv6.States[sock.StateSynRecv] != 3 || p.Unseen != 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if states := got.TCP.Data[2].IPv4.States; walking.host.cfg.Host.BoundInactive && states[sock.StateClose] != 1 {
		t.Errorf("sockets that are only bound: %+v", states)
	}
}

// Ports with very many sockets have their flags from the walk, and the rest without one.
func TestKernelWalkOfManySockets(t *testing.T) {
	walker := newWalker(t)
	own := kerneltest.New(t)
	l := own.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{ReuseAddr: true})
	gone := own.Listen(t, netip.MustParseAddrPort("127.0.0.1:81"), kerneltest.Options{})
	walking := newTaker(t, walkConfig(t, walker, own), discovering())
	dumping := newTaker(t, walkConfig(t, nil, own), discovering())
	sameFacts(t, walking, dumping)
	if n := walker.walks.Load(); n != 0 {
		t.Errorf("%d walks on a quiet host, want none", n)
	}
	timewait.MustMake(t, own, timewait.Options{Listeners: []*kerneltest.Listener{l, gone}, Count: 4 * fewSockets})
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		sameFacts(t, walking, dumping)
	}
	if walker.walks.Load() == 0 {
		t.Error("there was no walk")
	}
	// A dump shows no flags of sockets that are only bound.
	own.Bind(t, netip.MustParseAddrPort("127.0.0.3:80"), kerneltest.Options{ReuseAddr: true})
	own.Bind(t, netip.MustParseAddrPort("127.0.0.2:80"), kerneltest.Options{ReuseAddr: true})
	got := walking.Take(t.Context())
	var bound []bindrule.Socket
	for _, s := range got.Verdicts.Data[0].Port.Sockets {
		if s.State == sock.StateClose {
			bound = append(bound, s)
		}
	}
	if len(bound) != 2 || bound[0].ReuseAddr != bindrule.Yes || bound[1].ReusePort != bindrule.No {
		t.Errorf("sockets that are only bound: %+v, want two", bound)
	}
	want := uint64(0)
	if walking.host.cfg.Host.BoundInactive {
		want = 2
	}
	if n := got.TCP.Data[0].IPv4.States[sock.StateClose]; n != want {
		t.Errorf("%d sockets are only bound, want %d", n, want)
	}
}

// Where a walk does not work, the namespaces are asked, and the walk is not tried again soon.
func TestKernelWalkThatFails(t *testing.T) {
	for name, tt := range map[string]struct {
		fail  func(*countingWalker)
		walks int32
	}{
		"failed":    {func(w *countingWalker) { w.err = errors.New("broken") }, 1},
		"not found": {func(w *countingWalker) { w.gone = true }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			walker := newWalker(t)
			tt.fail(walker)
			own, red := kerneltest.New(t), kerneltest.New(t)
			allKinds(t, own)
			allKinds(t, red)
			cfg := walkConfig(t, walker, own, red)
			var told []error
			cfg.OnWalkFailed = func(err error) { told = append(told, err) }
			walking := newTaker(t, cfg, discovering())
			dumping := newTaker(t, walkConfig(t, nil, own, red), discovering())
			sameFacts(t, walking, dumping)
			for range 2 {
				walking.Take(t.Context())
			}
			if n := walker.walks.Load(); n < tt.walks || tt.walks == 1 && n > 1 {
				t.Errorf("%d walks, want %d", n, tt.walks)
			}
			if failed := walker.err != nil; failed != (len(told) == 1) {
				t.Errorf("told of %v, want one failure: %v", told, failed)
			}
		})
	}
}

// A slowWalker walks until the context ends.
type slowWalker struct{ began chan struct{} }

func (w slowWalker) Walk(ctx context.Context, _ sockwalk.Request, _ func(*sockwalk.Group)) (*sockwalk.Result, error) {
	close(w.began)
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// A scrape that ends while the walk goes on has what the walk does not show. The walk did not fail then.
func TestKernelWalkIsNotWaitedForByOtherParts(t *testing.T) {
	own, red := kerneltest.New(t), kerneltest.New(t)
	for _, ns := range []*kerneltest.NetNS{own, red} {
		ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
	}
	cfg := walkConfig(t, nil, own, red)
	walker := slowWalker{make(chan struct{})}
	cfg.Host.Walker = walker
	cfg.Host.Stack = func() (stack.Stats, error) { return someStats(), nil }
	cfg.OnWalkFailed = func(err error) { t.Errorf("failed: %v", err) }
	taker := newTaker(t, cfg, discovering())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-walker.began
		time.Sleep(300 * time.Millisecond) // for the goroutine of the owners
		cancel()
	}()
	s := taker.Take(ctx)
	if !errors.Is(s.TCP.Err, context.Canceled) {
		t.Errorf("TCP: error %v, want %v", s.TCP.Err, context.Canceled)
	}
	if s.Listeners.Err != nil || len(s.Listeners.Data) != 1 {
		t.Errorf("own listeners: %+v, %v; want one", s.Listeners.Data, s.Listeners.Err)
	}
	if len(s.Others) != 1 || s.Others[0].Stack.Err != nil {
		t.Errorf("others: %+v, want one with its counters", s.Others)
	}
}

// A connection of TCP Fast Open is in SYN_RECV until the client answers. It is no request: bind() looks at it.
func TestKernelWalkOfFastOpen(t *testing.T) {
	walker := newWalker(t)
	own := kerneltest.New(t)
	own.Sysctl(t, "net.ipv4.tcp_fastopen", strconv.Itoa(0x607)) // without a cookie, for all listeners
	l := own.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{ReuseAddr: true})
	timewait.MustMake(t, own, timewait.Options{Listeners: []*kerneltest.Listener{l}, Count: 4 * fewSockets})
	own.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}} // so that it sees no SYN-ACK
		err = errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]}),
			unix.Sendto(fd, []byte("data"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}}),
		)
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Error(err)
		}
	})
	walking := newTaker(t, walkConfig(t, walker, own), discovering())
	dumping := newTaker(t, walkConfig(t, nil, own), discovering())
	var got Snapshot
	for range 2 {
		got = sameFacts(t, walking, dumping)
	}
	if walker.walks.Load() == 0 {
		t.Error("there was no walk")
	}
	sockets := got.Verdicts.Data[0].Port.Sockets
	if !slices.ContainsFunc(sockets, func(s bindrule.Socket) bool { return s.State == sock.StateSynRecv && s.Kind == sock.KindFull }) {
		t.Errorf("no connection in SYN_RECV among %+v", sockets)
	}
}
