package netlinkdiag_test

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

const (
	sizeofHeader = 16 // struct nlmsghdr
	sizeofMsg    = 72 // struct inet_diag_msg
)

// capturedMessages reads testdata/messages.txt.
func capturedMessages(t testing.TB) map[string][]byte {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		kerneltest.Skip(t, "the messages were captured on a little-endian machine")
	}
	f, err := os.Open("testdata/messages.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	messages := make(map[string][]byte)
	var name string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "", line[0] == '#':
		case line[0] == '[':
			name = strings.Trim(line, "[]")
		default:
			b, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
			if err != nil {
				t.Fatalf("messages.txt: %s: %v", name, err)
			}
			messages[name] = append(messages[name], b...)
		}
	}
	return messages
}

// decode answers a request with sequence number 1 with the datagrams.
func decode(t testing.TB, datagrams ...[]byte) ([]netlinkdiag.Socket, error) {
	t.Helper()
	var answer []diagtest.Datagram
	for _, d := range datagrams {
		answer = append(answer, diagtest.Datagram{Data: d})
	}
	k := &diagtest.Kernel{Answer: func(diagtest.Request) []diagtest.Datagram { return answer }}
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: k.Open, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return collect(c.Dump(noContext, netlinkdiag.Request{Family: netlinkdiag.FamilyIPv4}))
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// captures says what was captured: how the sockets were made, and the cookies and inodes
// that SO_COOKIE and fstat(2) returned where there was a descriptor.
var captures = []struct {
	name       string
	attributes []int // their lengths, in the order they are in
	want       netlinkdiag.Socket
}{
	{"listen_v4", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateListen,
		Local: addr("127.0.0.1:4840"), Remote: addr("0.0.0.0:0"), Cookie: 917833, Inode: 15794498,
		RQueue: 2, WQueue: 7,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384},
	}},
	{"listen_v6only", []int{5, 5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateListen,
		Local: addr("[::1]:4841"), Remote: addr("[::]:0"), Cookie: 917834, Inode: 15794501,
		WQueue: 5, V6Only: true,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384},
	}},
	{"listen_dual_stack", []int{5, 5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateListen,
		Local: addr("[::]:4842"), Remote: addr("[::]:0"), Cookie: 917835, Inode: 15748999,
		WQueue: 6,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384},
	}},
	{"listen_on_device", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateListen, Ifindex: 3,
		Local: addr("0.0.0.0:4846"), Remote: addr("0.0.0.0:0"), Cookie: 917836, Inode: 15749001,
		WQueue: 1024,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384},
	}},
	{"listen_v6only_without_skmeminfo", []int{5, 5, 8, 12, 6}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateListen,
		Local: addr("[::1]:4841"), Remote: addr("[::]:0"), Cookie: 917834, Inode: 15794501,
		WQueue: 5, V6Only: true,
	}},
	{"bound_v4", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateClose,
		Local: addr("127.0.0.1:4843"), Remote: addr("0.0.0.0:0"), Cookie: 917837, Inode: 15749000,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384},
	}},
	{"bound_v6only", []int{5, 5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateClose, V6Only: true,
		Local: addr("[::1]:4844"), Remote: addr("[::]:0"), Cookie: 917838, Inode: 15794502,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384},
	}},
	{"syn_sent", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateSynSent,
		Timer: netlinkdiag.TimerRetransmit, Expires: 32 * time.Millisecond,
		Local: addr("127.0.0.3:41812"), Remote: addr("127.0.0.1:4845"), Cookie: 917845, Inode: 15749003,
		WQueue: 1, // the SYN
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 16384,
			FwdAlloc: 3264, WmemQueued: 832, Optmem: 136, Drops: 1}, // Deafen's filter, a lost SYN-ACK
	}},
	{"syn_recv", []int{8}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateSynRecv,
		Timer: netlinkdiag.TimerRetransmit, Retransmits: 2, Expires: 1972 * time.Millisecond,
		Local: addr("127.0.0.1:4845"), Remote: addr("127.0.0.3:41812"), Cookie: 917847,
	}},
	{"established", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateEstablished,
		Local: addr("127.0.0.1:4845"), Remote: addr("127.0.0.2:40392"), Cookie: 917839, Inode: 15749002,
		RQueue: 5, // "hello"
		HasMem: true, Mem: netlinkdiag.MemInfo{RmemAlloc: 837, Rcvbuf: 131072, Sndbuf: 3939840, FwdAlloc: 3259},
	}},
	{"in_accept_queue", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateEstablished,
		Local: addr("127.0.0.1:4840"), Remote: addr("127.0.0.9:55322"), Cookie: 981645,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 3939840},
	}},
	{"fin_wait1", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateFinWait1,
		Timer: netlinkdiag.TimerRetransmit, Retransmits: 1, Expires: 172 * time.Millisecond,
		Local: addr("127.0.0.1:4845"), Remote: addr("127.0.0.5:39028"), Cookie: 917841, Inode: 15807210,
		WQueue: 1, // the FIN
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 131072, Sndbuf: 3939840, FwdAlloc: 3264, WmemQueued: 832},
	}},
	{"close_wait_v4_mapped", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateCloseWait,
		Local: addr("[::ffff:127.0.0.1]:4842"), Remote: addr("[::ffff:127.0.0.4]:39988"), Cookie: 917840, Inode: 15807208,
		RQueue: 1, // the FIN
		HasMem: true, Mem: netlinkdiag.MemInfo{RmemAlloc: 832, Rcvbuf: 131072, Sndbuf: 3939840, FwdAlloc: 3264},
	}},
	{"time_wait_v4", []int{8}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateTimeWait,
		Timer: netlinkdiag.TimerTimeWait, Expires: 59280 * time.Millisecond,
		Local: addr("127.0.0.1:4845"), Remote: addr("127.0.0.6:53374"), Cookie: 917848,
	}},
	{"time_wait_v6", []int{8}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateTimeWait,
		Timer: netlinkdiag.TimerTimeWait, Expires: 59432 * time.Millisecond,
		Local: addr("[::1]:4842"), Remote: addr("[::1]:53160"), Cookie: 981644,
	}},
	{"fin_wait2_in_time_wait", []int{8}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateFinWait2,
		Timer: netlinkdiag.TimerTimeWait, Expires: 59840 * time.Millisecond,
		Local: addr("127.0.0.1:4845"), Remote: addr("127.0.0.7:54250"), Cookie: 917850,
	}},
	{"udp_v4", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv4, State: netlinkdiag.StateClose,
		Local: addr("127.0.0.1:4847"), Remote: addr("0.0.0.0:0"), Cookie: 917842, Inode: 15828653,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 212992, Sndbuf: 212992},
	}},
	{"udp_v6_connected", []int{5, 8, 12, 6, 40}, netlinkdiag.Socket{
		Family: netlinkdiag.FamilyIPv6, State: netlinkdiag.StateEstablished,
		Local: addr("[::1]:4848"), Remote: addr("[::1]:53"), Cookie: 917843, Inode: 15812024,
		HasMem: true, Mem: netlinkdiag.MemInfo{Rcvbuf: 212992, Sndbuf: 212992},
	}},
}

