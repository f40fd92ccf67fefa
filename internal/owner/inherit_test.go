package owner

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

// all returns a Finder that can see all processes.
func all(t *testing.T, opts Options) *Finder {
	t.Helper()
	kerneltest.RequireRoot(t)
	f := newFinder(t, opts)
	if !f.root {
		kerneltest.Skip(t, "needs procfs of the initial pid namespace")
	}
	return f
}

func TestOwnerThatEndedIsReplacedAtOnceAndNamedAsTheOpener(t *testing.T) {
	eachWay(t, ownerThatEndedIsReplacedAtOnceAndNamedAsTheOpener)
}

func ownerThatEndedIsReplacedAtOnceAndNamedAsTheOpener(t *testing.T, opts Options) {
	for name, other := range map[string]bool{"server": true, "": false} {
		t.Run(name, func(t *testing.T) {
			f := newFinder(t, opts)
			do := task{Listen: true, Children: 1}
			if other {
				do.Name = []byte(name) // its child does not take it
			}
			got, cmd := start(t, kerneltest.New(t), do, nil)
			before := find(t, f, got.Socket)[got.Socket.Cookie]
			if before.PID != cmd.Process.Pid || before.Opener != nil {
				t.Fatalf("got %+v, want process %d without opener", before, cmd.Process.Pid)
			}
			endParent(t, cmd)
			now := find(t, f, got.Socket)[got.Socket.Cookie]
			if now.PID == 0 || now.PID == before.PID || now.Opener == nil {
				t.Fatalf("got %+v, want another process, and the first one as opener", now)
			}
			want := Opener{Process: before.Process, Unit: before.Unit, Runtime: before.Runtime, Container: before.Container, PID: before.PID, Ended: true, SameProgram: !other}
			if *now.Opener != want {
				t.Errorf("opener %+v, want %+v", *now.Opener, want)
			}
		})
	}
}

func TestSocketOnItsWayBetweenProcessesHasNoProcess(t *testing.T) {
	eachWay(t, socketOnItsWayBetweenProcessesHasNoProcess)
}

func socketOnItsWayBetweenProcessesHasNoProcess(t *testing.T, opts Options) {
	f := all(t, opts)
	got, cmd := start(t, kerneltest.New(t), task{Listen: true, Pass: true}, nil)
	owner := find(t, f, got.Socket)[got.Socket.Cookie]
	check(t, map[uint64]Owner{got.Socket.Cookie: owner}, map[uint64]Owner{got.Socket.Cookie: {Absence: absent(f)}})
	cmd.Kill()
}

// absent is the Absence of a socket that no process has. Where the machine runs the tests under a
// process that even root may not look into, that one may have the socket.
func absent(f *Finder) Absence {
	if f.refused > 0 {
		return Refused
	}
	return NoProcess
}

func TestWhyASocketHasNoOwner(t *testing.T) {
	kerneltest.RequireRoot(t)
	for name, tt := range map[string]struct {
		prepare func(fakeProc)
		want    Absence
	}{
		"all processes are seen":             {func(fakeProc) {}, NoProcess},
		"procfs is of another pid namespace": {func(p fakeProc) { p.remove(2) }, Hidden},
	} {
		t.Run(name, func(t *testing.T) {
			proc := newFakeProc(t, nginx(), fakeProcess{pid: 2, name: "kthreadd"})
			proc.write(2, "stat", "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n")
			tt.prepare(proc)
			f := newFinder(t, Options{Proc: proc.path})
			check(t, find(t, f, Socket{2, inode + 1}), map[uint64]Owner{2: {Absence: tt.want}})
		})
	}
}

// The kernel may refuse others than root to look into such a process, also of their own (seen on Linux 6.18).
func TestMainThreadMayHaveEnded(t *testing.T) {
	kerneltest.RequireRoot(t)
	eachWay(t, mainThreadMayHaveEnded)
}

func mainThreadMayHaveEnded(t *testing.T, opts Options) {
	f := newFinder(t, opts)
	got, cmd := start(t, kerneltest.New(t), task{Name: []byte("headless"), Listen: true, EndLeader: true}, nil)
	want := map[uint64]Owner{got.Socket.Cookie: ownerOf(t, f, "headless", cmd.Process.Pid, 1)}
	check(t, find(t, f, got.Socket), want)
	check(t, find(t, f, got.Socket), want)
	if f.scans != 1 {
		t.Errorf("%d scans, want 1: the owner is known", f.scans)
	}
}

func TestNameThatTheKernelCutIsThatOfTheExecutable(t *testing.T) {
	eachWay(t, nameThatTheKernelCutIsThatOfTheExecutable)
}

