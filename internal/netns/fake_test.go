package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// A fakeProc is a directory that looks like procfs. It shows what real processes cannot do at a given
// moment.
type fakeProc struct {
	t    *testing.T
	path string
}

func newFakeProc(t *testing.T) *fakeProc {
	t.Helper()
	return &fakeProc{t, t.TempDir()}
}

// put shows a process, or a thread ("7/task/8"), in the namespace.
func (f *fakeProc) put(process string, ns *kerneltest.NetNS) {
	f.t.Helper()
	f.putDead(process, ns)
	link := fmt.Sprintf("net:[%d]", ns.Inode())
	if err := os.Symlink(ns.Path(), filepath.Join(f.path, process, "ns", link)); err != nil {
		f.t.Fatal(err)
	}
}

// putDead shows a process in the namespace that ends before the namespace is opened.
func (f *fakeProc) putDead(process string, ns *kerneltest.NetNS) {
	f.t.Helper()
	f.remove(process)
	dir := filepath.Join(f.path, process, "ns")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("net:[%d]", ns.Inode()), filepath.Join(dir, "net")); err != nil {
		f.t.Fatal(err)
	}
}

// remove ends a process or a thread. That of a process may leave its other threads.
func (f *fakeProc) remove(process string) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.path, process, "ns")); err != nil {
		f.t.Fatal(err)
	}
}

// shown is what is seen of the namespace in a Set: "found NAME", "missed NAME", or "".
func shown(t *testing.T, s *Set, ns *kerneltest.NetNS) string {
	t.Helper()
	if n := find(t, s, ns.Inode()); n != nil {
		return "found " + n.Name
	}
	for _, m := range s.Missed {
		if m.ID.Inode == ns.Inode() {
			return "missed " + m.Name
		}
	}
	return ""
}

// look opens a Set and closes it, and returns what it shows of the namespace.
func (f *fakeProc) look(d *Discoverer, ns *kerneltest.NetNS) string {
	f.t.Helper()
	s := d.Open()
	defer s.Close()
	if s.Err != nil {
		f.t.Errorf("got error %v", s.Err)
	}
	return shown(f.t, s, ns)
}

// named names processes by their numbers.
func named(names map[int]string) func(int) (sock.Container, string) {
	return func(pid int) (sock.Container, string) { return sock.Container{Name: names[pid]}, "" }
}

func pidString(n int) string { return strconv.Itoa(n) }
