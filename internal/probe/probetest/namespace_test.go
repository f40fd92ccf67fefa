package probetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/ports"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func tcpSockets() []netlinkdiag.Socket {
	v6only := diagtest.Listening("[::]:80", 2)
	v6only.V6Only, v6only.UID, v6only.Inode = true, 33, 7
	full := diagtest.Listening("0.0.0.0:80", 1)
	full.RQueue, full.Mem.Drops, full.Ifindex = 5, 9, 3
	silent := diagtest.Listening("127.0.0.1:443", 3)
	silent.HasMem = false
	established := diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:80", "127.0.0.1:4000")
	established.Cookie, established.UID = 4, 33
	timeWait := diagtest.TimeWait("[::1]:80", "[::1]:4001", 30*time.Second)
	timeWait.Cookie = 5
	request := diagtest.InState(netlinkdiag.StateSynRecv, "127.0.0.1:443", "127.0.0.1:4002")
	request.Cookie = 6
	bound := diagtest.InState(netlinkdiag.StateClose, "[::]:81", "[::]:0")
	bound.Cookie, bound.V6Only = 7, true
	client := diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:4000", "127.0.0.1:80")
	client.Cookie, client.HasMem, client.Mem.Drops = 8, true, 1
	return []netlinkdiag.Socket{full, v6only, silent, established, timeWait, request, bound, client}
}

func udpSockets() []netlinkdiag.Socket {
	server := diagtest.InState(netlinkdiag.StateClose, "[::]:53", "[::]:0")
	server.Cookie, server.HasMem, server.RQueue, server.Mem.Drops = 1, true, 768, 2
	client := diagtest.InState(netlinkdiag.StateEstablished, "127.0.0.1:4000", "127.0.0.1:53")
	client.Cookie = 2
	return []netlinkdiag.Socket{server, client}
}

func reuseFlags() map[uint64]sock.ReuseFlags {
	return map[uint64]sock.ReuseFlags{
		1: {ReuseAddr: true}, 2: {ReusePort: true}, 4: {ReuseAddr: true, ReusePort: true}, 5: {}, 6: {ReuseAddr: true},
	}
}

// reader answers as the eBPF programs would for tcpSockets and reuseFlags.
type reader struct {
	mode sockflags.Mode
	err  error
}

func (r reader) Mode() sockflags.Mode { return r.mode }

func (r reader) Read(ctx context.Context, req sockflags.Request) (*sockflags.Result, error) {
	if err := errors.Join(r.err, ctx.Err()); err != nil {
		return nil, err
	}
	out := &sockflags.Result{Listeners: make(map[uint64]sock.ReuseFlags)}
	for _, l := range req.Listeners {
		if f, ok := reuseFlags()[l.Cookie]; ok {
			out.Listeners[l.Cookie] = f
		}
	}
	if r.mode != sockflags.ModeBPF {
		return out, nil
	}
	sockets := tcpSockets()
	asked := make(map[uint16]bool)
	for _, p := range req.Ports {
		asked[p] = true
	}
	if asked[80] {
		out.Buckets = map[uint16]sockflags.Bucket{80: {FastReuse: 1}}
	}
	if req.ListenersOnly {
		return out, nil
	}
	for _, g := range []sockflags.Group{
		{Port: 80, Addr: sockets[3].Local.Addr(), State: sock.StateEstablished, Flags: reuseFlags()[4], UID: 33, Count: 1},
		{Port: 80, Addr: sockets[4].Local.Addr(), State: sock.StateTimeWait, Kind: sock.KindTimeWait, Count: 1, Expires: 30 * time.Second},
		{Port: 443, Addr: netip.IPv4Unspecified(), State: sock.StateSynRecv, Kind: sock.KindRequest, Flags: reuseFlags()[6], Count: 1},
	} {
		if asked[g.Port] {
			out.Groups = append(out.Groups, g)
		}
	}
	if asked[4000] { // of the client, which has no flags
		out.Missed = map[uint16]uint64{4000: 1}
	}
	return out, nil
}

// visited notes what a dump shows.
type visited struct {
	resets  int
	sockets []netlinkdiag.Socket
}

func (v *visited) Reset()                    { v.resets++; v.sockets = nil }
func (v *visited) Add(s *netlinkdiag.Socket) { v.sockets = append(v.sockets, *s) }

