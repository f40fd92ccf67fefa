package linux

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

func TestRunInNetNSRunsInside(t *testing.T) {
	ns := kerneltest.New(t)
	want := errors.New("from inside")
	var inside unix.Stat_t
	err := RunInNetNS(ns.FD(), func() error {
		if err := unix.Stat("/proc/thread-self/ns/net", &inside); err != nil {
			return err
		}
		return want
	})
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if inside.Ino != ns.Inode() {
		t.Errorf("got namespace %d, want %d", inside.Ino, ns.Inode())
	}
}

func TestRunInNetNSLeavesNoThreadInside(t *testing.T) {
	ns := kerneltest.New(t)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			err := RunInNetNS(ns.FD(), func() error {
				if unix.Gettid() == unix.Getpid() {
					return errors.New("runs on the first thread, which never ends")
				}
				runtime.Gosched()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(patience); threadIn(t, ns.Inode()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v a thread is still in the namespace", patience)
		}
	}
}

// patience is how long the kernel may take to end threads on a busy machine.
const patience = 30 * time.Second

// threadIn reports whether a thread of this process is in the network namespace.
func threadIn(t *testing.T, inode uint64) bool {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		var st unix.Stat_t
		err := unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &st)
		if err == nil && st.Ino == inode {
			return true
		}
	}
	return false
}

func TestRunInNetNSReturnsWhenTheFunctionEndsItsGoroutine(t *testing.T) {
	ns := kerneltest.New(t)
	err := RunInNetNS(ns.FD(), func() error { runtime.Goexit(); return nil })
	if !errors.Is(err, errExited) {
		t.Errorf("got error %v, want %v", err, errExited)
	}
	for deadline := time.Now().Add(patience); threadIn(t, ns.Inode()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v a thread is still in the namespace", patience)
		}
	}
}

func TestRunInNetNSRefusesWhatIsNoNamespace(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for fd, want := range map[int]error{int(f.Fd()): unix.EINVAL, -1: unix.EBADF} {
		ran := false
		err := RunInNetNS(fd, func() error { ran = true; return nil })
		if !errors.Is(err, want) || errors.Is(err, ErrNeedsSysAdmin) || ran {
			t.Errorf("descriptor %d: got error %v, ran %t, want %v", fd, err, ran, want)
		}
	}
}
