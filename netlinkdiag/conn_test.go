package netlinkdiag_test

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

const (
	tcp  = netlinkdiag.ProtocolTCP
	udp  = netlinkdiag.ProtocolUDP
	both = netlinkdiag.FamilyAny
	ipv4 = netlinkdiag.FamilyIPv4
	ipv6 = netlinkdiag.FamilyIPv6
)

// established is an IPv4 connection on a local port.
func established(port uint16) netlinkdiag.Socket {
	return netlinkdiag.Socket{
		Family: ipv4,
		State:  netlinkdiag.StateEstablished,
		Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		Remote: addr("127.0.0.2:1024"),
	}
}

// established6 is an IPv6 connection on a local port.
func established6(port uint16) netlinkdiag.Socket {
	s := established(port)
	s.Family = ipv6
	s.Local = netip.AddrPortFrom(netip.IPv6Loopback(), port)
	s.Remote = addr("[::1]:1024")
	return s
}

// An answer is the kernel's answer to one request.
type answer func(diagtest.Request) []diagtest.Datagram

// script answers the first request with the first answer, and so on. After the last answer
// it answers as a kernel without sockets.
func script(answers ...answer) answer {
	n := 0
	return func(req diagtest.Request) []diagtest.Datagram {
		if n++; n > len(answers) {
			return diagtest.Dump(req, nil)
		}
		return answers[n-1](req)
	}
}

// say returns an answer with one datagram for each part.
func say(parts ...func(diagtest.Request) diagtest.Datagram) answer {
	return func(req diagtest.Request) (out []diagtest.Datagram) {
		for _, part := range parts {
			out = append(out, part(req))
		}
		return out
	}
}

func sockets(ports ...uint16) func(diagtest.Request) diagtest.Datagram {
	return func(req diagtest.Request) (d diagtest.Datagram) {
		for _, p := range ports {
			d.Data = append(d.Data, diagtest.Socket(req, established(p))...)
		}
		return d
	}
}

func done(errno unix.Errno) func(diagtest.Request) diagtest.Datagram {
	return func(req diagtest.Request) diagtest.Datagram {
		return diagtest.Datagram{Data: diagtest.Done(req.Sequence, errno)}
	}
}

func refuse(errno unix.Errno) func(diagtest.Request) diagtest.Datagram {
	return func(req diagtest.Request) diagtest.Datagram {
		return diagtest.Datagram{Data: diagtest.Error(req.Sequence, errno)}
	}
}

func fail(err error) func(diagtest.Request) diagtest.Datagram {
	return func(diagtest.Request) diagtest.Datagram { return diagtest.Datagram{Err: err} }
}

func message(typ uint16) func(diagtest.Request) diagtest.Datagram {
	return func(req diagtest.Request) diagtest.Datagram {
		return diagtest.Datagram{Data: diagtest.Message(typ, 0, req.Sequence, nil)}
	}
}

// interrupted flags the first message of a datagram.
func interrupted(part func(diagtest.Request) diagtest.Datagram) func(diagtest.Request) diagtest.Datagram {
	return func(req diagtest.Request) diagtest.Datagram {
		d := part(req)
		diagtest.Interrupted(d.Data)
		return d
	}
}

// dial opens a Conn to k. It is closed when the test ends; then no transport may be open.
func dial(t *testing.T, k *diagtest.Kernel, retries int) *netlinkdiag.Conn {
	t.Helper()
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open, Retries: retries})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, netlinkdiag.ErrClosed) {
			t.Errorf("close: %v", err)
		}
		if n := k.Live(); n != 0 {
			t.Errorf("%d transports are open after Close", n)
		}
	})
	return c
}

// events returns all that a dump yields: ports, ErrRestarted, and the text of the error.
func events(dump iter.Seq2[netlinkdiag.Socket, error]) (events []string, last error) {
	for s, err := range dump {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			events = append(events, "restarted")
		case err != nil:
			events, last = append(events, "error"), err
		default:
			events = append(events, fmt.Sprint(s.Local.Port()))
		}
	}
	return events, last
}

