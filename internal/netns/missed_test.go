package netns

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/linux"
)

// withCookie skips the test where namespaces have none: a known one cannot be told from another then.
func withCookie(t *testing.T) {
	t.Helper()
	if cookie, err := linux.NetNSCookie(); err != nil || cookie == 0 {
		kerneltest.Skip(t, "kernel without SO_NETNS_COOKIE")
	}
}

// longAgo makes all that is missed be missed for as long as it takes to be given up.
func (d *Discoverer) longAgo() {
	for _, k := range d.known {
		k.since = k.since.Add(-keepMissed)
	}
}

func TestNamespaceIsOpenedThroughAnyOfItsProcesses(t *testing.T) {
	withCookie(t)
	ns, proc := kerneltest.New(t), newFakeProc(t)
	for pid := range 100 {
		proc.putDead(pidString(100+pid), ns)
	}
	proc.put("7000", ns)
	d := discoverer(t, Config{Processes: true, Proc: proc.path, ContainerOf: named(map[int]string{7000: "web"})})
	for range 3 {
		if got := proc.look(d, ns); got != "found web" {
			t.Errorf("got %q, want found web", got)
		}
	}
	// Its last process ends, and another one is in it by now.
	proc.remove("7000")
	proc.put("8000", ns)
	if got := proc.look(d, ns); got != "found web" {
		t.Errorf("another process: got %q, want found web", got)
	}
}

// A process that forks and ends all the time may have another pid by the end of the first look.
func TestNamespaceIsLookedForTwice(t *testing.T) {
	withCookie(t)
	ns, proc := kerneltest.New(t), newFakeProc(t)
	proc.put("7", ns)
	d := discoverer(t, Config{Processes: true, Proc: proc.path})
	proc.look(d, ns)
	proc.remove("7")
	proc.put("8", ns)
	s := new(Set)
	d.search(s, nil, func(err error) { t.Error(err) })
	defer s.Close()
	if find(t, s, ns.Inode()) == nil {
		t.Error("the namespace of process 8 is not found")
	}
}

func TestNamespaceStaysWithItsLastThread(t *testing.T) {
	withCookie(t)
	ns, other, proc := kerneltest.New(t), kerneltest.New(t), newFakeProc(t)
	proc.put("7", ns)
	proc.put("7/task/8", other)
	proc.put("7/task/9", ns)
	d := discoverer(t, Config{Processes: true, Proc: proc.path, ContainerOf: named(map[int]string{7: "web"})})
	proc.look(d, ns)
	proc.remove("7") // as procfs shows a process whose first thread has ended
	for range keepMisses + 1 {
		if got := proc.look(d, ns); got != "found web" {
			t.Errorf("got %q, want found web", got)
		}
		d.longAgo()
	}
	proc.remove("7/task/9")
	if got := proc.look(d, ns); got != "missed web" {
		t.Errorf("without the thread: got %q, want missed web", got)
	}
}

func TestNamespaceStaysWhileItIsMounted(t *testing.T) {
	withCookie(t)
	ns := kerneltest.New(t)
	process := sleeper(t, ns)
	d := discoverer(t, Config{Processes: true, ContainerOf: named(map[int]string{process.Process.Pid: "web"})})
	look := func() string {
		s := openAmid(t, d)
		defer s.Close()
		return shown(t, s, ns)
	}
	if got := look(); got != "found web" {
		t.Fatalf("got %q, want found web", got)
	}
	path := pin(t, ns, t.TempDir(), `a name\with "odd" bytes`)
	process.Kill()
	for range keepMisses + 1 {
		if got := look(); got != "found web" {
			t.Errorf("mounted: got %q, want found web", got)
		}
		d.longAgo()
	}
	unpin(t, path)
	if got := look(); got != "missed web" {
		t.Errorf("deleted: got %q, want missed web", got)
	}
}

