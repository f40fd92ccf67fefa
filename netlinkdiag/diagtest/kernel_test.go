package diagtest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// table returns a socket of each family in each state, on port 100 + state or 200 + state.
func table() (sockets []netlinkdiag.Socket) {
	for state := netlinkdiag.StateEstablished; state < netlinkdiag.NumStates; state++ {
		v4 := netlinkdiag.Socket{
			Family:      netlinkdiag.FamilyIPv4,
			State:       state,
			Timer:       netlinkdiag.TimerProbe,
			Retransmits: 3,
			Local:       netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 100+uint16(state)),
			Remote:      netip.MustParseAddrPort("192.0.2.2:50000"),
			Ifindex:     4,
			Cookie:      5<<32 | 6,
			Expires:     7 * time.Second,
			RQueue:      8,
			WQueue:      9,
			UID:         10,
			Inode:       11,
			HasMem:      true,
			Mem:         netlinkdiag.MemInfo{RmemAlloc: 12, Rcvbuf: 13, WmemAlloc: 14, Sndbuf: 15, FwdAlloc: 16, WmemQueued: 17, Optmem: 18, Backlog: 19, Drops: 20},
		}
		v6 := v4
		v6.Family = netlinkdiag.FamilyIPv6
		v6.Local = netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), 200+uint16(state))
		v6.Remote = netip.MustParseAddrPort("[2001:db8::2]:50000")
		v6.V6Only = state == netlinkdiag.StateListen
		sockets = append(sockets, v4, v6)
	}
	return sockets
}

func dial(t *testing.T, k *diagtest.Kernel) *netlinkdiag.Conn {
	t.Helper()
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dump(t *testing.T, c *netlinkdiag.Conn, req netlinkdiag.Request) (sockets []netlinkdiag.Socket) {
	t.Helper()
	for s, err := range c.Dump(context.Background(), req) {
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, s)
	}
	return sockets
}