// requireClean checks that the next dump works as the first one does, that it uses the
// opened-th transport, and that no other transport is open.
func requireClean(t *testing.T, c *netlinkdiag.Conn, k *diagtest.Kernel, opened int) {
	t.Helper()
	k.Answer = script(say(sockets(7, 8), sockets(9), done(0)))
	got, err := events(c.Dump(noContext, netlinkdiag.Request{}))
	if want := []string{"7", "8", "9"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the next dump yielded %v, error %v; want %v", got, err, want)
	}
	if k.Opened() != opened || k.Live() != 1 {
		t.Errorf("%d transports were opened, %d are open; want %d and 1", k.Opened(), k.Live(), opened)
	}
}

func TestDumpError(t *testing.T) {
	v4 := netlinkdiag.Request{Family: ipv4}
	udp6 := netlinkdiag.Request{Family: ipv6, Protocol: udp}
	missing := func(module string, errno unix.Errno) error {
		return &netlinkdiag.ModuleError{Module: module, Err: errno}
	}
	messageError := func(reason string) error { return &netlinkdiag.MessageError{Reason: reason} }
	tcp4 := func(op string, err error) netlinkdiag.Error {
		return netlinkdiag.Error{Op: op, Protocol: tcp, Family: ipv4, Err: err}
	}
	for _, tt := range []struct {
		name    string
		request netlinkdiag.Request
		answer  answer
		yields  []string
		want    netlinkdiag.Error
		text    string
		opened  int // transports, when the next dump has ended
	}{
		{"ENOENT for tcp", v4, say(refuse(unix.ENOENT)), []string{"error"},
			tcp4("dump", missing("tcp_diag", unix.ENOENT)),
			"sock_diag tcp ipv4: dump: the kernel has no tcp_diag: load it with `modprobe tcp_diag` (no such file or directory)", 1},
		{"EOPNOTSUPP for tcp", v4, say(refuse(unix.EOPNOTSUPP)), []string{"error"},
			tcp4("dump", missing("tcp_diag", unix.EOPNOTSUPP)),
			"sock_diag tcp ipv4: dump: the kernel has no tcp_diag: load it with `modprobe tcp_diag` (operation not supported)", 1},
		{"ENOENT for tcp at the end", v4, say(done(unix.ENOENT)), []string{"error"},
			tcp4("dump", missing("tcp_diag", unix.ENOENT)),
			"sock_diag tcp ipv4: dump: the kernel has no tcp_diag: load it with `modprobe tcp_diag` (no such file or directory)", 1},
		{"EOPNOTSUPP for tcp at the end", v4, say(done(unix.EOPNOTSUPP)), []string{"error"},
			tcp4("dump", missing("tcp_diag", unix.EOPNOTSUPP)),
			"sock_diag tcp ipv4: dump: the kernel has no tcp_diag: load it with `modprobe tcp_diag` (operation not supported)", 1},
		{"ENOENT for udp", udp6, say(refuse(unix.ENOENT)), []string{"error"},
			netlinkdiag.Error{Op: "dump", Protocol: udp, Family: ipv6, Err: missing("udp_diag", unix.ENOENT)},
			"sock_diag udp ipv6: dump: the kernel has no udp_diag: load it with `modprobe udp_diag` (no such file or directory)", 1},
		{"EOPNOTSUPP for udp at the end", udp6, say(done(unix.EOPNOTSUPP)), []string{"error"},
			netlinkdiag.Error{Op: "dump", Protocol: udp, Family: ipv6, Err: missing("udp_diag", unix.EOPNOTSUPP)},
			"sock_diag udp ipv6: dump: the kernel has no udp_diag: load it with `modprobe udp_diag` (operation not supported)", 1},
		{"ENOENT for both families", netlinkdiag.Request{}, say(refuse(unix.ENOENT)), []string{"error"},
			tcp4("dump", missing("tcp_diag", unix.ENOENT)),
			"sock_diag tcp ipv4: dump: the kernel has no tcp_diag: load it with `modprobe tcp_diag` (no such file or directory)", 1},
		{"ENOENT after sockets of both families", netlinkdiag.Request{}, say(sockets(1), done(unix.ENOENT)), []string{"1", "error"},
			netlinkdiag.Error{Op: "dump", Protocol: tcp, Err: missing("tcp_diag", unix.ENOENT)},
			"sock_diag tcp: dump: the kernel has no tcp_diag: load it with `modprobe tcp_diag` (no such file or directory)", 1},
		{"EPERM", netlinkdiag.Request{}, say(refuse(unix.EPERM)), []string{"error"},
			netlinkdiag.Error{Op: "dump", Protocol: tcp, Err: unix.EPERM},
			"sock_diag tcp: dump: operation not permitted", 1},
		{"EINVAL", v4, say(sockets(1, 2), done(unix.EINVAL)), []string{"1", "2", "error"},
			tcp4("dump", unix.EINVAL), "sock_diag tcp ipv4: dump: invalid argument", 1},
		{"ENOBUFS", v4, say(sockets(1), fail(unix.ENOBUFS), sockets(2)), []string{"1", "error"},
			tcp4("receive", unix.ENOBUFS), "sock_diag tcp ipv4: receive: no buffer space available", 2},
		{"NLMSG_OVERRUN", v4, say(sockets(1), message(unix.NLMSG_OVERRUN), sockets(2)), []string{"1", "error"},
			tcp4("receive", unix.ENOBUFS), "sock_diag tcp ipv4: receive: no buffer space available", 2},
		{"empty datagram", v4, say(fail(io.ErrUnexpectedEOF)), []string{"error"},
			tcp4("receive", io.ErrUnexpectedEOF), "sock_diag tcp ipv4: receive: unexpected EOF", 2},
		{"ENOENT that the kernel did not answer", v4, say(fail(unix.ENOENT)), []string{"error"},
			tcp4("receive", unix.ENOENT), "sock_diag tcp ipv4: receive: no such file or directory", 2},
		{"EINVAL that the kernel did not answer", netlinkdiag.Request{}, say(fail(unix.EINVAL)), []string{"error"},
			netlinkdiag.Error{Op: "receive", Protocol: tcp, Err: unix.EINVAL}, "sock_diag tcp: receive: invalid argument", 2},
		{"unknown message", v4, say(sockets(1), message(99), sockets(2)), []string{"1", "error"},
			tcp4("decode", messageError("unknown type 99")),
			"sock_diag tcp ipv4: decode: malformed netlink message: unknown type 99", 2},
		{"another dump's message", v4, func(req diagtest.Request) []diagtest.Datagram {
			req.Sequence += 5
			return diagtest.Dump(req, []netlinkdiag.Socket{established(1)})
		}, []string{"error"},
			tcp4("decode", messageError("sequence number 6, want 1")),
			"sock_diag tcp ipv4: decode: malformed netlink message: sequence number 6, want 1", 2},
		{"filter too large", netlinkdiag.Request{Ports: everySecondPort}, nil, []string{"error"},
			netlinkdiag.Error{Op: "send", Protocol: tcp}, // the test of the filter checks the cause
			"sock_diag tcp: send: 32768 local and 0 remote port ranges: port filter too large: 458740 bytes of bytecode, limit 65528", 1},
		{"interrupted, no retries", v4, say(sockets(1), interrupted(sockets(2)), done(0)), []string{"1", "error"},
			tcp4("receive", netlinkdiag.ErrInterrupted),
			"sock_diag tcp ipv4: receive: dump interrupted (NLM_F_DUMP_INTR)", 2},
		{"interrupted at the end, no retries", v4, say(sockets(1), interrupted(done(0))), []string{"1", "error"},
			tcp4("receive", netlinkdiag.ErrInterrupted),
			"sock_diag tcp ipv4: receive: dump interrupted (NLM_F_DUMP_INTR)", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &diagtest.Kernel{Answer: tt.answer}
			c := dial(t, k, -1)
			got, err := events(c.Dump(noContext, tt.request))
			if !slices.Equal(got, tt.yields) {
				t.Errorf("yielded %v, want %v", got, tt.yields)
			}
			var failed *netlinkdiag.Error
			if !errors.As(err, &failed) {
				t.Fatalf("error is %#v, want an *Error", err)
			}
			if err.Error() != tt.text {
				t.Errorf("error says\n%v, want\n%s", err, tt.text)
			}
			if tt.want.Err == nil {
				tt.want.Err = failed.Err
			}
			if !reflect.DeepEqual(*failed, tt.want) {
				t.Errorf("error is %#v, want %#v", *failed, tt.want)
			}
			requireClean(t, c, k, tt.opened)
		})
	}
}

