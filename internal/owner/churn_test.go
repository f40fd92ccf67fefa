package owner

import (
	"os"
	"os/exec"
	"sync"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// Processes come and go, and sockets too, while several callers ask.
func TestOwnersWhileProcessesComeAndGo(t *testing.T) {
	ns := kerneltest.New(t)
	steady, cmd := start(t, ns, task{Name: []byte("steady"), Listen: true}, nil)
	f := newFinder(t, Options{})
	want := ownerOf(t, f, "steady", cmd.Process.Pid, 1)

	const rounds = 5
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range rounds {
				if err := exec.Command("/proc/self/exe", "-test.list", "^$").Run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for caller := range uint64(3) {
		wg.Go(func() {
			for i := range uint64(rounds) {
				// No process has that one, so every call needs a scan.
				nobodys := Socket{Cookie: 1<<63 | caller<<32 | i, Inode: ^uint32(i)}
				owners, err := f.Find(t.Context(), []Socket{steady.Socket, nobodys})
				if err != nil || known(owners) != 1 || owners[steady.Socket.Cookie] != want {
					t.Errorf("got %+v, %v; want %+v alone", owners, err, want)
				}
				f.OfProcess(uint32(cmd.Process.Pid), 0, 1)
				f.Shortfalls()
			}
		})
	}
	wg.Wait()
}

func TestDescriptorsAreClosed(t *testing.T) {
	open := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	find(t, newFinder(t, Options{}), socket) // the first opens what the Go runtime keeps
	before := open()
	f, err := New(Options{Wait: patience})
	if err != nil {
		t.Fatal(err)
	}
	find(t, f, socket)
	f.OfProcess(uint32(os.Getpid()), 0, 1)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
