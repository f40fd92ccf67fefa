package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrPrivilege is why the caller may not enter a namespace. What wraps it also
// wraps EPERM, and so is an os.ErrPermission.
var ErrPrivilege = errors.New("needs CAP_SYS_ADMIN")

var errExited = errors.New("function ended its goroutine")

// Run calls f on a thread inside the network namespace that the descriptor
// refers to, and returns its error. The thread ends with f: f may lock it, but
// must leave nothing to it. The descriptor must be open until Run returns.
func Run(fd int, f func() error) error {
	return onThread(func() error {
		if err := enter(fd); err != nil {
			return err
		}
		return f()
	})
}

// MayEnter says why the caller may not enter other network namespaces: it enters its own.
func MayEnter() error {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	return Run(int(own.Fd()), func() error { return nil })
}

// enter moves the calling thread.
func enter(fd int) error {
	err := unix.Setns(fd, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: %w", ErrPrivilege, err)
	}
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// onThread calls f on an operating system thread that is then thrown away.
func onThread(f func() error) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// But for the first one, which would stay where f took it, and keep
			// that namespace in being. While it is held here, f gets another.
			err = onThread(f)
			runtime.UnlockOSThread()
			return
		}
		err = f()
	}()
	<-done
	return err
}

// cookies fills in the cookies, as far as the kernel has and shows them, and closes what may
// not be entered.
func cookies(all []*Namespace) error {
	if len(all) == 0 {
		return nil
	}
	return onThread(func() error {
		var errs []error
		for _, n := range all {
			if err := enter(n.FD()); err != nil {
				errs = append(errs, fmt.Errorf("network namespace %s: %w", n.path, err))
				_ = n.Close()
				continue
			}
			cookie, err := cookie()
			if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
				errs = append(errs, fmt.Errorf("network namespace %s: read cookie: %w", n.path, err))
			}
			n.ID.Cookie = cookie
		}
		return joinSome(errs)
	})
}

// cookie is that of the calling thread's namespace. It asks a netlink socket,
// the one kind that a confined exporter is sure to be allowed.
func cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