var everySecondPort = func() (f netlinkdiag.PortFilter) {
	for p := 0; p <= 0xffff; p += 2 {
		f.Local = append(f.Local, netlinkdiag.Port(uint16(p)))
	}
	return f
}()

// errors.Is and errors.As find the causes through every layer.
func TestDumpErrorUnwraps(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer answer
		filter netlinkdiag.PortFilter
		is     error
	}{
		{"errno of a missing module", say(refuse(unix.ENOENT)), netlinkdiag.PortFilter{}, unix.ENOENT},
		{"errno of the kernel", say(done(unix.EPERM)), netlinkdiag.PortFilter{}, unix.EPERM},
		{"overrun", say(message(unix.NLMSG_OVERRUN)), netlinkdiag.PortFilter{}, unix.ENOBUFS},
		{"interrupted", say(interrupted(done(0))), netlinkdiag.PortFilter{}, netlinkdiag.ErrInterrupted},
		{"large filter", nil, everySecondPort, netlinkdiag.ErrFilterTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, &diagtest.Kernel{Answer: tt.answer}, -1)
			_, err := collect(c.Dump(noContext, netlinkdiag.Request{Family: ipv4, Ports: tt.filter}))
			if !errors.Is(err, tt.is) {
				t.Errorf("error is %v, want %v in it", err, tt.is)
			}
		})
	}

	c := dial(t, &diagtest.Kernel{Answer: say(refuse(unix.ENOENT))}, 0)
	_, err := collect(c.Dump(noContext, netlinkdiag.Request{Protocol: udp}))
	var module *netlinkdiag.ModuleError
	if !errors.As(err, &module) || module.Module != "udp_diag" {
		t.Errorf("error is %v, want a *ModuleError of udp_diag in it", err)
	}
}