func TestMissedNamespaceIsTheSameWhenItIsFoundAgain(t *testing.T) {
	withCookie(t)
	ns, proc := kerneltest.New(t), newFakeProc(t)
	proc.put("7", ns)
	names := map[int]string{7: "web"}
	d := discoverer(t, Config{Processes: true, Proc: proc.path, ContainerOf: named(names)})
	proc.look(d, ns)
	before := descriptors(t)
	for range 2 * keepMisses {
		proc.putDead("7", ns)
		if got := proc.look(d, ns); got != "missed web" {
			t.Errorf("got %q, want missed web", got)
		}
	}
	if now := descriptors(t); now != before {
		t.Errorf("missed: %d descriptors are open, want %d", now, before)
	}
	names[7] = "another"
	proc.put("7", ns)
	if got := proc.look(d, ns); got != "found web" {
		t.Errorf("found again: got %q, want found web", got)
	}

	// It is given up after so many times, and so long.
	proc.remove("7")
	for i := range keepMisses - 1 {
		if got := proc.look(d, ns); got != "missed web" {
			t.Errorf("missed %d times: got %q, want missed web", i+1, got)
		}
		d.longAgo()
	}
	if got := proc.look(d, ns); got != "" {
		t.Errorf("missed %d times: got %q, want nothing", keepMisses, got)
	}
	if len(d.known) != 0 {
		t.Errorf("%d namespaces are remembered", len(d.known))
	}
	proc.put("7", ns)
	if got := proc.look(d, ns); got != "found another" {
		t.Errorf("forgotten: got %q, want found another", got)
	}
}

func TestFileThatIsMissedAMoment(t *testing.T) {
	withCookie(t)
	ns, dir := kerneltest.New(t), t.TempDir()
	path := pin(t, ns, dir, "blue")
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})
	for _, want := range []string{"found blue", "missed blue", "found blue"} {
		if want == "missed blue" {
			unpin(t, path)
		} else if want == "found blue" && d.known != nil {
			pin(t, ns, dir, "blue")
		}
		s := open(t, d)
		if got := shown(t, s, ns); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		s.Close()
	}
}

func TestSuccessorHasTheNameAtOnce(t *testing.T) {
	withCookie(t)
	first, second, dir, proc := kerneltest.New(t), kerneltest.New(t), t.TempDir(), newFakeProc(t)
	path := pin(t, first, dir, "blue")
	a, b := kerneltest.New(t), kerneltest.New(t)
	proc.put("7", a)
	d := discoverer(t, Config{
		Dir: dir, Specs: specs(t, "*"), Processes: true, Proc: proc.path, ContainerOf: named(map[int]string{7: "web", 8: "web"}),
	})
	if got := names(open(t, d), first, a); got != "blue=1 web=2" {
		t.Fatalf("got %s", got)
	}
	unpin(t, path)
	pin(t, second, dir, "blue")
	proc.remove("7")
	proc.put("8", b)
	s := open(t, d)
	if got := names(s, first, a, second, b); got != "blue=3 web=4" || len(s.Missed) != 0 {
		t.Errorf("got %s and missed %v, want the successors and nothing missed", got, s.Missed)
	}
}

// Those that have been missing for longest, and so are most likely deleted, are forgotten.
func TestMissedNamespacesAreBounded(t *testing.T) {
	d := discoverer(t, Config{})
	now := time.Now()
	d.known = make(map[ID]*known)
	for i := range uint64(2 * maxMissed) {
		d.known[ID{Inode: i, Cookie: i}] = &known{name: fmt.Sprint(i), misses: 1, since: now.Add(time.Duration(i) * time.Millisecond)}
	}
	s := new(Set)
	d.remember(s, nil, now)
	if len(s.Missed) != maxMissed || len(d.known) != maxMissed {
		t.Fatalf("%d are missed and %d known, want %d", len(s.Missed), len(d.known), maxMissed)
	}
	for _, m := range s.Missed {
		if m.ID.Inode < maxMissed {
			t.Errorf("%v is kept, though others were there later", m)
		}
	}
}

func TestParseMount(t *testing.T) {
	for line, want := range map[string]string{
		`100 29 0:4 net:[4026532317] /run/netns/blue rw shared:5 - nsfs none rw`: "/run/netns/blue",
		`100 29 0:4 net:[4026532317] /run/a\040b\134c\043 rw - nsfs none rw`:     `/run/a b\c#`,
		`100 29 0:4 mnt:[4026532317] /run/netns/blue rw - nsfs none rw`:          "",
		`100 29 0:4 / /net:[4026532317] rw - ext4 /dev/vda rw`:                   "",
		`100 29 0:4 net:[4026532317]`:                                            "",
		``:                                                                       "",
	} {
		inode, path, ok := parseMount(line)
		if !ok {
			path = ""
		}
		if path != want || ok && inode != 4026532317 {
			t.Errorf("%q: got %d, %q, %t, want %q", line, inode, path, ok, want)
		}
	}
}

const hostile = 65534

