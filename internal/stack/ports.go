package stack

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sockstate_exporter/internal/sock"
)

// A portRange is the ports from first to last, both included.
type portRange struct {
	first, last int
}

// ReservedPorts returns net.ipv4.ip_local_reserved_ports of the calling thread's network namespace, in
// any order.
func (r *Reader) ReservedPorts() ([]sock.PortRange, error) {
	reserved, err := r.reservedPorts()
	ranges := make([]sock.PortRange, len(reserved))
	for i, p := range reserved {
		ranges[i] = sock.PortRange{First: uint16(p.first), Last: uint16(p.last)}
	}
	return ranges, err
}

// LocalPorts returns the first and the last port of net.ipv4.ip_local_port_range of the calling
// thread's network namespace.
func (r *Reader) LocalPorts() (first, last uint16, err error) {
	const sysctl = "net.ipv4.ip_local_port_range"
	v, err := r.proc.SysctlInts(sysctl)
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", sysctl, err)
	}
	if len(v) != 2 || v[0] < 0 || v[0] > v[1] || v[1] > 65535 {
		return 0, 0, fmt.Errorf("read %s: got %v, want two ports, the lower first", sysctl, v)
	}
	return uint16(v[0]), uint16(v[1]), nil
}

func (r *Reader) readEphemeralPorts(s *Stats) error {
	first, last, err := r.LocalPorts()
	if err != nil {
		return err
	}
	reserved, err := r.reservedPorts()
	if err != nil {
		return err
	}
	s.EphemeralPorts = known(uint64(countUnreserved(portRange{int(first), int(last)}, reserved)))
	return nil
}

func (r *Reader) reservedPorts() ([]portRange, error) {
	const sysctl = "net.ipv4.ip_local_reserved_ports"

	// procfs.FS.SysctlStrings does not do: it reads only 128 bytes.
	text, err := readSysctlBitmap(filepath.Join(r.path, "sys/net/ipv4/ip_local_reserved_ports"))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", sysctl, err)
	}
	reserved, err := parsePortRanges(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", sysctl, err)
	}
	return reserved, nil
}

// readSysctlBitmap reads a file of proc_do_large_bitmap. A read at an offset other than 0 returns
// end of file there, so what does not fit in the first read is lost without an error. os.ReadFile
// stops after 512 bytes. Only a read that does not fill its buffer is complete.
func readSysctlBitmap(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()

	// The longest list, every second port, takes 192 KiB.
	for size := 4 << 10; size <= 1<<20; size *= 16 {
		b := make([]byte, size)
		n, err := f.Read(b)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if n < len(b) {
			return string(b[:n]), nil
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("%s: longer than any list of ports", path)
}

// parsePortRanges reads a list such as "8080,9000-9100", which may be empty.
func parsePortRanges(text string) ([]portRange, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	var ranges []portRange
	for item := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(item, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("got %q, want a port or a range of ports", item)
		}
		ranges = append(ranges, portRange{int(a), int(b)})
	}
	return ranges, nil
}

// countUnreserved returns how many ports of all are in no range of reserved. Those ranges may
// overlap, and may lie outside all.
func countUnreserved(all portRange, reserved []portRange) int {
	slices.SortFunc(reserved, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })

	n := all.last - all.first + 1
	next := all.first // lowest port that is not checked against the ranges yet
	for _, r := range reserved {
		first, last := max(r.first, next), min(r.last, all.last)
		if first <= last {
			n -= last - first + 1
			next = last + 1
		}
	}
	return n
}
