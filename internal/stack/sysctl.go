package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/sock"
)

// sysctls are the files of /proc/sys/net/ipv4 of one network namespace.
//
// Each path through /proc/sys/net takes a time that grows with the number of network namespaces: the
// kernel keeps the "net" of all of them in one hash chain, and compares one after the other
// (proc_sys_compare). With 500 namespaces that was half of what a scrape cost. So the folder is opened
// once, and its files below it, without what os.File adds: these files can be polled, so it would tell epoll of each.
type sysctls struct{ folder int }

// openSysctls opens those of the calling thread's network namespace.
func (r *Reader) openSysctls() (sysctls, error) {
	folder, err := unix.Open(filepath.Join(r.path, "sys/net/ipv4"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return sysctls{}, fmt.Errorf("read sysctls: %w", err)
	}
	return sysctls{folder}, nil
}

func (s sysctls) close() { _ = unix.Close(s.folder) }

// read reads a file. A read at an offset other than 0 returns end of file where proc_do_large_bitmap makes the
// text, so what does not fit in the first read is lost without an error. Only a read that does not fill its buffer
// is complete.
func (s sysctls) read(name string) (string, error) {
	fd, err := unix.Openat(s.folder, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()

	// The longest list of ports, every second one, takes 192 KiB.
	for size := 4 << 10; size <= 1<<20; size *= 16 {
		b := make([]byte, size)
		n, err := unix.Pread(fd, b, 0)
		if err != nil {
			return "", err
		}
		if n < len(b) {
			return string(b[:n]), nil
		}
	}
	return "", errors.New("longer than any list of ports")
}

// numbers returns the n numbers of a file. None may be negative. want says in an error what they are.
func (s sysctls) numbers(name string, n int, want string) ([]uint64, error) {
	text, err := s.read(name)
	if err != nil {
		return nil, fmt.Errorf("read net.ipv4.%s: %w", name, err)
	}
	var numbers []uint64
	for field := range strings.FieldsSeq(text) {
		number, err := strconv.ParseUint(field, 10, 63)
		if err != nil {
			numbers = nil
			break
		}
		numbers = append(numbers, number)
	}
	if len(numbers) != n {
		return nil, fmt.Errorf("read net.ipv4.%s: got %q, want %s", name, strings.TrimSpace(text), want)
	}
	return numbers, nil
}

func (s sysctls) readTimeWaitLimit(stats *Stats) error {
	// The kernel accepts a negative number, which means no limit: it compares unsigned
	// (inet_twsk_alloc).
	v, err := s.numbers("tcp_max_tw_buckets", 1, "one number, 0 or more")
	if err == nil {
		stats.TimeWaitLimit = known(v[0])
	}
	return err
}

// readHostLimits reads the limits of the host, which only the initial network namespace has.
func (s sysctls) readHostLimits(stats *Stats) error {
	page := uint64(os.Getpagesize())
	pages, err := s.numbers("tcp_mem", 3, "three numbers, 0 or more")
	if err == nil {
		stats.MemoryPressure, stats.MemoryLimit = known(pages[1]*page), known(pages[2]*page)
	}
	orphans, orphansErr := s.numbers("tcp_max_orphans", 1, "one number, 0 or more")
	if orphansErr == nil {
		stats.OrphansLimit = known(orphans[0])
	}
	return errors.Join(unlessMissing(err), unlessMissing(orphansErr))
}

func unlessMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s sysctls) readEphemeralPorts(stats *Stats) error {
	local, err := s.localPorts()
	if err != nil {
		return err
	}
	stats.LocalPorts = local
	reserved, err := s.reservedPorts()
	if err != nil {
		return err
	}
	stats.EphemeralPorts = known(uint64(countUnreserved(portRange{int(local.First), int(local.Last)}, reserved)))
	return nil
}

func (s sysctls) localPorts() (sock.PortRange, error) {
	const name, want = "ip_local_port_range", "two ports, the lower first"
	v, err := s.numbers(name, 2, want)
	if err == nil && (v[0] > v[1] || v[1] > 65535) {
		err = fmt.Errorf("read net.ipv4.%s: got %v, want %s", name, v, want)
	}
	if err != nil {
		return sock.PortRange{}, err
	}
	return sock.PortRange{First: uint16(v[0]), Last: uint16(v[1])}, nil
}

func (s sysctls) reservedPorts() ([]portRange, error) {
	const name = "ip_local_reserved_ports"
	text, err := s.read(name)
	if err != nil {
		return nil, fmt.Errorf("read net.ipv4.%s: %w", name, err)
	}
	reserved, err := parsePortRanges(text)
	if err != nil {
		return nil, fmt.Errorf("read net.ipv4.%s: %w", name, err)
	}
	return reserved, nil
}

// ReservedPorts returns net.ipv4.ip_local_reserved_ports of the calling thread's network namespace, in
// any order.
func (r *Reader) ReservedPorts() ([]sock.PortRange, error) {
	ipv4, err := r.openSysctls()
	if err != nil {
		return nil, err
	}
	defer ipv4.close()
	reserved, err := ipv4.reservedPorts()
	ranges := make([]sock.PortRange, len(reserved))
	for i, p := range reserved {
		ranges[i] = sock.PortRange{First: uint16(p.first), Last: uint16(p.last)}
	}
	return ranges, err
}

// LocalPorts returns the first and the last port of net.ipv4.ip_local_port_range of the calling
// thread's network namespace.
func (r *Reader) LocalPorts() (first, last uint16, err error) {
	ipv4, err := r.openSysctls()
	if err != nil {
		return 0, 0, err
	}
	defer ipv4.close()
	local, err := ipv4.localPorts()
	return local.First, local.Last, err
}