func TestDialFails(t *testing.T) {
	k := &diagtest.Kernel{OpenError: func(int) error { return unix.EMFILE }}
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open})
	if c != nil || !errors.Is(err, unix.EMFILE) || err.Error() != "open sock_diag: too many open files" {
		t.Errorf("Dial gives %v, error %v; want EMFILE", c, err)
	}
	if k.Live() != 0 {
		t.Errorf("%d transports are open", k.Live())
	}
}

// The next dump opens a lost transport again. If that fails, the dump after it tries again.
func TestDumpOpensAgainAfterAFailedOpen(t *testing.T) {
	k := &diagtest.Kernel{
		Answer: say(fail(unix.ENOBUFS)),
		OpenError: func(n int) error {
			if n == 2 || n == 3 {
				return unix.EMFILE
			}
			return nil
		},
	}
	c := dial(t, k, 0)
	if _, err := collect(c.Dump(noContext, netlinkdiag.Request{})); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("error is %v, want ENOBUFS", err)
	}
	for range 2 {
		got, err := events(c.Dump(noContext, netlinkdiag.Request{}))
		want := &netlinkdiag.Error{Op: "open", Protocol: tcp, Err: unix.EMFILE}
		if !reflect.DeepEqual(err, error(want)) || !slices.Equal(got, []string{"error"}) {
			t.Fatalf("yielded %v, error %v; want %v", got, err, want)
		}
	}
	requireClean(t, c, k, 4)
}

// faulty is a transport that cannot send.
type faulty struct{ netlinkdiag.Transport }

func (faulty) Send(m netlink.Message) (netlink.Message, error) { return m, unix.EPERM }

