package kerneltest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// errExited is returned by Run for a function that ended its goroutine.
var errExited = errors.New("function called runtime.Goexit")

// NetNS is a network namespace, held by a file descriptor.
type NetNS struct {
	file *os.File
}

// Open creates a network namespace with its loopback interface up. The caller
// closes it. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func Open() (*NetNS, error) {
	ns := new(NetNS)
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: unshare: %w", err)
		}
		var err error
		if ns.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		if err := loopbackUp(); err != nil {
			_ = ns.file.Close()
			return fmt.Errorf("create network namespace: set lo up: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ns, nil
}

// New creates a network namespace that is closed when the test ends. It skips
// where the host refuses one.
func New(t testing.TB) *NetNS {
	t.Helper()
	ns, err := Open()
	if err != nil {
		skipOrFatal(t, err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// FD is the descriptor of the namespace. It stays valid, and owned by the
// NetNS, until Close.
func (n *NetNS) FD() int { return int(n.file.Fd()) }

// Path names the namespace in /proc for as long as this process holds it.
func (n *NetNS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD()) }

// Inode is the number that identifies the namespace (`net:[4026531840]`), or 0
// after Close.
func (n *NetNS) Inode() uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(n.FD(), &st); err != nil {
		return 0
	}
	return st.Ino
}

// Close lets go of the namespace. The kernel removes it once its sockets and
// processes are gone too.
func (n *NetNS) Close() error { return n.file.Close() }

// Run calls f on a thread inside the namespace and returns its error. The
// thread ends with f.
func (n *NetNS) Run(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: setns: %w", err)
		}
		return f()
	})
}

// Do calls f on a thread inside the namespace. f may use t, FailNow and Skip
// included.
func (n *NetNS) Do(t testing.TB, f func()) {
	t.Helper()
	err := n.Run(func() error { f(); return nil })
	switch {
	case err == nil:
	case errors.Is(err, errExited) && t.Skipped():
		t.SkipNow()
	case errors.Is(err, errExited):
		t.FailNow()
	default:
		t.Fatal(err)
	}
}

// Sysctl sets a net.* setting of the namespace ("net.ipv4.tcp_fin_timeout"),
// or skips where it is not there or not writable.
func (n *NetNS) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	err := n.SetSysctl(name, value)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
		Skip(t, "%v", err)
	default:
		t.Fatal(err)
	}
}

// SetSysctl sets a net.* setting of the namespace.
func (n *NetNS) SetSysctl(name, value string) error {
	err := n.Run(func() error {
		// Not os.WriteFile, whose O_CREATE turns ENOENT into EACCES.
		f, err := os.OpenFile(sysctlPath(name), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(value)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// GetSysctl reads a net.* setting of the namespace.
func (n *NetNS) GetSysctl(name string) (string, error) {
	var value []byte
	err := n.Run(func() (err error) {
		value, err = os.ReadFile(sysctlPath(name))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("get sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// sysctlPath names the setting as /proc/sys does. /proc/sys/net shows the
// namespace of the thread that opens the file.
func sysctlPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}

// onThread calls f on an operating system thread that is then thrown away, so
// that f may change the thread's namespace.
func onThread(f func() error) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// But for the first one, which it cannot end; that would stay in
			// the namespace, and with it /proc/self/net. While it is held here,
			// f gets another.
			err = onThread(f)
			runtime.UnlockOSThread()
			return
		}
		err = f()
	}()
	<-done
	return err
}

// loopbackUp sets lo up in the namespace of the calling thread.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("ioctl SIOCSIFFLAGS: %w", err)
	}
	return nil
}
