//go:build linux

package bindtrace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/sock"
)

func TestSlotsAreAsLargeAsTheKernels(t *testing.T) {
	if words := len(bpfSlot{}.Counts); slotSize != binary.Size(bpfSlot{}) || slots.SlotCounts > words {
		t.Errorf("slots of %d bytes with %d counts, want %d and at most %d", slotSize, slots.SlotCounts, binary.Size(bpfSlot{}), words)
	}
}

func TestDecodeEvent(t *testing.T) {
	raw := bpfEvent{
		BootNs: 5e9, CgroupId: 7, Pid: 10, Tid: 11, Uid: 1000, User: 1001, Netns: 4026531840, Ifindex: 3, ScopeId: 2,
		Error: uint32(unix.EADDRINUSE), Port: 4840, AddrFamily: unix.AF_INET6,
		Op: uint8(OpListen), Family: 1, Protocol: 3, // FAMILY_IPV6, PROTO_MPTCP
		Flags: flagReusePort | flagV6Only | flagPortKnown | flagOwnRange,
		Addr:  netip.MustParseAddr("fe80::1").As16(),
		Comm:  [16]uint8{'n', 'g', 'i', 'n', 'x'},
	}
	boot := time.Unix(1000, 0)
	want := Event{
		Time: boot.Add(5 * time.Second), PID: 10, TID: 11, UID: 1000, User: 1001, Comm: raw.Comm, CgroupID: 7,
		Netns: 4026531840, Op: OpListen, Family: sock.FamilyIPv6, Protocol: sock.MPTCP, Errno: unix.EADDRINUSE,
		PortKnown: true, OwnRange: true, Port: 4840, Addr: netip.MustParseAddr("fe80::1%2"), Ifindex: 3,
		ReusePort: true, V6Only: true,
	}
	record, err := binary.Append(nil, binary.NativeEndian, &raw)
	if err != nil {
		t.Fatal(err)
	}
	var got Event
	if err := got.decode(record, boot); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("decoded\n%+v, want\n%+v", got, want)
	}
	if got.Command() != "nginx" {
		t.Errorf("command %q, want nginx", got.Command())
	}
	for _, bad := range [][]byte{nil, record[:len(record)-1], append(record, 0)} {
		if err := got.decode(bad, boot); !errors.Is(err, errEventSize) {
			t.Errorf("decode of %d bytes: want %v, got %v", len(bad), errEventSize, err)
		}
	}
	for _, bad := range []bpfEvent{{Family: slots.FamilyCount}, {Protocol: slots.ProtocolCount}} {
		record, err := binary.Append(nil, binary.NativeEndian, &bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.decode(record, boot); !errors.Is(err, errEventNumber) {
			t.Errorf("family %d, protocol %d: want %v, got %v", bad.Family, bad.Protocol, errEventNumber, err)
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