func TestDumpSendFails(t *testing.T) {
	k := new(diagtest.Kernel)
	first := true
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: func() (netlinkdiag.Transport, error) {
		transport, err := k.Open()
		if first {
			first, transport = false, faulty{transport}
		}
		return transport, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = collect(c.Dump(noContext, netlinkdiag.Request{}))
	want := &netlinkdiag.Error{Op: "send", Protocol: tcp, Err: unix.EPERM}
	if !reflect.DeepEqual(err, error(want)) {
		t.Errorf("error is %v, want %v", err, want)
	}
	requireClean(t, c, k, 2)
}

// asked returns the family and protocol of each request.
func asked(k *diagtest.Kernel) (asked []string) {
	for _, r := range k.Requests() {
		asked = append(asked, fmt.Sprintf("%d %v %v", r.Type, r.Protocol, r.Family))
	}
	return asked
}

func TestRequestReachesTheKernel(t *testing.T) {
	filter := netlinkdiag.PortFilter{Local: []netlinkdiag.PortRange{netlinkdiag.Port(80)}}
	listening := netlinkdiag.States(netlinkdiag.StateListen)
	for _, tt := range []struct {
		name    string
		request netlinkdiag.Request
		want    []diagtest.Request // Bytecode only by being there
	}{
		{"zero", netlinkdiag.Request{}, []diagtest.Request{
			{Type: diagtest.TCPDiagGetSock, Protocol: tcp, States: netlinkdiag.AllStates},
		}},
		{"both families", netlinkdiag.Request{
			Protocol: tcp, States: listening, Extensions: netlinkdiag.ExtensionSKMemInfo, Ports: filter,
		}, []diagtest.Request{
			{Type: diagtest.TCPDiagGetSock, Protocol: tcp, States: listening, Extensions: 64, Bytecode: []byte{}},
		}},
		{"one family", netlinkdiag.Request{
			Family: ipv6, States: listening, Extensions: netlinkdiag.ExtensionSKMemInfo, Ports: filter,
		}, []diagtest.Request{
			{Type: unix.SOCK_DIAG_BY_FAMILY, Protocol: tcp, Family: ipv6, States: listening, Extensions: 64, Bytecode: []byte{}},
		}},
		{"udp", netlinkdiag.Request{Protocol: udp, Ports: filter}, []diagtest.Request{
			{Type: unix.SOCK_DIAG_BY_FAMILY, Protocol: udp, Family: ipv4, States: netlinkdiag.AllStates, Bytecode: []byte{}},
			{Type: unix.SOCK_DIAG_BY_FAMILY, Protocol: udp, Family: ipv6, States: netlinkdiag.AllStates, Bytecode: []byte{}},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := new(diagtest.Kernel)
			if _, err := collect(dial(t, k, 0).Dump(noContext, tt.request)); err != nil {
				t.Fatal(err)
			}
			got := k.Requests()
			for i := range got {
				got[i].Sequence = 0
				if got[i].Bytecode != nil {
					got[i].Bytecode = []byte{}
				}
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("asked %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A kernel that does not know the request for both families gets one for each.
func TestDumpFallsBackToOneFamilyAtATime(t *testing.T) {
	all := []netlinkdiag.Socket{established(1), established6(2), established(3)}
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EINVAL, unix.ENOENT} {
		for name, refusal := range map[string]answer{"error": say(refuse(errno)), "done": say(done(errno))} {
			t.Run(fmt.Sprintf("%s in %s", unix.ErrnoName(errno), name), func(t *testing.T) {
				k := &diagtest.Kernel{Answer: func(req diagtest.Request) []diagtest.Datagram {
					if req.Type == diagtest.TCPDiagGetSock {
						return refusal(req)
					}
					return diagtest.Dump(req, all)
				}}
				c := dial(t, k, 0)
				got, err := events(c.Dump(noContext, netlinkdiag.Request{}))
				if want := []string{"1", "3", "2"}; err != nil || !slices.Equal(got, want) {
					t.Errorf("yielded %v, error %v; want %v", got, err, want)
				}
				if got, want := asked(k), []string{"18 tcp any", "20 tcp ipv4", "20 tcp ipv6"}; !slices.Equal(got, want) {
					t.Errorf("asked for %v, want %v", got, want)
				}
				requireClean(t, c, k, 1)
			})
		}
	}
}

func TestDumpOfUDPIsTwo(t *testing.T) {
	all := []netlinkdiag.Socket{established6(1), established(2)}
	k := &diagtest.Kernel{Answer: func(req diagtest.Request) []diagtest.Datagram { return diagtest.Dump(req, all) }}
	got, err := events(dial(t, k, 0).Dump(noContext, netlinkdiag.Request{Protocol: udp}))
	if want := []string{"2", "1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("yielded %v, error %v; want %v", got, err, want)
	}
	if got, want := asked(k), []string{"20 udp ipv4", "20 udp ipv6"}; !slices.Equal(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
}

// Each range over the result of Dump is a new dump.
func TestDumpMayBeRangedOverAgain(t *testing.T) {
	k := &diagtest.Kernel{Sockets: []netlinkdiag.Socket{established(1), established(2)}}
	dump := dial(t, k, 0).Dump(noContext, netlinkdiag.Request{})
	for range 2 {
		got, err := events(dump)
		if want := []string{"1", "2"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("yielded %v, error %v; want %v", got, err, want)
		}
	}
	if n := len(k.Requests()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}
