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

// pidfds reads the flags of listeners through duplicates of their descriptors.
type pidfds struct {
	log      *slog.Logger
	interval time.Duration
	known    map[uint64]*answer // by cookie
}

// An answer is what is known of a listener.
type answer struct {
	place place
	found bool
	flags Flags
	asked time.Time // when it was asked or looked for
	used  time.Time // when somebody wanted to know
}

// A place is where a socket was found. It may be another's by now: whoever asks
// there checks who answers.
type place struct{ pid, fd int }

func newPidfds(opts Options) (*pidfds, error) {
	if err := trySelf(); err != nil {
		u := &sock.UnavailableError{Feature: feature, Mode: string(ModePidfd), Err: err}
		if errors.Is(err, unix.ENOSYS) {
			u.Reason, u.Need = sock.ReasonNoPidfdGetfd, "pidfd_getfd(2), Linux 5.6 and later"
		} else {
			u.Reason, u.Need = sock.ReasonPidfdRefused, "pidfd_getfd(2), which is refused even on the own process"
		}
		return nil, u
	}
	return &pidfds{log: opts.Logger, interval: opts.PidfdInterval, known: make(map[uint64]*answer)}, nil
}

// trySelf duplicates a descriptor of this very process, which needs no privilege.
func trySelf() error {
	devnull, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer devnull.Close()
	fd, err := place{os.Getpid(), int(devnull.Fd())}.duplicate()
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
			if a.found && p.ask(a.place, id, now) {
				continue
			}
			a.found, a.asked = false, now
			if id.Inode != 0 { // a socket of the kernel's own has none, and no process
				wanted[id.Inode] = id
			}
		}
	}

	if len(wanted) > 0 {
		if err := p.lookFor(ctx, wanted, now); err != nil {
			for _, id := range wanted {
				p.known[id.Cookie].asked = time.Time{} // it was not looked for everywhere
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
	return findSockets(ctx, func(where place, inode uint32) bool {
		if id, ok := wanted[inode]; ok && p.ask(where, id, now) {
			delete(wanted, inode)
		}
		return len(wanted) > 0
	})
}

// ask asks the socket in that place, and says whether it was the right one.
func (p *pidfds) ask(where place, id ListenerID, now time.Time) bool {
	flags, err := where.flags(id)
	if err != nil {
		p.log.Debug("Listener not asked", "pid", where.pid, "fd", where.fd, "inode", id.Inode, "err", err)
		return false
	}
	a := p.known[id.Cookie]
	a.place, a.found, a.flags, a.asked = where, true, flags, now
	return true
}

// forget drops listeners that nobody asks about any more.
func (p *pidfds) forget(now time.Time) {
	for cookie, a := range p.known {
		if now.Sub(a.used) > 2*p.interval {
			delete(p.known, cookie)
		}
	}
}

// duplicate is pidfd_getfd. The caller closes the descriptor.
func (w place) duplicate() (int, error) {
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

var errOtherSocket = errors.New("another socket has its place")

// flags asks the socket in that place for its flags, if it is the one with that id.
func (w place) flags(id ListenerID) (Flags, error) {
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
	// The descriptor of an MPTCP socket has a cookie of its own; sock_diag shows
	// that of its TCP subflow, which only has the inode in common.
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
