package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ownNetNS is the namespace of the thread. /proc/self would be that of the thread group leader.
const ownNetNS = "/proc/thread-self/ns/net"

// ErrNeedsSysAdmin means that the caller may not enter a namespace. An error that wraps it also
// wraps EPERM, and so is an os.ErrPermission.
var ErrNeedsSysAdmin = errors.New("needs CAP_SYS_ADMIN")

var errExited = errors.New("function ended its goroutine")

// RunInNetNS calls f on a thread in the network namespace that the descriptor refers to, and
// returns its error. The descriptor must be open until RunInNetNS returns. Afterwards the thread
// returns to its own namespace: f must not change it otherwise. A thread that cannot return ends.
func RunInNetNS(fd int, f func() error) error {
	return runLocked(func() (clean bool, err error) {
		own, err := unix.Open(ownNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return true, fmt.Errorf("open %s: %w", ownNetNS, err)
		}
		defer unix.Close(own)
		if err := EnterNetNS(fd); err != nil {
			return true, err
		}
		err = f()
		return EnterNetNS(own) == nil, err
	})
}

// MayEnterNetNS returns nil where the caller may enter network namespaces. It tries to enter its
// own.
func MayEnterNetNS() error {
	own, err := os.Open(ownNetNS)
	if err != nil {
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer own.Close()
	return RunInNetNS(int(own.Fd()), func() error { return nil })
}

// EnterNetNS moves the calling thread into the network namespace that the descriptor refers to.
// Call it in [RunOnThread].
func EnterNetNS(fd int) error {
	err := unix.Setns(fd, unix.CLONE_NEWNET)
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w: %w", ErrNeedsSysAdmin, err)
	}
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// RunOnThread calls f on an operating system thread of its own and returns its error. The thread
// ends with f, so f may change the thread's namespaces. f may lock the thread and must not count
// on it afterwards.
func RunOnThread(f func() error) error {
	return runLocked(func() (clean bool, err error) { return false, f() })
}

// runLocked calls f on a thread that nothing else uses. The thread ends with f, unless f says that it
// left it clean.
func runLocked(f func() (clean bool, err error)) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // where it is not unlocked, the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// The first thread never ends. It would stay in the namespace and keep it alive.
			// While this goroutine holds it, f gets another thread.
			err = runLocked(f)
			runtime.UnlockOSThread()
			return
		}
		var clean bool
		if clean, err = f(); clean {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return err
}

// OwnNetNS returns the inode number of the calling thread's network namespace, and the device
// number of nsfs, which all namespaces share.
func OwnNetNS() (device, inode uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(ownNetNS, &st); err != nil {
		return 0, 0, fmt.Errorf("find own network namespace: stat %s: %w", ownNetNS, err)
	}
	return st.Dev, st.Ino, nil
}

// NetNSCookie returns the cookie of the calling thread's network namespace, which the kernel never
// uses again (SO_NETNS_COOKIE, Linux 5.14). It asks a netlink socket, since a sandboxed exporter is
// always allowed to open one.
func NetNSCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}
