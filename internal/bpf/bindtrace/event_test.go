//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"structs"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bhash"
	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/sock"
)

func TestSlotsAreAsLargeAsTheKernels(t *testing.T) {
	if words := len(bpfSlot{}.Counts); slotSize != binary.Size(bpfSlot{}) || slots.InetCounts > words {
		t.Errorf("slots of %d bytes with %d counts, want %d and at most %d", slotSize, slots.InetCounts, binary.Size(bpfSlot{}), words)
	}
	if want := len(bpfUnixCounts{}.Counts); slots.UnixCounts != want {
		t.Errorf("%d counts of Unix sockets, want %d", slots.UnixCounts, want)
	}
}

func TestDecodeEvent(t *testing.T) {
	raw := bpfEvent{
		BootNs: 5e9, CgroupId: 7, StartedNs: 3e9, Pid: 10, Tid: 11, Uid: 1000, User: 1001, Netns: 4026531840, Ifindex: 3, ScopeId: 2,
		Error: uint32(unix.EADDRINUSE), Port: 4840, AddrFamily: unix.AF_INET6,
		Op: uint8(OpListen), Family: 1, Protocol: 3, // FAMILY_IPV6, PROTO_MPTCP
		Flags: flagReusePort | flagV6Only | flagPortKnown | flagOwnRange | flagPrivilegeLacked, UnprivilegedStart: 8090,
		Addr: netip.MustParseAddr("fe80::1").As16(),
		Comm: [16]uint8([]byte("a-long-program-\x00")),
	}
	copy(raw.Exe[:], "a-long-program-name\x00old")
	boot := time.Unix(1000, 0)
	want := Event{
		Time: boot.Add(5 * time.Second), PID: 10, TID: 11, UID: 1000, User: 1001, CgroupID: 7,
		Process: "a-long-program-name", Started: 3 * time.Second,
		Netns: 4026531840, Op: OpListen, Family: sock.FamilyIPv6, Protocol: sock.MPTCP, Errno: unix.EADDRINUSE,
		PortKnown: true, OwnRange: true, Port: 4840, Addr: netip.MustParseAddr("fe80::1%2"), Ifindex: 3,
		ReusePort: true, V6Only: true, UnprivilegedStart: 8090, PrivilegeLacked: true,
	}
	record, err := binary.Append(nil, binary.NativeEndian, &raw)
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	if err := got.decode(record, boot, time.Second); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decoded\n%+v, want\n%+v", got, want)
	}
	for _, bad := range [][]byte{nil, record[:len(record)-1], append(slices.Clone(record), 0)} {
		if err := got.decode(bad, boot, time.Second); !errors.Is(err, errEventSize) {
			t.Errorf("decode of %d bytes: want %v, got %v", len(bad), errEventSize, err)
		}
	}
	for _, bad := range []bpfEvent{{Family: slots.FamilyCount}, {Protocol: slots.ProtocolCount}} {
		record, err := binary.Append(nil, binary.NativeEndian, &bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.decode(record, boot, time.Second); !errors.Is(err, errEventNumber) {
			t.Errorf("family %d, protocol %d: want %v, got %v", bad.Family, bad.Protocol, errEventNumber, err)
		}
	}
}

// The blockers follow the event.
func TestDecodeBlockers(t *testing.T) {
	type socketRecord = struct {
		_        structs.HostLayout
		Cookie   uint64
		Expires  uint64
		Addr     [4]uint32
		Ifindex  uint32
		Uid      uint32 //nolint:revive // as bpf2go names it
		Port     uint16
		V6       uint8
		State    uint8
		Timewait uint8
		Flags    uint8
		Pad      [2]uint8
	}
	words := func(a netip.Addr) (w [4]uint32) {
		for i := range len(a.AsSlice()) / 4 {
			w[i] = binary.NativeEndian.Uint32(a.AsSlice()[4*i:])
		}
		return w
	}
	connection := bpfBlocker{
		Socket: socketRecord{
			Cookie: 1 << 40, Addr: words(v6lo), Ifindex: 3, Uid: 1000, Port: 4840, V6: 1, State: uint8(sock.StateCloseWait), Flags: 2 | 4,
		},
		Inode: 1 << 33, Peer: words(mapped), PeerPort: 50000, Own: 1,
	}
	timeWait := bpfBlocker{
		Socket: socketRecord{Expires: 7, Addr: words(v4lo), Port: 4840, State: uint8(sock.StateFinWait2), Timewait: 1, Flags: 1},
		Peer:   words(v4lo2), PeerPort: 1,
	}
	want := []Blocker{
		{
			Socket: bhash.Socket{
				Port: 4840, Cookie: 1 << 40, Addr: v6lo, Ifindex: 3, UID: 1000, V6Only: true, State: sock.StateCloseWait,
				ReuseFlags: sock.ReuseFlags{ReusePort: true},
			},
			Inode: 1 << 33, Peer: netip.AddrPortFrom(mapped, 50000), Own: true,
		}, {
			Socket: bhash.Socket{
				Port: 4840, Addr: v4lo, State: sock.StateFinWait2, Kind: sock.KindTimeWait, Expires: 28 * time.Millisecond,
				ReuseFlags: sock.ReuseFlags{ReuseAddr: true},
			},
			Peer: netip.AddrPortFrom(v4lo2, 1),
		},
	}
	encode := func(flags uint8, blockers ...bpfBlocker) []byte {
		record, err := binary.Append(nil, binary.NativeEndian, bpfEvent{Flags: flags})
		for i := range blockers {
			b := blockers[i]
			var more []byte
			more, err = binary.Append(nil, binary.NativeEndian, &b)
			record = append(record, more...)
		}
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	for flags, captured := range map[uint8]Capture{flagCaptured: CaptureSome, flagCaptured | flagCapturedAll: CaptureAll} {
		var got Event
		if err := got.decode(encode(flags, connection, timeWait), time.Time{}, 4*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if got.Captured != captured || !reflect.DeepEqual(got.Blockers, want) {
			t.Errorf("decoded %d,\n%+v, want %d,\n%+v", got.Captured, got.Blockers, captured, want)
		}
	}
	for _, bad := range [][]byte{encode(0, connection)[1:], encode(0, make([]bpfBlocker, bhash.MaxBlockers+1)...)} {
		if err := new(Event).decode(bad, time.Time{}, 1); !errors.Is(err, errEventSize) {
			t.Errorf("decode of %d bytes: want %v, got %v", len(bad), errEventSize, err)
		}
	}
}

func TestOptionsOutOfRange(t *testing.T) {
	for _, o := range []Options{{RingSize: -1}, {RingSize: maxRingSize + 1}, {MaxSlots: -1}, {MaxSlots: MaxSlots + 1}} {
		if err := o.normalize(); !errors.Is(err, errOutOfRange) {
			t.Errorf("%+v: want %v, got %v", o, errOutOfRange, err)
		}
	}
}