func nameThatTheKernelCutIsThatOfTheExecutable(t *testing.T, opts Options) {
	const name = "sockstate_owner_test_server"
	program := filepath.Join(t.TempDir(), name)
	copyFile(t, "/proc/self/exe", program)
	f := newFinder(t, opts)
	ns := kerneltest.New(t)
	for comm, want := range map[string]string{"": name, name[:15]: name, name[:14]: name[:14], "sockstate_owneR": "sockstate_owneR"} {
		do := task{Listen: true}
		if comm != "" {
			do.Name = []byte(comm)
		}
		got, cmd := start(t, ns, do, func(cmd *kerneltest.Cmd) { cmd.Path = program })
		check(t, find(t, f, got.Socket), map[uint64]Owner{got.Socket.Cookie: ownerOf(t, f, want, cmd.Process.Pid, 1)})
	}
}

// The executable is the interpreter: here the test binary, since a guest has no shell.
func TestNameOfAScript(t *testing.T) {
	interpreter, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script_with_a_long_name.sh")
	if err := os.WriteFile(script, []byte("#!"+interpreter+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, cmd := start(t, kerneltest.New(t), task{Listen: true}, func(cmd *kerneltest.Cmd) { cmd.Path = script })
	f := newFinder(t, Options{})
	check(t, find(t, f, got.Socket), map[uint64]Owner{got.Socket.Cookie: ownerOf(t, f, filepath.Base(script), cmd.Process.Pid, 1)})
}

func TestNameIsNoLongerThan64Bytes(t *testing.T) {
	p := nginx()
	p.name = "a_name_of_fifte"
	proc := newFakeProc(t, p)
	proc.write(100, "cmdline", "x\x00/bin/"+p.name+strings.Repeat("n", 2000))
	f := newFinder(t, Options{Proc: proc.path})
	if got := find(t, f, socket)[cookie].Process; len(got) != 64 || !strings.HasPrefix(got, p.name+"n") {
		t.Errorf("process %q, want 64 bytes", got)
	}
}

func TestLookup(t *testing.T) { eachWay(t, lookup) }

func lookup(t *testing.T, opts Options) {
	f := all(t, opts)
	ns := kerneltest.New(t)
	listens, a := start(t, ns, task{Name: []byte("a"), Listen: true}, nil)
	passed, _ := start(t, ns, task{Listen: true, Pass: true}, nil)
	inodes := []uint32{listens.Socket.Inode, passed.Socket.Inode}
	if _, err := f.Lookup(t.Context(), inodes); err != nil {
		t.Fatal(err)
	}
	want := map[uint32]Owner{
		listens.Socket.Inode: ownerOf(t, f, "a", a.Process.Pid, 1),
		passed.Socket.Inode:  {Absence: absent(f)},
	}
	lookUp := func(want map[uint32]Owner, scans uint64) {
		t.Helper()
		got, err := f.Lookup(t.Context(), inodes)
		if err != nil || !maps.Equal(got, want) || f.scans != scans {
			t.Fatalf("got %+v, %v after %d scans; want %+v after %d", got, err, f.scans, want, scans)
		}
	}
	lookUp(want, 1)
	find(t, f, listens.Socket) // under its cookie
	lookUp(want, 2)

	other := newFinder(t, opts)
	check(t, find(t, other, listens.Socket), map[uint64]Owner{listens.Socket.Cookie: want[inodes[0]]})
	if got, err := other.Lookup(t.Context(), inodes[:1]); err != nil || got[inodes[0]] != want[inodes[0]] || other.scans != 1 {
		t.Errorf("got %+v, %v after %d scans: Find knew the owner", got, err, other.scans)
	}

	a.Kill()
	got, err := f.Lookup(t.Context(), inodes[:1])
	if o := got[inodes[0]]; err != nil || o.Known() || o.Opener == nil || f.scans != 3 {
		t.Errorf("got %+v, %v after %d scans, want no owner after a third one", o, err, f.scans)
	}
}

func TestLookupTakesAFewSockets(t *testing.T) {
	f := newFinder(t, Options{Proc: newFakeProc(t).path})
	inodes := make([]uint32, 100)
	for i := range inodes {
		inodes[i] = uint32(i + 1)
	}
	got, err := f.Lookup(t.Context(), inodes)
	if err != nil || len(got) != MaxLookup {
		t.Errorf("%d answers, %v; want %d", len(got), err, MaxLookup)
	}
}

// Anybody can make binds fail. That does not push out what Find knows.
func TestLookupLeavesTheSocketsOfFindAlone(t *testing.T) {
	f := newFinder(t, Options{Proc: newFakeProc(t).path})
	sockets := make([]Socket, maxUnasked+1)
	for i := range sockets {
		sockets[i] = Socket{Cookie: uint64(i + 1), Inode: uint32(i + 1)}
	}
	find(t, f, sockets...)
	if _, err := f.Lookup(t.Context(), []uint32{1 << 20}); err != nil {
		t.Fatal(err)
	}
	if n := len(f.known); n != len(sockets)+1 {
		t.Errorf("%d sockets are known after a Lookup, want %d", n, len(sockets)+1)
	}
	find(t, f, sockets[0])
	if n := len(f.known); n != 1 {
		t.Errorf("%d sockets are known after a Find of one, want 1", n)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o700); err != nil {
		t.Fatal(err)
	}
}