func TestDecodeCapturedMessages(t *testing.T) {
	messages := capturedMessages(t)
	for _, tt := range captures {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decode(t, messages[tt.name], messages["done"])
			if err != nil {
				t.Fatal(err)
			}
			if want := []netlinkdiag.Socket{tt.want}; !slices.Equal(got, want) {
				t.Errorf("decoded to\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestDecodeManyMessagesInOneDatagram(t *testing.T) {
	messages := capturedMessages(t)
	var datagram []byte
	var want []netlinkdiag.Socket
	for _, tt := range captures {
		datagram = append(datagram, messages[tt.name]...)
		want = append(want, tt.want)
	}
	got, err := decode(t, append(datagram, messages["done"]...))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("decoded to\n%+v, error %v; want\n%+v", got, err, want)
	}
}

// requireDecodeError checks that err is a decode error with exactly this cause.
func requireDecodeError(t testing.TB, err error, want netlinkdiag.MessageError) {
	t.Helper()
	wantErr := &netlinkdiag.Error{
		Op: "decode", Protocol: netlinkdiag.ProtocolTCP, Family: netlinkdiag.FamilyIPv4, Err: &want,
	}
	if !reflect.DeepEqual(err, error(wantErr)) {
		t.Fatalf("error is %v, want %v", err, wantErr)
	}
}

// A datagram can end at any byte.
func TestDecodeDatagramCutShort(t *testing.T) {
	messages := capturedMessages(t)
	for name, m := range messages {
		t.Run(name, func(t *testing.T) {
			for n := 1; n < len(m); n++ {
				_, err := decode(t, m[:n])
				if n < sizeofHeader {
					requireDecodeError(t, err, netlinkdiag.MessageError{Reason: "header truncated", Len: n, Want: sizeofHeader})
				} else {
					requireDecodeError(t, err, netlinkdiag.MessageError{Reason: "message truncated", Len: n, Want: len(m)})
				}
			}
		})
	}
}

// cutShort returns the error of a message of n bytes: nil where an attribute ends, or the
// padding after it.
func cutShort(n int, attributes []int) *netlinkdiag.MessageError {
	if n < sizeofHeader {
		return &netlinkdiag.MessageError{Reason: "length less than a header", Len: n, Want: sizeofHeader}
	}
	if n -= sizeofHeader; n < sizeofMsg {
		return &netlinkdiag.MessageError{Reason: "inet_diag_msg truncated", Len: n, Want: sizeofMsg}
	}
	n -= sizeofMsg
	for _, size := range attributes {
		switch {
		case n <= 0:
			return nil
		case n < 4:
			return &netlinkdiag.MessageError{Reason: "attribute header truncated", Len: n, Want: 4}
		case n < size:
			return &netlinkdiag.MessageError{Reason: "attribute truncated", Len: n, Want: size}
		}
		n -= (size + 3) / 4 * 4
	}
	return nil
}

// A message can end at any byte, with that length in its header.
func TestDecodeMessageCutShort(t *testing.T) {
	messages := capturedMessages(t)
	for _, tt := range captures {
		t.Run(tt.name, func(t *testing.T) {
			whole := messages[tt.name]
			for n := range len(whole) {
				// The padding stays: it belongs to the datagram.
				m := slices.Clone(whole[:(n+3)/4*4])
				if len(m) < sizeofHeader {
					m = slices.Clone(whole[:sizeofHeader])
				}
				binary.NativeEndian.PutUint32(m, uint32(n))
				got, err := decode(t, m, messages["done"])
				if want := cutShort(n, tt.attributes); want != nil {
					requireDecodeError(t, err, *want)
					continue
				}
				if err != nil || len(got) != 1 || got[0].Local != tt.want.Local || got[0].Cookie != tt.want.Cookie {
					t.Fatalf("cut between attributes, at %d: %+v, error %v; want the socket", n, got, err)
				}
			}
		})
	}
}

// with returns a captured message with other bytes at the offset.
func with(message []byte, offset int, b ...byte) []byte {
	message = slices.Clone(message)
	copy(message[offset:], b)
	return message
}

// withAttribute is the listener without SKMEMINFO and one attribute more.
func withAttribute(message []byte, attribute []byte) []byte {
	message = append(slices.Clone(message), attribute...)
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	return message
}

func TestDecodeMalformedMessage(t *testing.T) {
	messages := capturedMessages(t)
	v4, v6 := messages["time_wait_v4"], messages["listen_v6only_without_skmeminfo"]
	const family, state, attributes = sizeofHeader, sizeofHeader + 1, sizeofHeader + sizeofMsg
	for _, tt := range []struct {
		name    string
		message []byte
		want    netlinkdiag.MessageError
	}{
		{"state 0", with(v4, state, 0), netlinkdiag.MessageError{Reason: "unknown state 0"}},
		{"state 12", with(v4, state, 12), netlinkdiag.MessageError{Reason: "unknown state 12"}},
		{"state 13", with(v4, state, 13), netlinkdiag.MessageError{Reason: "unknown state 13"}},
		{"state 255", with(v4, state, 255), netlinkdiag.MessageError{Reason: "unknown state 255"}},
		{"family 0", with(v4, family, 0), netlinkdiag.MessageError{Reason: "unknown family 0"}},
		{"family 3", with(v4, family, 3), netlinkdiag.MessageError{Reason: "unknown family 3"}},
		{"attribute of length 0", with(v4, attributes, 0, 0),
			netlinkdiag.MessageError{Reason: "attribute truncated", Len: 8, Want: 4}},
		{"attribute of length 3", with(v4, attributes, 3, 0),
			netlinkdiag.MessageError{Reason: "attribute truncated", Len: 8, Want: 4}},
		{"attribute of length 65535", with(v4, attributes, 255, 255),
			netlinkdiag.MessageError{Reason: "attribute truncated", Len: 8, Want: 65535}},
		{"short INET_DIAG_SKMEMINFO", withAttribute(v6, diagtest.Attribute(7, make([]byte, 35))),
			netlinkdiag.MessageError{Reason: "INET_DIAG_SKMEMINFO truncated", Len: 35, Want: 36}},
		{"empty INET_DIAG_SKV6ONLY", withAttribute(v4, diagtest.Attribute(11, nil)),
			netlinkdiag.MessageError{Reason: "INET_DIAG_SKV6ONLY truncated", Len: 0, Want: 1}},
		{"message of length 2 GiB", with(v4, 0, 255, 255, 255, 127),
			netlinkdiag.MessageError{Reason: "message truncated", Len: len(v4), Want: math.MaxInt32}},
		{"another sequence number", with(v4, 8, 2),
			netlinkdiag.MessageError{Reason: "sequence number 2, want 1"}},
		{"unknown type", with(v4, 4, 21), netlinkdiag.MessageError{Reason: "unknown type 21"}},
		{"done without its code", diagtest.Message(unix.NLMSG_DONE, 0, 1, []byte{0, 0, 0}),
			netlinkdiag.MessageError{Reason: "error code truncated", Len: 3, Want: 4}},
		{"error without its code", diagtest.Message(unix.NLMSG_ERROR, 0, 1, nil),
			netlinkdiag.MessageError{Reason: "error code truncated", Len: 0, Want: 4}},
		{"positive error code", diagtest.Message(unix.NLMSG_ERROR, 0, 1, []byte{2, 0, 0, 0}),
			netlinkdiag.MessageError{Reason: "error code out of range"}},
		{"error code that is no errno", diagtest.Message(unix.NLMSG_DONE, 0, 1, []byte{0, 0xf0, 0xff, 0xff}),
			netlinkdiag.MessageError{Reason: "error code out of range"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sockets, err := decode(t, tt.message, messages["done"])
			requireDecodeError(t, err, tt.want)
			if len(sockets) != 0 {
				t.Errorf("yielded %+v", sockets)
			}
		})
	}
}

// Later kernels append fields to their messages.
func TestDecodeMessageOfANewerKernel(t *testing.T) {
	messages := capturedMessages(t)
	listener := messages["listen_v6only_without_skmeminfo"]
	mem := make([]byte, 10*4)
	mem[8*4] = 9
	const nested, netByteOrder = 1 << 15, 1 << 14 // NLA_F_*
	for _, tt := range []struct {
		name      string
		attribute []byte
		drops     uint32
	}{
		{"unknown attribute", diagtest.Attribute(200, mem), 0},
		{"more SK_MEMINFO", diagtest.Attribute(7, mem), 9},
		{"flags on the type", diagtest.Attribute(7|nested|netByteOrder, mem), 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decode(t, withAttribute(listener, tt.attribute), messages["done"])
			if err != nil || len(got) != 1 || got[0].Mem.Drops != tt.drops || got[0].HasMem != (tt.drops > 0) || !got[0].V6Only {
				t.Errorf("decoded to %+v, error %v; want the listener with %d drops", got, err, tt.drops)
			}
		})
	}
}

func TestDecodePassesOverNoopAndAck(t *testing.T) {
	messages := capturedMessages(t)
	got, err := decode(t,
		diagtest.Message(unix.NLMSG_NOOP, 0, 1, nil), nil, diagtest.Error(1, 0), messages["time_wait_v4"], messages["done"])
	if err != nil || len(got) != 1 {
		t.Errorf("decoded to %+v, error %v; want one socket", got, err)
	}
}

func TestMessageErrorText(t *testing.T) {
	for _, tt := range []struct {
		err  netlinkdiag.MessageError
		want string
	}{
		{netlinkdiag.MessageError{Reason: "unknown type 9"}, "malformed netlink message: unknown type 9"},
		{netlinkdiag.MessageError{Reason: "header truncated", Len: 3, Want: 16},
			"malformed netlink message: header truncated: 3 bytes, want 16"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("text is %q, want %q", got, tt.want)
		}
	}
}

// FuzzDecode checks that any datagram yields valid sockets, or an error that says what is
// wrong.
func FuzzDecode(f *testing.F) {
	messages := capturedMessages(f)
	var all []byte
	for _, tt := range captures {
		f.Add(messages[tt.name])
		all = append(all, messages[tt.name]...)
	}
	f.Add(append(all, messages["done"]...))
	f.Add(diagtest.Error(1, unix.ENOENT))
	f.Add(diagtest.Done(1, unix.EOPNOTSUPP))
	f.Add(diagtest.Interrupted(slices.Clone(messages["done"])))
	f.Add(diagtest.Message(unix.NLMSG_OVERRUN, 0, 1, nil))
	f.Add(diagtest.Message(unix.NLMSG_NOOP, 0, 1, nil))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		sockets, err := decode(t, datagram, diagtest.Done(1, 0))
		if err != nil {
			requireKnownError(t, err)
		}
		if most := len(datagram) / (sizeofHeader + sizeofMsg); len(sockets) > most {
			t.Errorf("%d sockets out of %d bytes", len(sockets), len(datagram))
		}
		for _, s := range sockets {
			if err := sound(s); err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
			s.V6Only = s.V6Only && reportsV6Only(s)
			again, err := decode(t, diagtest.Socket(diagtest.Request{
				Type: unix.SOCK_DIAG_BY_FAMILY, Sequence: 1, Extensions: netlinkdiag.ExtensionSKMemInfo,
			}, s), diagtest.Done(1, 0))
			if err != nil || !slices.Equal(again, []netlinkdiag.Socket{s}) {
				t.Fatalf("%+v is encoded and decoded to %+v, error %v", s, again, err)
			}
		}
	})
}

