package sockflags

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// A pidfds reads the flags of listeners through duplicates of their descriptors.
type pidfds struct {
	log      *slog.Logger
	interval time.Duration
	known    map[uint64]*answer // by cookie
}

// An answer is what is known about a listener.
type answer struct {
	at    descriptor
	found bool
	flags Flags
	asked time.Time // when the listener was last asked or looked for
	used  time.Time // when the caller last named the listener
}

// A descriptor is where a socket was found. It may be that of another socket by now, so flags checks
// which socket answers.
type descriptor struct{ pid, fd int }

func newPidfds(opts Options) (*pidfds, error) {
	if err := trySelf(); err != nil {
		u := &sock.UnavailableError{Feature: feature, Mode: string(ModePidfd), Err: err}
		if errors.Is(err, unix.ENOSYS) {
			u.Reason, u.Need = sock.ReasonNoPidfdGetfd, "pidfd_getfd(2), Linux 5.6 and later"
		} else {
			u.Reason, u.Need = sock.ReasonPidfdRefused, "pidfd_getfd(2), which is refused even for the own process"
		}
		return nil, u
	}
	return &pidfds{log: opts.Logger, interval: opts.PidfdInterval, known: make(map[uint64]*answer)}, nil
}

// trySelf duplicates a descriptor of this process, which needs no privilege.
func trySelf() error {
	devnull, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer devnull.Close()
	fd, err := descriptor{os.Getpid(), int(devnull.Fd())}.duplicate()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func (p *pidfds) shortfalls() []*sock.UnavailableError {
	var short []*sock.UnavailableError
	if !linux.HasCap(unix.CAP_SYS_PTRACE) {
		short = append(short, &sock.UnavailableError{Feature: feature, Mode: string(ModePidfd), Reason: sock.ReasonCapSysPtrace,
			Need: "CAP_SYS_PTRACE for the listeners of other users' processes"})
	}
	if !linux.HasCap(unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE) {
		short = append(short, &sock.UnavailableError{Feature: feature, Mode: string(ModePidfd), Reason: sock.ReasonCapDACReadSearch,
			Need: "CAP_DAC_READ_SEARCH to list other users' descriptors"})
	}
	return short
}

func (p *pidfds) close() error {
	p.known = nil
	return nil
}

func (p *pidfds) read(ctx context.Context, req Request) (*Result, error) {
	now := time.Now()
	wanted := make(map[uint32]ListenerID)
	for _, id := range req.Listeners {
		a := p.known[id.Cookie]
		if a == nil {
			a = new(answer)
			p.known[id.Cookie] = a
		}
		a.used = now
		if a.asked.IsZero() || now.Sub(a.asked) >= p.interval {
			if a.found && p.ask(a.at, id, now) {
				continue
			}
			a.found, a.asked = false, now
			if id.Inode != 0 { // a socket of the kernel has no inode and no process
				wanted[id.Inode] = id
			}
		}
	}

	if len(wanted) > 0 {
		if err := p.lookFor(ctx, wanted, now); err != nil {
			for _, id := range wanted {
				p.known[id.Cookie].asked = time.Time{} // the search was not complete
			}
			return nil, fmt.Errorf("read reuse flags: find listeners' processes: %w", err)
		}
	}

	result := &Result{Listeners: make(map[uint64]Flags, len(req.Listeners))}
	for _, id := range req.Listeners {
		if a := p.known[id.Cookie]; a.found {
			result.Listeners[id.Cookie] = a.flags
		}
	}
	p.forget(now)
	return result, nil
}

// lookFor searches all processes for the wanted sockets.
func (p *pidfds) lookFor(ctx context.Context, wanted map[uint32]ListenerID, now time.Time) error {
	return findSockets(ctx, func(where descriptor, inode uint32) bool {
		if id, ok := wanted[inode]; ok && p.ask(where, id, now) {
			delete(wanted, inode)
		}
		return len(wanted) > 0
	})
}

// ask reads the flags of the socket behind a descriptor. It returns false where that is another socket.
func (p *pidfds) ask(where descriptor, id ListenerID, now time.Time) bool {
	flags, err := where.flags(id)
	if err != nil {
		p.log.Debug("listener not asked", "pid", where.pid, "fd", where.fd, "inode", id.Inode, "err", err)
		return false
	}
	a := p.known[id.Cookie]
	a.at, a.found, a.flags, a.asked = where, true, flags, now
	return true
}

// forget drops listeners that the caller does not name any more.
func (p *pidfds) forget(now time.Time) {
	for cookie, a := range p.known {
		if now.Sub(a.used) > 2*p.interval {
			delete(p.known, cookie)
		}
	}
}

// duplicate calls pidfd_getfd. The caller closes the descriptor.
func (w descriptor) duplicate() (int, error) {
	pidfd, err := unix.PidfdOpen(w.pid, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, w.fd, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return fd, nil
}

var errOtherSocket = errors.New("another socket has its descriptor")

// flags reads the flags of the socket behind the descriptor, if it is the listener with the id.
func (w descriptor) flags(id ListenerID) (Flags, error) {
	fd, err := w.duplicate()
	if err != nil {
		return Flags{}, err
	}
	defer unix.Close(fd)

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Flags{}, fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Ino != uint64(id.Inode) {
		return Flags{}, errOtherSocket
	}
	proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return Flags{}, fmt.Errorf("getsockopt SO_PROTOCOL: %w", err)
	}
	// The descriptor of an MPTCP socket has a cookie of its own. sock_diag shows the cookie of the TCP
	// subflow, which has the same inode.
	if proto != unix.IPPROTO_MPTCP {
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return Flags{}, fmt.Errorf("getsockopt SO_COOKIE: %w", err)
		}
		if cookie != id.Cookie {
			return Flags{}, errOtherSocket
		}
	}

	addr, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil {
		return Flags{}, fmt.Errorf("getsockopt SO_REUSEADDR: %w", err)
	}
	port, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil {
		return Flags{}, fmt.Errorf("getsockopt SO_REUSEPORT: %w", err)
	}
	return Flags{ReuseAddr: addr != 0, ReusePort: port != 0}, nil
}