func TestKernelAnswersFromItsSockets(t *testing.T) {
	const mem = netlinkdiag.ExtensionSKMemInfo
	port := func(p uint16) []netlinkdiag.PortRange { return []netlinkdiag.PortRange{netlinkdiag.Port(p)} }
	for _, tt := range []struct {
		name string
		req  netlinkdiag.Request
		want func(netlinkdiag.Socket) bool
	}{
		{"all", netlinkdiag.Request{Extensions: mem}, func(netlinkdiag.Socket) bool { return true }},
		{"IPv4", netlinkdiag.Request{Extensions: mem, Family: netlinkdiag.FamilyIPv4},
			func(s netlinkdiag.Socket) bool { return s.Family == netlinkdiag.FamilyIPv4 }},
		{"IPv6", netlinkdiag.Request{Extensions: mem, Family: netlinkdiag.FamilyIPv6},
			func(s netlinkdiag.Socket) bool { return s.Family == netlinkdiag.FamilyIPv6 }},
		{"states", netlinkdiag.Request{Extensions: mem, States: netlinkdiag.States(netlinkdiag.StateListen, netlinkdiag.StateSynRecv)},
			func(s netlinkdiag.Socket) bool {
				return s.State == netlinkdiag.StateListen || s.State == netlinkdiag.StateSynRecv
			}},
		{"bound-inactive", netlinkdiag.Request{Extensions: mem, States: netlinkdiag.States(netlinkdiag.StateBoundInactive)},
			func(s netlinkdiag.Socket) bool { return s.State == netlinkdiag.StateClose }},
		{"close", netlinkdiag.Request{Extensions: mem, States: netlinkdiag.States(netlinkdiag.StateClose)},
			func(netlinkdiag.Socket) bool { return false }},
		{"filter", netlinkdiag.Request{Extensions: mem, Ports: netlinkdiag.PortFilter{Local: port(101)}},
			func(s netlinkdiag.Socket) bool { return s.Local.Port() == 101 }},
		{"filter of one family", netlinkdiag.Request{Extensions: mem, Family: netlinkdiag.FamilyIPv6,
			Ports: netlinkdiag.PortFilter{Local: port(201), Remote: port(50001)}},
			func(s netlinkdiag.Socket) bool { return s.Local.Port() == 201 }},
		{"udp", netlinkdiag.Request{Extensions: mem, Protocol: netlinkdiag.ProtocolUDP},
			func(netlinkdiag.Socket) bool { return false }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want []netlinkdiag.Socket
			for _, s := range table() {
				if tt.want(s) {
					want = append(want, s)
				}
			}
			if got := dump(t, dial(t, &diagtest.Kernel{Sockets: table()}), tt.req); !slices.Equal(got, want) {
				t.Errorf("answered\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestKernelSendsMemoryWhereAskedTo(t *testing.T) {
	c := dial(t, &diagtest.Kernel{Sockets: table()})
	for _, s := range dump(t, c, netlinkdiag.Request{}) {
		if s.HasMem {
			t.Fatalf("sent, not asked for: %+v", s)
		}
	}
}

// As over netlink, a dump of many sockets is more than one datagram.
func TestDumpIsSplit(t *testing.T) {
	var sockets []netlinkdiag.Socket
	for range 20 {
		sockets = append(sockets, table()...)
	}
	req := diagtest.Request{Type: unix.SOCK_DIAG_BY_FAMILY, Protocol: netlinkdiag.ProtocolUDP, States: netlinkdiag.AllStates | 1<<netlinkdiag.StateClose}
	if n := len(diagtest.Dump(req, sockets)); n < 3 {
		t.Errorf("%d sockets are in %d datagrams, want several", len(sockets), n)
	}
	got := dump(t, dial(t, &diagtest.Kernel{Sockets: sockets}), netlinkdiag.Request{Extensions: netlinkdiag.ExtensionSKMemInfo})
	if !slices.Equal(got, sockets) {
		t.Errorf("answered %d sockets, want %d", len(got), len(sockets))
	}
}

// UDP has no bound-inactive sockets: an unconnected one is in StateClose.
func TestDumpOfUDP(t *testing.T) {
	req := diagtest.Request{
		Type: unix.SOCK_DIAG_BY_FAMILY, Sequence: 1, Protocol: netlinkdiag.ProtocolUDP,
		States: netlinkdiag.States(netlinkdiag.StateClose),
	}
	k := &diagtest.Kernel{Answer: func(diagtest.Request) []diagtest.Datagram { return diagtest.Dump(req, table()) }}
	got := dump(t, dial(t, k), netlinkdiag.Request{Family: netlinkdiag.FamilyIPv4})
	if len(got) != 2 || got[0].State != netlinkdiag.StateClose || got[1].State != netlinkdiag.StateClose {
		t.Errorf("answered %+v, want the two in close", got)
	}
}

func TestScriptAnswersInPlaceOfTheSockets(t *testing.T) {
	var asked []diagtest.Request
	k := &diagtest.Kernel{Sockets: table(), Answer: func(req diagtest.Request) []diagtest.Datagram {
		asked = append(asked, req)
		return []diagtest.Datagram{{Data: diagtest.Socket(req, table()[0])}, {Err: unix.ENOBUFS}}
	}}
	n := 0
	var last error
	for _, err := range dial(t, k).Dump(context.Background(), netlinkdiag.Request{}) {
		if last = err; err == nil {
			n++
		}
	}
	if n != 1 || !errors.Is(last, unix.ENOBUFS) {
		t.Errorf("%d sockets, error %v; want 1 and ENOBUFS", n, last)
	}
	if len(asked) != 1 || len(k.Requests()) != 1 || asked[0].Type != diagtest.TCPDiagGetSock || asked[0].Sequence != 1 {
		t.Errorf("the script saw %+v, the kernel %+v; want one request", asked, k.Requests())
	}
}

func TestKernelCountsTransports(t *testing.T) {
	k := &diagtest.Kernel{OpenError: func(n int) error {
		if n == 2 {
			return unix.EMFILE
		}
		return nil
	}}
	one, err := k.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(); err != unix.EMFILE {
		t.Errorf("the second Open gives %v, want EMFILE", err)
	}
	if _, err := k.Open(); err != nil {
		t.Fatal(err)
	}
	if k.Opened() != 3 || k.Live() != 2 {
		t.Errorf("%d opened, %d live; want 3 and 2", k.Opened(), k.Live())
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if err := one.Close(); err != os.ErrClosed {
		t.Errorf("a second Close gives %v, want os.ErrClosed", err)
	}
	if k.Opened() != 3 || k.Live() != 1 {
		t.Errorf("%d opened, %d live; want 3 and 1", k.Opened(), k.Live())
	}
}

// open returns a transport of a kernel that never answers.
func open(t *testing.T) netlinkdiag.Transport {
	t.Helper()
	k := &diagtest.Kernel{Answer: func(diagtest.Request) []diagtest.Datagram { return nil }}
	transport, err := k.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close() })
	return transport
}

func TestDeadlineEndsReceive(t *testing.T) {
	b := make([]byte, 100)
	past := time.Unix(1, 0)
	for _, tt := range []struct {
		name     string
		deadline func() time.Time
	}{
		{"past", func() time.Time { return past }},
		{"to come", func() time.Time { return time.Now().Add(time.Millisecond) }},
	} {
		t.Run(tt.name+", before", func(t *testing.T) {
			transport := open(t)
			if err := transport.SetReadDeadline(tt.deadline()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := transport.Receive(b); err != os.ErrDeadlineExceeded {
					t.Errorf("Receive gives %v, want os.ErrDeadlineExceeded", err)
				}
			}
		})
		t.Run(tt.name+", while it waits", func(t *testing.T) {
			transport := open(t)
			time.AfterFunc(time.Millisecond, func() { _ = transport.SetReadDeadline(tt.deadline()) })
			if _, err := transport.Receive(b); err != os.ErrDeadlineExceeded {
				t.Errorf("Receive gives %v, want os.ErrDeadlineExceeded", err)
			}
		})
	}
}

func TestDeadlineIsLifted(t *testing.T) {
	k := new(diagtest.Kernel)
	transport, err := k.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	for _, at := range []time.Time{time.Unix(1, 0), {}} {
		if err := transport.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := transport.Send(request(unix.SOCK_DIAG_BY_FAMILY, make([]byte, 56))); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Receive(make([]byte, 100)); err != nil {
		t.Errorf("Receive gives %v", err)
	}
}

func TestCloseEndsReceiveAndSend(t *testing.T) {
	transport := open(t)
	time.AfterFunc(time.Millisecond, func() { _ = transport.Close() })
	if _, err := transport.Receive(make([]byte, 100)); err != os.ErrClosed {
		t.Errorf("Receive gives %v, want os.ErrClosed", err)
	}
	if _, err := transport.Send(request(unix.SOCK_DIAG_BY_FAMILY, make([]byte, 56))); err != os.ErrClosed {
		t.Errorf("Send gives %v, want os.ErrClosed", err)
	}
}

func request(typ netlink.HeaderType, data []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Dump}, Data: data}
}

// The Kernel refuses what Linux refuses with EINVAL.
func TestKernelRefusesBadRequests(t *testing.T) {
	bytecode := diagtest.Attribute(1, []byte{99, 4, 8, 0}) // no such code
	for _, tt := range []struct {
		name string
		m    netlink.Message
	}{
		{"unknown type", request(21, make([]byte, 100))},
		{"short inet_diag_req_v2", request(unix.SOCK_DIAG_BY_FAMILY, make([]byte, 55))},
		{"short inet_diag_req", request(diagtest.TCPDiagGetSock, make([]byte, 59))},
		{"bad attribute", request(unix.SOCK_DIAG_BY_FAMILY, append(make([]byte, 56), 1, 0, 1, 0))},
		{"bad bytecode", request(unix.SOCK_DIAG_BY_FAMILY, append(make([]byte, 56), bytecode...))},
		{"bad bytecode for both families", request(diagtest.TCPDiagGetSock, append(make([]byte, 60), bytecode...))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := new(diagtest.Kernel)
			transport, err := k.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer transport.Close()
			sent, err := transport.Send(tt.m)
			if err != nil || sent.Header.Sequence != 1 {
				t.Fatalf("Send gives sequence number %d, error %v", sent.Header.Sequence, err)
			}
			b := make([]byte, 100)
			n, err := transport.Receive(b)
			if err != nil {
				t.Fatal(err)
			}
			if want := diagtest.Error(1, unix.EINVAL); !slices.Equal(b[:n], want) {
				t.Errorf("answered %v, want %v", b[:n], want)
			}
			if len(k.Requests()) != 0 {
				t.Errorf("counts as a request: %+v", k.Requests())
			}
		})
	}
}

func TestMessagesAreAsOnTheWire(t *testing.T) {
	native := func(words ...any) (b []byte) {
		for _, w := range words {
			b, _ = binary.Append(b, binary.NativeEndian, w)
		}
		return b
	}
	for _, tt := range []struct {
		name      string
		got, want []byte
	}{
		{"message", diagtest.Message(20, 2, 3, []byte{4}),
			native(uint32(17), uint16(20), uint16(2), uint32(3), uint32(0), []byte{4, 0, 0, 0})},
		{"attribute", diagtest.Attribute(11, []byte{1, 2, 3, 4, 5}),
			native(uint16(9), uint16(11), []byte{1, 2, 3, 4, 5, 0, 0, 0})},
		{"done", diagtest.Done(7, 0), native(uint32(20), uint16(3), uint16(2), uint32(7), uint32(0), int32(0))},
		{"done with an errno", diagtest.Done(7, unix.ENOENT),
			native(uint32(20), uint16(3), uint16(2), uint32(7), uint32(0), int32(-2))},
		{"error", diagtest.Error(7, unix.EPERM),
			native(uint32(36), uint16(2), uint16(0), uint32(7), uint32(0), int32(-1), make([]byte, 16))},
		{"interrupted", diagtest.Interrupted(diagtest.Done(7, 0)),
			native(uint32(20), uint16(3), uint16(2|16), uint32(7), uint32(0), int32(0))},
	} {
		if !slices.Equal(tt.got, tt.want) {
			t.Errorf("%s is %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}