// questions are asked of both. Each returns an answer to compare.
func questions() map[string]func(context.Context, probe.Namespace) (any, error) {
	type ns = probe.Namespace
	sockets := func(req netlinkdiag.Request) func(context.Context, ns) (any, error) {
		return func(ctx context.Context, n ns) (any, error) {
			var v visited
			err := n.Sockets(ctx, req, &v)
			return v, err
		}
	}
	listeners := func(of ...uint16) func(context.Context, ns) (any, error) {
		return func(ctx context.Context, n ns) (any, error) {
			var v visited
			err := n.Listeners(ctx, &v, of...)
			return v, err
		}
	}
	udp := func(ctx context.Context, n ns) (any, error) {
		var v visited
		err := n.UDPSockets(ctx, &v)
		return v, err
	}
	flags := func(onlyListeners bool, of ...uint16) func(context.Context, ns) (any, error) {
		return func(ctx context.Context, n ns) (any, error) {
			listeners := make([]ports.Listener, 3)
			for i, s := range tcpSockets()[:3] {
				listeners[2-i] = ports.NewListener(&s)
			}
			f, err := n.Flags(ctx, probe.FlagRequest{Ports: of, Listeners: listeners, OnlyListeners: onlyListeners})
			if f != nil {
				if f.At.IsZero() {
					err = errors.Join(err, errors.New("the time of the flags is not set"))
				}
				f.At = time.Time{}
			}
			return f, err
		}
	}
	return map[string]func(context.Context, ns) (any, error){
		"listeners":                           listeners(),
		"listeners on ports":                  listeners(443, 444),
		"listeners on no port":                listeners(444),
		"all sockets":                         sockets(netlinkdiag.Request{}),
		"with memory":                         sockets(netlinkdiag.Request{Extensions: netlinkdiag.ExtensionSKMemInfo}),
		"of IPv6":                             sockets(netlinkdiag.Request{Family: netlinkdiag.FamilyIPv6}),
		"bound":                               sockets(netlinkdiag.Request{States: netlinkdiag.States(netlinkdiag.StateBoundInactive)}),
		"close is no state of TCP to ask for": sockets(netlinkdiag.Request{States: netlinkdiag.States(sock.StateClose)}),
		"all but listeners":                   sockets(netlinkdiag.Request{States: netlinkdiag.AllStates.Without(sock.StateListen)}),
		"local and remote ports": sockets(netlinkdiag.Request{Ports: netlinkdiag.PortFilter{
			Local: []sock.PortRange{{First: 81, Last: 500}}, Remote: []sock.PortRange{netlinkdiag.Port(80)},
		}}),
		"remote port":            sockets(netlinkdiag.Request{Ports: netlinkdiag.PortFilter{Remote: []sock.PortRange{{First: 4001, Last: 4001}}}}),
		"udp":                    udp,
		"flags":                  flags(false, 80, 443),
		"flags of one port":      flags(false, 443),
		"flags that are missing": flags(false, 80, 4000),
		"flags of listeners":     flags(true, 80, 443),
		"scope":                  func(_ context.Context, n ns) (any, error) { return n.FlagScope(), nil },
		"stack":                  func(_ context.Context, n ns) (any, error) { return n.Stack() },
		"local ports":            func(_ context.Context, n ns) (any, error) { return n.LocalPorts(), nil },
		"only listeners":         func(_ context.Context, n ns) (any, error) { return n.OnlyListeners(3), nil },
		"devices": func(_ context.Context, n ns) (any, error) {
			names := map[uint32]string{1: "", 4_000_000: ""}
			n.Devices(names)
			return names, nil
		},
		"close":       func(_ context.Context, n ns) (any, error) { return nil, n.Close() },
		"and another": listeners(80),
	}
}

// A situation is one that both can be in.
type situation struct {
	name  string
	mode  sockflags.Mode // empty: off
	stack bool
	fail  map[Question]error
	// interrupt interrupts the dump of sockets once.
	interrupt, cancelled bool
}

func situations() []situation {
	broken := unix.EINVAL
	return []situation{
		{name: "everything is there", mode: sockflags.ModeBPF, stack: true},
		{name: "flags of listeners only", mode: sockflags.ModePidfd, stack: true},
		{name: "what is optional is off"},
		{name: "interrupted", mode: sockflags.ModeBPF, interrupt: true},
		{name: "listeners fail", mode: sockflags.ModeBPF, fail: map[Question]error{Listeners: broken}},
		{name: "sockets fail", mode: sockflags.ModeBPF, fail: map[Question]error{Sockets: broken}},
		{name: "udp fails", mode: sockflags.ModeBPF, fail: map[Question]error{UDPSockets: broken}},
		{name: "flags fail", mode: sockflags.ModeBPF, fail: map[Question]error{Flags: broken}},
		{name: "stack fails", mode: sockflags.ModeBPF, stack: true, fail: map[Question]error{Stack: broken}},
		{name: "cancelled", mode: sockflags.ModeBPF, stack: true, cancelled: true},
	}
}

func someStats() stack.Stats { return stack.Stats{TimeWait: stack.Value{V: 7, OK: true}} }

// fake is a Namespace in the situation.
func (s *situation) fake() *Namespace {
	n := &Namespace{
		TCP: tcpSockets(), UDP: udpSockets(), Errs: s.fail, Interrupt: s.interrupt,
		ReuseFlags:  reuseFlags(),
		DeviceNames: map[uint32]string{1: "lo"},
	}
	switch s.mode {
	case sockflags.ModeBPF:
		n.Scope, n.Buckets = probe.FlagsOfAll, map[uint16]bindrule.Bucket{80: {Known: true, FastReuse: true}}
	case sockflags.ModePidfd:
		n.Scope = probe.FlagsOfListeners
	}
	if s.stack {
		stats := someStats()
		n.Stats, n.LocalPortsAre = &stats, sock.PortRange{First: 32768, Last: 60999}
	}
	return n
}