// A name stays with the namespace that had it first, whoever takes it later.
func TestNameStaysWithItsFirstOwner(t *testing.T) {
	withCookie(t)
	kerneltest.RequireRoot(t)
	web, blue, thief := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	dir, other := t.TempDir(), t.TempDir()
	pin(t, blue, dir, "blue")
	first := sleeper(t, web).Process.Pid
	containers := map[int]string{first: "web"}
	d := discoverer(t, Config{
		Dir: dir, Specs: specs(t, "blue", filepath.Join(other, "*"), "*"), Processes: true, ContainerOf: named(containers),
	})
	check := func(what string) {
		t.Helper()
		s := openAmid(t, d)
		defer s.Close()
		if got := shown(t, s, web); got != "found web" {
			t.Errorf("%s: the container's: got %q, want found web", what, got)
		}
		if got := shown(t, s, blue); got != "found blue" {
			t.Errorf("%s: the file's: got %q, want found blue", what, got)
		}
		if n := find(t, s, thief.Inode()); n != nil && (n.Name == "web" || n.Name == "blue") {
			t.Errorf("%s: the thief's is called %q", what, n.Name)
		}
	}
	check("at first")

	// A user's process in a namespace of its own has a container's name.
	cmd := thief.Command(t, "/proc/self/exe").As(hostile, hostile)
	cmd.Env = reexec.RoleEnv("sleep")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "blue", ""} {
		containers[cmd.Process.Pid] = name
		check(fmt.Sprintf("a user's container %q", name))
	}
	// A file of that name, of a Spec that comes first and of one that comes later.
	for _, path := range []string{pin(t, thief, other, "web"), pin(t, thief, dir, "web"), pin(t, thief, other, "blue")} {
		check("a file " + path)
	}
	// Further names of their own, of a Spec that comes first, and sorted first.
	pin(t, web, other, "0")
	pin(t, blue, other, "1")
	check("further files")
	// A process with another name in the same namespace.
	containers[sleeper(t, web).Process.Pid] = "first"
	containers[first] = "renamed"
	check("renamed")
}

// Where there is no room for a namespace, nobody takes its name meanwhile.
func TestNameIsKeptWhileThereIsNoRoom(t *testing.T) {
	withCookie(t)
	web, thief, dir, proc := kerneltest.New(t), kerneltest.New(t), t.TempDir(), newFakeProc(t)
	proc.put("7", web)
	d := discoverer(t, Config{
		Dir: dir, Specs: specs(t, "*"), Processes: true, Proc: proc.path, ContainerOf: named(map[int]string{7: "web"}), Limit: 1,
	})
	if got := proc.look(d, web); got != "found web" {
		t.Fatalf("got %q, want found web", got)
	}
	path := pin(t, thief, dir, "web")
	s := open(t, d)
	if got := shown(t, s, web); got != "missed web" {
		t.Errorf("no room: got %q, want missed web", got)
	}
	if got := shown(t, s, thief); got != "found "+path {
		t.Errorf("the other one: got %q, want found %s", got, path)
	}
	unpin(t, path)
	if got := proc.look(d, web); got != "found web" {
		t.Errorf("room again: got %q, want found web", got)
	}
}

// A file that leads elsewhere takes its name along: whoever may change it says what the name means.
func TestNameFollowsItsFile(t *testing.T) {
	withCookie(t)
	first, second, dir, proc := kerneltest.New(t), kerneltest.New(t), t.TempDir(), newFakeProc(t)
	path := pin(t, first, dir, "blue")
	proc.put("7", first)
	d := discoverer(t, Config{
		Dir: dir, Specs: specs(t, "blue"), Processes: true, Proc: proc.path, ContainerOf: named(map[int]string{7: "web"}),
	})
	if got := names(open(t, d), first, second); got != "blue=1" {
		t.Fatalf("got %s", got)
	}
	unpin(t, path)
	if got := names(open(t, d), first, second); got != "blue=1" {
		t.Errorf("without a file: got %s, want blue=1", got)
	}
	pin(t, second, dir, "blue")
	for range 2 {
		if got := names(open(t, d), first, second); got != "blue=2 web=1" {
			t.Errorf("with another file: got %s, want blue=2 web=1", got)
		}
	}
}

// A namespace that is made for a container has no name until its process is in the cgroup.
func TestNamespaceGetsItsNameLater(t *testing.T) {
	withCookie(t)
	ns, proc, containers := kerneltest.New(t), newFakeProc(t), make(map[int]string)
	proc.put("7", ns)
	d := discoverer(t, Config{Processes: true, Proc: proc.path, ContainerOf: named(containers)})
	if got, want := proc.look(d, ns), fmt.Sprintf("found net:[%d]", ns.Inode()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	containers[7] = "web"
	if got := proc.look(d, ns); got != "found web" {
		t.Errorf("got %q, want found web", got)
	}
}
