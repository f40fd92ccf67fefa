//go:build linux

package bindtrace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace/slots"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// Bits of the flags byte of an event in bindtrace.c.
const (
	flagReuseAddr = 1 << iota
	flagReusePort
	flagV6Only
	flagPortKnown
	flagOwnRange
	flagCaptured
	flagCapturedAll
	flagPrivilegeLacked
)

// An Event is one failed call.
type Event struct {
	Time     time.Time // when the call returned, by the wall clock at the time of Read
	PID, TID uint32    // in the initial pid namespace
	UID      uint32    // in the initial user namespace
	User     uint32    // UID, or in a user namespace that of the user who made the outermost one
	CgroupID uint64    // inode number in the cgroup v2 hierarchy

	// Process is the name of the process, which may have ended: any bytes. The kernel cuts names at 15
	// bytes. A longer one is the executable's.
	Process string
	Started time.Duration // when the process started, after boot

	Netns    uint32 // inode number of the socket's network namespace, watched or not
	Op       Op
	Family   sock.Family // of the socket
	Protocol sock.Protocol
	Errno    unix.Errno

	PortKnown bool       // the call carried an address and port
	Port      uint16     // that the caller asked for; listen: that the socket is bound to; connect: of the destination
	OwnRange  bool       // bind to port 0, or connect: the socket has a range of its own (IP_LOCAL_PORT_RANGE) without a free port
	Addr      netip.Addr // invalid unless PortKnown; the zone is the interface index

	Ifindex              int // device that the socket is bound to; 0: none
	ReuseAddr, ReusePort bool
	V6Only               bool

	// UnprivilegedStart is net.ipv4.ip_unprivileged_port_start of the socket's network namespace, and
	// PrivilegeLacked says that the caller had no CAP_NET_BIND_SERVICE there. They are for bind that
	// returned EACCES. UnprivilegedStart is negative where it is not known, and for all others.
	UnprivilegedStart int
	PrivilegeLacked   bool

	// Blockers are sockets on the port that were in the way when bind or listen returned EADDRINUSE
	// (TCP, MPTCP and UDP, not port 0): at most 8, listeners and UDP sockets that are not connected first. Captured says whether they are all.
	Blockers []Blocker
	Captured Capture
}

// text returns what is before the first 0.
func text(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

var (
	errEventSize   = errors.New("record of unexpected size")
	errEventNumber = errors.New("unknown number")
)

// decode decodes a record of the ring: struct event of bindtrace.c in native byte order, and the
// blockers. bootWall is the wall-clock time of boot, tick the unit of the kernel's timers.
func (e *Event) decode(record []byte, bootWall time.Time, tick time.Duration) error {
	var raw bpfEvent
	n, err := binary.Decode(record, binary.NativeEndian, &raw)
	if err != nil {
		return fmt.Errorf("decode event: %w: %d bytes", errEventSize, len(record))
	}
	if raw.Family >= slots.FamilyCount || raw.Protocol >= slots.ProtocolCount {
		return fmt.Errorf("decode event: %w: family %d, protocol %d", errEventNumber, raw.Family, raw.Protocol)
	}
	*e = Event{
		Time:      bootWall.Add(time.Duration(raw.BootNs)),
		PID:       raw.Pid,
		TID:       raw.Tid,
		UID:       raw.Uid,
		User:      raw.User,
		CgroupID:  raw.CgroupId,
		Process:   linux.Uncut(text(raw.Comm[:]), text(raw.Exe[:])),
		Started:   time.Duration(raw.StartedNs),
		Netns:     raw.Netns,
		Op:        Op(raw.Op),
		Family:    slots.Families()[raw.Family],
		Protocol:  slots.Protocols()[raw.Protocol],
		Errno:     unix.Errno(raw.Error),
		PortKnown: raw.Flags&flagPortKnown != 0,
		Port:      raw.Port,
		OwnRange:  raw.Flags&flagOwnRange != 0,
		Ifindex:   int(raw.Ifindex),
		ReuseAddr: raw.Flags&flagReuseAddr != 0,
		ReusePort: raw.Flags&flagReusePort != 0,
		V6Only:    raw.Flags&flagV6Only != 0,

		UnprivilegedStart: int(raw.UnprivilegedStart),
		PrivilegeLacked:   raw.Flags&flagPrivilegeLacked != 0,
	}
	switch raw.AddrFamily {
	case unix.AF_INET:
		e.Addr = netip.AddrFrom4([4]byte(raw.Addr[:4]))
	case unix.AF_INET6:
		e.Addr = netip.AddrFrom16(raw.Addr)
		if raw.ScopeId != 0 {
			e.Addr = e.Addr.WithZone(strconv.FormatUint(uint64(raw.ScopeId), 10))
		}
	}
	return e.decodeBlockers(raw.Flags, record[n:], tick)
}