func reportsV6Only(s netlinkdiag.Socket) bool {
	return s.Family == netlinkdiag.FamilyIPv6 &&
		(s.State == netlinkdiag.StateListen || s.State == netlinkdiag.StateClose)
}

// sound says whether the values of a socket are in the documented ranges.
func sound(s netlinkdiag.Socket) error {
	switch is4 := s.Family == netlinkdiag.FamilyIPv4; {
	case !is4 && s.Family != netlinkdiag.FamilyIPv6:
		return errors.New("family out of range")
	case s.Local.Addr().Is4() != is4, s.Remote.Addr().Is4() != is4:
		return errors.New("an address is not of the family")
	case !s.Local.IsValid(), !s.Remote.IsValid():
		return errors.New("an address is not valid")
	case s.State < netlinkdiag.StateEstablished, s.State > netlinkdiag.StateClosing:
		return errors.New("state out of range")
	case s.Expires < 0, s.Expires > math.MaxUint32*time.Millisecond, s.Expires%time.Millisecond != 0:
		return errors.New("expires out of range")
	case !s.HasMem && s.Mem != netlinkdiag.MemInfo{}:
		return errors.New("memory that was not reported")
	}
	return nil
}

// requireKnownError checks that err is of a documented kind, with the right step.
func requireKnownError(t *testing.T, err error) {
	t.Helper()
	var (
		outer   *netlinkdiag.Error
		message *netlinkdiag.MessageError
		module  *netlinkdiag.ModuleError
		errno   unix.Errno
		op      string
	)
	switch {
	case errors.As(err, &message):
		op = "decode"
	case errors.As(err, &module), errors.As(err, &errno) && errno != unix.ENOBUFS:
		op = "dump"
	case errors.Is(err, netlinkdiag.ErrInterrupted):
		op = "receive"
	case errors.Is(err, unix.ENOBUFS): // of NLMSG_OVERRUN, or the kernel's own answer
		op = "receive dump"
	}
	if !errors.As(err, &outer) || !strings.Contains(op, outer.Op) || outer.Op == "" {
		t.Fatalf("unknown kind of error: %s", fmt.Sprintf("%#v: %v", err, err))
	}
}
