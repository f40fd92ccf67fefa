package netns

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

func TestRunRunsInside(t *testing.T) {
	ns := kerneltest.New(t)
	want := errors.New("from inside")
	var inside unix.Stat_t
	err := Run(ns.FD(), func() error {
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

func TestRunLeavesNoThreadInside(t *testing.T) {
	ns := kerneltest.New(t)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			err := Run(ns.FD(), func() error {
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
	eventually(t, "threads end", func() bool {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			var st unix.Stat_t
			err := unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &st)
			if err == nil && st.Ino == ns.Inode() {
				return false
			}
		}
		return true
	})
}

func TestRunReturnsWhenTheFunctionEndsItsGoroutine(t *testing.T) {
	ns := kerneltest.New(t)
	err := Run(ns.FD(), func() error { runtime.Goexit(); return nil })
	if !errors.Is(err, errExited) {
		t.Errorf("got error %v, want %v", err, errExited)
	}
}

func TestRunRefusesWhatIsNoNamespace(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for fd, want := range map[int]error{int(f.Fd()): unix.EINVAL, -1: unix.EBADF} {
		ran := false
		err := Run(fd, func() error { ran = true; return nil })
		if !errors.Is(err, want) || errors.Is(err, ErrPrivilege) || ran {
			t.Errorf("descriptor %d: got error %v, ran %t, want %v", fd, err, ran, want)
		}
	}
}