// overKernel is the real one, of a fake kernel.
func (s *situation) overKernel(t *testing.T) probe.Namespace {
	t.Helper()
	kernel := &diagtest.Kernel{Answer: s.answer()}
	cfg := probe.Config{Dial: func(int) (*netlinkdiag.Conn, error) {
		return netlinkdiag.Dial(&netlinkdiag.Config{Open: kernel.Open})
	}}
	if s.mode != "" {
		cfg.Flags = reader{mode: s.mode, err: s.fail[Flags]}
	}
	if s.stack {
		cfg.Stack = func() (stack.Stats, error) { return someStats(), s.fail[Stack] }
		cfg.LocalPorts = func() (uint16, uint16, error) { return 32768, 60999, nil }
	}
	t.Cleanup(func() {
		if n := kernel.Live(); n != 0 {
			t.Errorf("%d connections are open after Close", n)
		}
	})
	return cfg.Own()
}

// answer is that of a kernel, for one Namespace.
func (s *situation) answer() func(diagtest.Request) []diagtest.Datagram {
	interrupted := !s.interrupt
	return func(req diagtest.Request) []diagtest.Datagram {
		question, sockets := Sockets, tcpSockets()
		switch {
		case req.Protocol == netlinkdiag.ProtocolUDP:
			question, sockets = UDPSockets, udpSockets()
		case req.States == netlinkdiag.States(sock.StateListen):
			question = Listeners
		}
		if err := s.fail[question]; err != nil {
			return []diagtest.Datagram{{Err: err}}
		}
		whole := diagtest.Dump(req, sockets)
		if none := diagtest.Dump(req, nil); question == Sockets && !interrupted && !reflect.DeepEqual(whole, none) {
			interrupted = true
			first := diagtest.Socket(req, sockets[3])
			return append([]diagtest.Datagram{
				{Data: first}, {Data: diagtest.Interrupted(diagtest.Done(req.Sequence, 0))},
			}, whole...)
		}
		return whole
	}
}

func TestFakeAnswersAsTheRealOneDoes(t *testing.T) {
	for _, s := range situations() {
		for name, ask := range questions() {
			t.Run(s.name+"/"+name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if s.cancelled {
					cancel()
				}
				actual, fake := s.overKernel(t), s.fake()
				defer func() { _ = actual.Close() }()
				want, wantErr := ask(ctx, actual)
				got, err := ask(ctx, fake)
				if text := fmt.Sprintf("%+v", want); !reflect.DeepEqual(empty(got), empty(want)) {
					t.Errorf("got  %+v\nwant %s", got, text)
				}
				for _, sentinel := range []error{unix.EINVAL, context.Canceled, probe.ErrOff} {
					if errors.Is(err, sentinel) != errors.Is(wantErr, sentinel) {
						t.Errorf("error %v, want %v", err, wantErr)
					}
				}
				if (err == nil) != (wantErr == nil) {
					t.Errorf("error %v, want %v", err, wantErr)
				}
			})
		}
	}
}

// empty makes no answer of an answer that says nothing.
func empty(answer any) any {
	switch a := answer.(type) {
	case *probe.Flags:
		if a == nil {
			return nil
		}
	}
	return answer
}

// Of another namespace than the own one, the kernel's count of TCP sockets is known.
func TestFakeKnowsWhetherOnlyListenersAreThere(t *testing.T) {
	there := kerneltest.New(t)
	spec, err := netns.ParseSpec(there.Path())
	if err != nil {
		t.Fatal(err)
	}
	others, err := netns.New(netns.Config{Specs: []netns.Spec{spec}})
	if err != nil {
		t.Fatal(err)
	}
	count := uint64(3)
	host := probe.Host{Config: probe.Config{TCPSockets: func() (uint64, error) { return count, nil }}, Others: others}
	set := host.Open()
	defer set.Close()
	if set.Err != nil || len(set.Namespaces) != 1 {
		t.Fatalf("%d namespaces, %v, want 1", len(set.Namespaces), set.Err)
	}
	actual, fake := host.In(set.Namespaces[0]), &Namespace{TCPSockets: &count}
	for _, listeners := range []uint64{2, 3, 4} {
		if got, want := fake.OnlyListeners(listeners), actual.OnlyListeners(listeners); got != want || want != (listeners == count) {
			t.Errorf("%d listeners: %v, the real one says %v", listeners, got, want)
		}
	}
}

func TestFakeNotesWhatItIsAsked(t *testing.T) {
	n := &Namespace{Scope: probe.FlagsOfAll}
	_ = n.Listeners(t.Context(), new(visited))
	_ = n.UDPSockets(t.Context(), new(visited))
	_ = n.Sockets(t.Context(), netlinkdiag.Request{}, new(visited))
	_, _ = n.Flags(t.Context(), probe.FlagRequest{})
	if got, want := n.Asked(), []Question{Listeners, UDPSockets, Sockets, Flags}; !reflect.DeepEqual(got, want) {
		t.Errorf("asked %v, want %v", got, want)
	}
}
