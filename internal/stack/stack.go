package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/prometheus/procfs"

	"sockstate_exporter/internal/sock"
)

// A Value is a number that may not be known. V is valid only if OK is true.
type Value struct {
	V  uint64
	OK bool
}

func known(v uint64) Value { return Value{V: v, OK: true} }

// Stats has the TCP counters and limits of one network namespace, for IPv4 and IPv6 together. A
// value that could not be read is not OK.
type Stats struct {
	// Sockets is what [Reader.TCPSockets] returns.
	Sockets Value

	// TimeWait is the number of TIME_WAIT sockets, "tw" in /proc/net/sockstat
	// (tcp_death_row.tw_refcount). It includes FIN_WAIT2 sockets without a process.
	TimeWait Value
	// TimeWaitLimit is net.ipv4.tcp_max_tw_buckets. When there are that many TIME_WAIT sockets, the
	// kernel closes connections without TIME_WAIT.
	TimeWaitLimit Value
	// TimeWaitOverflows is the number of such connections: TcpExt TCPTimeWaitOverflow.
	TimeWaitOverflows Value

	// ListenOverflows is the number of connections that were dropped because the accept queue was
	// full: TcpExt ListenOverflows.
	ListenOverflows Value
	// ListenDrops is the number of connections that listeners dropped for any reason, overflows
	// included: TcpExt ListenDrops.
	ListenDrops Value

	// LocalPorts is net.ipv4.ip_local_port_range; 0 to 0: not known.
	LocalPorts sock.PortRange
	// EphemeralPorts is the number of ports in LocalPorts that are not in
	// net.ipv4.ip_local_reserved_ports.
	EphemeralPorts Value

	// Memory is the bytes that the buffers of TCP sockets take ("mem" in /proc/net/sockstat), and
	// Orphans the sockets that no process has and that are not closed yet ("orphan"). The kernel
	// counts both for the whole host, and shows them in every network namespace
	// (tcp_memory_allocated, tcp_orphan_count).
	Memory, Orphans Value
	// MemoryPressure and MemoryLimit are the second and the last number of net.ipv4.tcp_mem, in
	// bytes, and OrphansLimit is net.ipv4.tcp_max_orphans. Only the initial network namespace has
	// these files; in others they are not OK, and that is no error.
	MemoryPressure, MemoryLimit, OrphansLimit Value
}

// A Reader reads Stats. It is safe for concurrent use.
type Reader struct {
	path   string
	proc   procfs.FS
	thread procfs.FS // below thread-self, which the kernel resolves at each open
}

// NewReader returns a Reader of the procfs mounted at path, usually "/proc".
// It fails where no procfs is mounted, and where the procfs belongs to a pid namespace without this
// process.
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

// Read returns the Stats of the calling thread's network namespace. Where a file cannot be read, its
// values are not OK and the error says why. The other values are valid.
func (r *Reader) Read() (Stats, error) {
	// The goroutine must not move to another thread between two files, since that thread may be in
	// another namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var s Stats
	err := errors.Join(r.readSockstat(&s), r.readNetstat(&s))
	ipv4, openErr := r.openSysctls()
	if openErr != nil {
		return s, errors.Join(err, openErr)
	}
	defer ipv4.close()
	err = errors.Join(err, ipv4.readTimeWaitLimit(&s), ipv4.readEphemeralPorts(&s), ipv4.readHostLimits(&s))
	return s, err
}

func (r *Reader) readSockstat(s *Stats) error {
	tcp, err := protocol(r.thread.NetSockstat, "sockstat", "TCP")
	if err != nil {
		return err
	}
	if tcp.TW == nil || *tcp.TW < 0 {
		return errors.New("read net/sockstat: no usable \"tw\" in the TCP line")
	}
	s.TimeWait = known(uint64(*tcp.TW))
	if n, err := r.tcpSockets(tcp); err == nil {
		s.Sockets = known(n)
	}
	if tcp.Mem != nil && *tcp.Mem >= 0 {
		s.Memory = known(uint64(*tcp.Mem) * uint64(os.Getpagesize()))
	}
	if tcp.Orphan != nil && *tcp.Orphan >= 0 {
		s.Orphans = known(uint64(*tcp.Orphan))
	}
	return nil
}

// TCPSockets returns the number of TCP sockets in the calling thread's network namespace: those that
// listen, connect or are connected (inuse), those in TIME_WAIT, and those in FIN_WAIT2 without a
// process. The kernel does not count half-open connections, and sockets that are only bound.
func (r *Reader) TCPSockets() (uint64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	tcp, err := protocol(r.thread.NetSockstat, "sockstat", "TCP")
	if err != nil {
		return 0, err
	}
	return r.tcpSockets(tcp)
}

// tcpSockets adds those of IPv6 to what sockstat has.
func (r *Reader) tcpSockets(tcp procfs.NetSockstatProtocol) (uint64, error) {
	if tcp.InUse < 0 || tcp.TW == nil || *tcp.TW < 0 {
		return 0, errors.New("read net/sockstat: no usable numbers in the TCP line")
	}
	sockets := uint64(tcp.InUse) + uint64(*tcp.TW)
	tcp6, err := protocol(r.thread.NetSockstat6, "sockstat6", "TCP6")
	if errors.Is(err, os.ErrNotExist) { // no IPv6
		return sockets, nil
	}
	if err != nil {
		return 0, err
	}
	if tcp6.InUse < 0 {
		return 0, errors.New("read net/sockstat6: no usable numbers in the TCP6 line")
	}
	return sockets + uint64(tcp6.InUse), nil
}

// protocol returns one line of the file that read reads.
func protocol(read func() (*procfs.NetSockstat, error), file, name string) (procfs.NetSockstatProtocol, error) {
	stat, err := read()
	if err != nil {
		return procfs.NetSockstatProtocol{}, fmt.Errorf("read net/%s: %w", file, err)
	}
	for _, p := range stat.Protocols {
		if p.Protocol == name {
			return p, nil
		}
	}
	return procfs.NetSockstatProtocol{}, fmt.Errorf("read net/%s: no %s line", file, name)
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

// netstat looks up the number of the thread, since procfs.FS has no Netstat.
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
