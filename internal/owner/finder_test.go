package owner

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sockstate_exporter/internal/container/cgroup"
	"sockstate_exporter/internal/kerneltest"
)

func newFinder(t testing.TB, opts Options) *Finder {
	t.Helper()
	if opts.Wait == 0 {
		opts.Wait = patience
	}
	f, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func find(t testing.TB, f *Finder, sockets ...Socket) map[uint64]Owner {
	t.Helper()
	owners, err := f.Find(t.Context(), sockets)
	if err != nil {
		t.Fatal(err)
	}
	return owners
}

// known counts the sockets whose owner is known.
func known(owners map[uint64]Owner) (n int) {
	for _, o := range owners {
		if o.Known() {
			n++
		}
	}
	return n
}

func check(t testing.TB, got, want map[uint64]Owner) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
}

// ownerOf returns the Owner that a process should be shown as.
func ownerOf(t testing.TB, f *Finder, name string, pid, processes int) Owner {
	t.Helper()
	p, err := f.fs.Proc(pid)
	if err != nil {
		t.Fatal(err)
	}
	cgroups, err := p.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := p.Executable()
	if err == nil && exe == "" { // its main thread has ended
		exe, err = os.Executable()
	}
	if err != nil {
		t.Fatal(err)
	}
	at := cgroup.Of(cgroups)
	return Owner{
		Process: name, Exe: exe, Unit: at.Unit, Runtime: at.Runtime, Container: at.Container,
		PID: pid, Processes: processes,
	}
}

func TestSocketsOfThisProcess(t *testing.T) { eachWay(t, socketsOfThisProcess) }

func socketsOfThisProcess(t *testing.T, opts Options) {
	ns := kerneltest.New(t)
	f := newFinder(t, opts)
	addr := netip.MustParseAddrPort("127.0.0.1:4840")
	var sockets []Socket
	want := make(map[uint64]Owner)
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{
		ns.Listen(t, addr, kerneltest.Options{}).FD(),
		ns.ListenUDP(t, addr, kerneltest.Options{}).FD(),
		ns.Bind(t, netip.MustParseAddrPort("[::1]:4841"), kerneltest.Options{}).FD(),
	} {
		s, err := identify(fd)
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, s)
		want[s.Cookie] = ownerOf(t, f, string(comm[:len(comm)-1]), os.Getpid(), 1)
	}
	check(t, find(t, f, sockets...), want)
}

func TestNameIsWhateverTheProcessCallsItself(t *testing.T) {
	ns := kerneltest.New(t)
	f := newFinder(t, Options{})
	for _, name := range []string{
		"plain", "a\nb", `a"b`, `a\nb`, "<script>", "\xff\xfe\x80", ") S 1 (", "x) R 2 3", "{}",
		"123456789012345", "\x1b[31mred", "日本語日本",
	} {
		t.Run(name, func(t *testing.T) {
			got, cmd := start(t, ns, task{Name: []byte(name), Listen: true}, nil)
			check(t, find(t, f, got.Socket), map[uint64]Owner{
				got.Socket.Cookie: ownerOf(t, f, name, cmd.Process.Pid, 1),
			})
		})
	}
}

func TestNameIsTheMainThreads(t *testing.T) { eachWay(t, nameIsTheMainThreads) }

func nameIsTheMainThreads(t *testing.T, opts Options) {
	f := newFinder(t, opts)
	got, cmd := start(t, kerneltest.New(t), task{Name: []byte("main"), ThreadName: "other", Listen: true}, nil)
	check(t, find(t, f, got.Socket), map[uint64]Owner{
		got.Socket.Cookie: ownerOf(t, f, "main", cmd.Process.Pid, 1),
	})
}

func TestEverySocketOfAReuseportGroupHasItsOwnOwner(t *testing.T) {
	eachWay(t, everySocketOfAReuseportGroupHasItsOwnOwner)
}

func everySocketOfAReuseportGroupHasItsOwnOwner(t *testing.T, opts Options) {
	ns := kerneltest.New(t)
	f := newFinder(t, opts)
	a, cmdA := start(t, ns, task{Name: []byte("a"), Listen: true}, nil)
	b, cmdB := start(t, ns, task{Name: []byte("b"), Listen: true}, nil)
	check(t, find(t, f, a.Socket, b.Socket), map[uint64]Owner{
		a.Socket.Cookie: ownerOf(t, f, "a", cmdA.Process.Pid, 1),
		b.Socket.Cookie: ownerOf(t, f, "b", cmdB.Process.Pid, 1),
	})
}

func TestInheritedSocketIsTheOldestProcess(t *testing.T) {
	eachWay(t, inheritedSocketIsTheOldestProcess)
}

func inheritedSocketIsTheOldestProcess(t *testing.T, opts Options) {
	f := newFinder(t, opts)
	got, cmd := start(t, kerneltest.New(t), task{Name: []byte("parent"), Listen: true, Children: 2}, nil)
	check(t, find(t, f, got.Socket), map[uint64]Owner{
		got.Socket.Cookie: ownerOf(t, f, "parent", cmd.Process.Pid, 3),
	})

	endParent(t, cmd)
	owner := find(t, f, got.Socket)[got.Socket.Cookie]
	if owner.PID == 0 || owner.PID == cmd.Process.Pid || owner.Processes != 2 {
		t.Errorf("got %+v, want one of the two children", owner)
	}
}

// endParent kills a process whose children go on without it. Cmd.Kill would wait for them.
func endParent(t *testing.T, cmd *kerneltest.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait()
}

func TestSocketOfAProcessThatEndedHasNoOwner(t *testing.T) {
	eachWay(t, socketOfAProcessThatEndedHasNoOwner)
}

func socketOfAProcessThatEndedHasNoOwner(t *testing.T, opts Options) {
	f := newFinder(t, opts)
	got, cmd := start(t, kerneltest.New(t), task{Listen: true}, nil)
	if n := len(find(t, f, got.Socket)); n != 1 {
		t.Fatalf("%d owners, want 1", n)
	}
	cmd.Kill()
	if n := known(find(t, f, got.Socket)); n != 0 {
		t.Errorf("%d owners, want none", n)
	}
}

func TestSocketWithoutInodeHasNoOwner(t *testing.T) {
	f := newFinder(t, Options{})
	check(t, find(t, f, Socket{Cookie: 1}), map[uint64]Owner{})
	if len(f.known) != 0 {
		t.Errorf("%d sockets are looked for, want none", len(f.known))
	}
}
