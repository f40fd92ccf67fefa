package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A fakeProc is a directory that looks like procfs. It shows what real processes cannot do at a given
// moment.
type fakeProc struct {
	t    testing.TB
	path string
}

type fakeProcess struct {
	pid     int
	start   uint64
	name    string
	cgroup  string
	sockets []uint32
	files   int // open, and no sockets
}

func newFakeProc(t testing.TB, processes ...fakeProcess) fakeProc {
	t.Helper()
	p := fakeProc{t, t.TempDir()}
	for _, process := range processes {
		p.put(process)
	}
	return p
}

// put adds a process, or replaces it.
func (f fakeProc) put(p fakeProcess) {
	f.t.Helper()
	f.remove(p.pid)
	dir := f.dir(p.pid)
	if err := os.MkdirAll(filepath.Join(dir, "fd"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	f.write(p.pid, "comm", p.name+"\n")
	f.write(p.pid, "cgroup", "0::"+p.cgroup+"\n")
	f.started(p.pid, p.start)
	for i := range p.files {
		f.link(p.pid, i, "/dev/null")
	}
	for i, inode := range p.sockets {
		f.link(p.pid, p.files+i, fmt.Sprintf("socket:[%d]", inode))
	}
}

func (f fakeProc) dir(pid int) string { return filepath.Join(f.path, strconv.Itoa(pid)) }

func (f fakeProc) started(pid int, start uint64) {
	f.t.Helper()
	f.write(pid, "stat", fmt.Sprintf("%d (x) S 0 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d"+
		" 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", pid, start))
}

func (f fakeProc) write(pid int, name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir(pid), name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f fakeProc) link(pid, fd int, target string) {
	f.t.Helper()
	if err := os.Symlink(target, filepath.Join(f.dir(pid), "fd", strconv.Itoa(fd))); err != nil {
		f.t.Fatal(err)
	}
}

func (f fakeProc) remove(pid int) {
	f.t.Helper()
	if err := os.RemoveAll(f.dir(pid)); err != nil {
		f.t.Fatal(err)
	}
}

// BenchmarkScan looks through 10,000 processes with 10 descriptors each, in a directory: on
// procfs itself it takes about twice as long.
func BenchmarkScan(b *testing.B) {
	proc := newFakeProc(b)
	for i := range 10_000 {
		proc.put(fakeProcess{pid: i + 1, files: 5, sockets: []uint32{1, 2, 3, 4, uint32(i + 10)}})
	}
	f := newFinder(b, Options{Proc: proc.path})
	wanted := search{77: identity{}}
	b.ReportAllocs()
	for b.Loop() {
		if found, err := f.scan(b.Context(), wanted); err != nil || len(found.holders) != 1 {
			b.Fatal(found, err)
		}
	}
}

// BenchmarkKnown asks for 1,000 sockets whose owners are known.
func BenchmarkKnown(b *testing.B) {
	proc := newFakeProc(b)
	var sockets []Socket
	for i := range uint32(1000) {
		proc.put(fakeProcess{pid: int(i + 1), sockets: []uint32{i + 1}})
		sockets = append(sockets, Socket{Cookie: uint64(i), Inode: i + 1})
	}
	f := newFinder(b, Options{Proc: proc.path})
	find(b, f, sockets...)
	b.ReportAllocs()
	for b.Loop() {
		find(b, f, sockets...)
	}
}
