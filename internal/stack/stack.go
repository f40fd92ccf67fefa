package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/prometheus/procfs"
)

// A Value is a number that may be unknown: V means something only if OK.
type Value struct {
	V  uint64
	OK bool
}

func known(v uint64) Value { return Value{V: v, OK: true} }

// Stats is what one network namespace says about TCP, IPv4 and IPv6 together.
// What could not be read is not OK, never 0.
type Stats struct {
	// TimeWait is the TIME_WAIT minisockets there are, from "tw" of
	// /proc/net/sockstat (tcp_death_row.tw_refcount). It counts both families,
	// and the FIN_WAIT2 ones whose process is gone.
	TimeWait Value
	// TimeWaitLimit is net.ipv4.tcp_max_tw_buckets: with that many, the kernel
	// closes connections without TIME_WAIT.
	TimeWaitLimit Value
	// TimeWaitOverflows is how often it did: TcpExt TCPTimeWaitOverflow.
	TimeWaitOverflows Value

	// ListenOverflows is connections refused for a full accept queue: TcpExt
	// ListenOverflows.
	ListenOverflows Value
	// ListenDrops is connections a listener dropped for any reason, overflows
	// included: TcpExt ListenDrops.
	ListenDrops Value

	// EphemeralPorts is the ports of net.ipv4.ip_local_port_range that are not
	// in net.ipv4.ip_local_reserved_ports.
	EphemeralPorts Value
}

// A Reader reads Stats. It may be used by several goroutines at once.
type Reader struct {
	path   string
	proc   procfs.FS
	thread procfs.FS // below thread-self, which the kernel resolves at each open
}

// NewReader returns a Reader of the procfs mounted at path, usually "/proc".
// It fails when there is none, or when it is that of a pid namespace that does
// not hold this process.
func NewReader(path string) (*Reader, error) {
	proc, err := procfs.NewFS(path)
	if err != nil {
		return nil, fmt.Errorf("open procfs: %w", err)
	}
	thread, err := procfs.NewFS(filepath.Join(path, "thread-self"))
	if err != nil {
		return nil, fmt.Errorf("open procfs: %w", err)
	}
	return &Reader{path: path, proc: proc, thread: thread}, nil
}

// Read returns the Stats of the calling thread's network namespace. When a
// part fails, its values are not OK, the error says why (for several parts,
// joined), and the others are good.
func (r *Reader) Read() (Stats, error) {
	// Between two files the goroutine must not move to another thread: that one
	// could be in another namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var s Stats
	err := errors.Join(
		r.readSockstat(&s),
		r.readNetstat(&s),
		r.readTimeWaitLimit(&s),
		r.readEphemeralPorts(&s),
	)
	return s, err
}

func (r *Reader) readSockstat(s *Stats) error {
	stat, err := r.thread.NetSockstat()
	if err != nil {
		return fmt.Errorf("read net/sockstat: %w", err)
	}
	tcp, err := protocol(stat, "TCP")
	if err != nil {
		return fmt.Errorf("read net/sockstat: %w", err)
	}
	if tcp.TW == nil || *tcp.TW < 0 {
		return errors.New("read net/sockstat: no usable \"tw\" in the TCP line")
	}
	s.TimeWait = known(uint64(*tcp.TW))
	return nil
}

// TCPSockets returns how many TCP sockets the kernel counts in the calling thread's network
// namespace: those that listen, connect or are connected (inuse), and those in TIME_WAIT, or in
// FIN_WAIT2 without a process. Half-open connections, and sockets that are bound and nothing
// more, are not among them.
func (r *Reader) TCPSockets() (uint64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	stat, err := r.thread.NetSockstat()
	if err != nil {
		return 0, fmt.Errorf("read net/sockstat: %w", err)
	}
	tcp, err := protocol(stat, "TCP")
	if err != nil {
		return 0, fmt.Errorf("read net/sockstat: %w", err)
	}
	if tcp.InUse < 0 || tcp.TW == nil || *tcp.TW < 0 {
		return 0, errors.New("read net/sockstat: no usable numbers in the TCP line")
	}
	sockets := uint64(tcp.InUse) + uint64(*tcp.TW)
	stat, err = r.thread.NetSockstat6()
	if errors.Is(err, os.ErrNotExist) { // no IPv6
		return sockets, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read net/sockstat6: %w", err)
	}
	tcp6, err := protocol(stat, "TCP6")
	if err != nil {
		return 0, fmt.Errorf("read net/sockstat6: %w", err)
	}
	if tcp6.InUse < 0 {
		return 0, errors.New("read net/sockstat6: no usable numbers in the TCP6 line")
	}
	return sockets + uint64(tcp6.InUse), nil
}

// protocol picks one line out of what was read.
func protocol(stat *procfs.NetSockstat, name string) (procfs.NetSockstatProtocol, error) {
	for _, p := range stat.Protocols {
		if p.Protocol == name {
			return p, nil
		}
	}
	return procfs.NetSockstatProtocol{}, fmt.Errorf("no %s line", name)
}

func (r *Reader) readNetstat(s *Stats) error {
	stat, readErr := r.netstat()
	err := readErr
	if err != nil {
		err = fmt.Errorf("read net/netstat: %w", err)
	}

	for _, c := range []struct {
		name string
		from *float64
		to   *Value
	}{
		{"TCPTimeWaitOverflow", stat.TCPTimeWaitOverflow, &s.TimeWaitOverflows},
		{"ListenOverflows", stat.ListenOverflows, &s.ListenOverflows},
		{"ListenDrops", stat.ListenDrops, &s.ListenDrops},
	} {
		switch {
		// Both comparisons are false for NaN. procfs reads counters as
		// float64, exact up to 2^53.
		case c.from != nil && *c.from >= 0 && *c.from < 1<<64:
			*c.to = known(uint64(*c.from))
		case c.from != nil:
			err = errors.Join(err, fmt.Errorf("read net/netstat: TcpExt %s is %v", c.name, *c.from))
		case readErr == nil:
			err = errors.Join(err, fmt.Errorf("read net/netstat: no TcpExt %s", c.name))
		}
	}
	return err
}

// netstat goes through the thread's number, since procfs.FS has no Netstat.
func (r *Reader) netstat() (procfs.ProcNetstat, error) {
	link, err := os.Readlink(filepath.Join(r.path, "thread-self"))
	if err != nil {
		return procfs.ProcNetstat{}, err
	}
	var pid, tid int
	if _, err := fmt.Sscanf(link, "%d/task/%d", &pid, &tid); err != nil {
		return procfs.ProcNetstat{}, fmt.Errorf("thread-self is %q: %w", link, err)
	}
	thread, err := r.proc.Thread(pid, tid)
	if err != nil {
		return procfs.ProcNetstat{}, err
	}
	return thread.Netstat()
}

func (r *Reader) readTimeWaitLimit(s *Stats) error {
	const sysctl = "net.ipv4.tcp_max_tw_buckets"
	v, err := r.proc.SysctlInts(sysctl)
	if err != nil {
		return fmt.Errorf("read %s: %w", sysctl, err)
	}
	// The kernel takes a negative one too, and then has no limit: it compares
	// unsigned (inet_twsk_alloc).
	if len(v) != 1 || v[0] < 0 {
		return fmt.Errorf("read %s: got %v, want one number, 0 or more", sysctl, v)
	}
	s.TimeWaitLimit = known(uint64(v[0]))
	return nil
}
