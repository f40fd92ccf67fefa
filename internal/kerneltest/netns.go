package kerneltest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// errExited is returned by Run when the function ended its goroutine.
var errExited = errors.New("function called runtime.Goexit")

// NetNS is a network namespace, held by a file descriptor.
type NetNS struct {
	file *os.File
}

// Open creates a network namespace with its loopback interface up. The caller
// closes it. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func Open() (*NetNS, error) {
	ns := new(NetNS)
	if err := onThread(ns.create); err != nil {
		return nil, err
	}
	return ns, nil
}

// create creates the namespace, and moves the calling thread into it.
func (n *NetNS) create() error {
	handle, err := netns.New()
	if err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	n.file = os.NewFile(uintptr(handle), "network namespace")
	if err := loopbackUp(); err != nil {
		_ = n.Close()
		return fmt.Errorf("create network namespace: set lo up: %w", err)
	}
	return nil
}

// New creates a network namespace that is closed when the test ends. The test
// is skipped where the host refuses one.
func New(t testing.TB) *NetNS {
	t.Helper()
	ns, err := Open()
	if err != nil {
		SkipOrFatal(t, err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// NewChild is New on a thread that is in n: some settings of n hold for the namespaces that are made
// in it (net.ipv4.tcp_child_ehash_entries).
func (n *NetNS) NewChild(t testing.TB) *NetNS {
	t.Helper()
	child := new(NetNS)
	if err := n.Run(child.create); err != nil {
		SkipOrFatal(t, err)
	}
	t.Cleanup(func() { _ = child.Close() })
	return child
}

// FD returns the descriptor of the namespace. It belongs to the NetNS and is
// valid until Close.
func (n *NetNS) FD() int { return int(n.file.Fd()) }

// Path returns the path of the namespace in /proc. It is valid until Close.
func (n *NetNS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.FD()) }

// Inode returns the number that identifies the namespace (`net:[4026531840]`),
// or 0 after Close.
func (n *NetNS) Inode() uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(n.FD(), &st); err != nil {
		return 0
	}
	return st.Ino
}

// Close closes the descriptor. The kernel removes the namespace when its
// sockets and processes are gone too.
func (n *NetNS) Close() error { return n.file.Close() }

// Run calls f on a thread in the namespace and returns its error. The thread
// ends when f returns.
func (n *NetNS) Run(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(netns.NsHandle(n.FD())); err != nil {
			return fmt.Errorf("enter network namespace: setns: %w", err)
		}
		return f()
	})
}

// Do calls f on a thread in the namespace. f may use t, also FailNow and Skip.
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

// Sysctl sets a net.* setting of the namespace ("net.ipv4.tcp_fin_timeout").
// The test is skipped where the setting is missing or not writable.
func (n *NetNS) Sysctl(t testing.TB, name, value string) {
	t.Helper()
	err := n.SetSysctl(name, value)
	if errors.Is(err, os.ErrNotExist) {
		Skip(t, "%v", err)
	}
	if err != nil {
		SkipOrFatal(t, err)
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

// sysctlPath returns the path of the setting. /proc/sys/net shows the namespace
// of the thread that opens the file.
func sysctlPath(name string) string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
}

// onThread calls f on an operating system thread that ends with it, so that f
// may change the namespace of the thread.
func onThread(f func() error) error {
	err := errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the first thread of the process. It would
			// stay in the namespace, and /proc/self/net with it. While it is
			// locked here, f gets another one.
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
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
