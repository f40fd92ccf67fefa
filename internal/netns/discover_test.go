package netns

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
)

func TestNamesGlobsAndPaths(t *testing.T) {
	a, b, c := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	dir, other := t.TempDir(), t.TempDir()
	pin(t, a, dir, "blue")
	pin(t, b, dir, "red")
	path := pin(t, c, other, "green")

	for want, asked := range map[string][]string{
		"":                     nil,
		"blue=1":               {"blue"},
		"blue=1 red=2":         {"*"},
		"red=2":                {"r?d"},
		"green=3":              {path},
		"green=3 red=2":        {filepath.Join(other, "*"), "red", "red"},
		a.Path() + "=1":        {a.Path()},
		"blue=1 green=3 red=2": {"*", path},
	} {
		s := open(t, discoverer(t, Config{Dir: dir, Specs: specs(t, asked...)}))
		if got := names(s, a, b, c); got != want {
			t.Errorf("%q: got %s, want %s", asked, got, want)
		}
	}
}

func TestSpecThatMatchesNothingIsNoError(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	s := open(t, discoverer(t, Config{
		Dir:   missing,
		Specs: specs(t, "blue", "*", filepath.Join(missing, "*"), missing, "/proc/4194305/ns/net"),
	}))
	if len(s.Namespaces) != 0 {
		t.Errorf("got %s", names(s))
	}
}

func TestOwnNamespaceIsLeftOut(t *testing.T) {
	d := discoverer(t, Config{Specs: specs(t, "/proc/self/ns/net", "/proc/thread-self/ns/net")})
	if s := open(t, d); len(s.Namespaces) != 0 {
		t.Errorf("got %s", names(s))
	}
	// Nor does it count against the limit.
	if found := d.find(new(Set), func(err error) { t.Error(err) }); len(found) != 0 {
		t.Errorf("got %d candidates, want none", len(found))
	}
}

func TestFileThatIsNoNetworkNamespaceCostsOnlyItself(t *testing.T) {
	ns := kerneltest.New(t)
	dir := t.TempDir()
	pin(t, ns, dir, "good")
	empty, fifo, mount := filepath.Join(dir, "empty"), filepath.Join(dir, "fifo"), filepath.Join(dir, "mount")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	bind(t, "/proc/self/ns/uts", mount)

	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})
	open(t, d) // a name that is just being made looks the same
	s := d.Open()
	defer s.Close()
	if got := names(s, ns); got != "good=1" {
		t.Errorf("got %s", got)
	}
	// Docker leaves an ordinary file for a minute after a stop: a glob passes over it.
	want := mount + ": not a network namespace, but a namespace of another kind (0x4000000)"
	if s.Err == nil || s.Err.Error() != want || !errors.Is(s.Err, ErrNotNetNS) {
		t.Errorf("got error %v\nwant %s", s.Err, want)
	}
	d = discoverer(t, Config{Dir: dir, Specs: specs(t, "good", "empty", fifo)})
	open(t, d)
	s = d.Open()
	defer s.Close()
	if want := empty + ": not a network namespace\n" + fifo + ": not a network namespace"; s.Err == nil || s.Err.Error() != want {
		t.Errorf("asked for by name: got error %v\nwant %s", s.Err, want)
	}
}

func TestNameThatIsJustBeingMadeIsNoError(t *testing.T) {
	ns := kerneltest.New(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "blue")
	if err := os.WriteFile(path, nil, 0o600); err != nil { // as "ip netns add" begins
		t.Fatal(err)
	}
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})
	if got := names(open(t, d)); got != "" {
		t.Errorf("got %s", got)
	}
	bind(t, ns.Path(), path)
	if got := names(open(t, d), ns); got != "blue=1" {
		t.Errorf("got %s", got)
	}
	unpin(t, path)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, d) // it is another one that begins
}

func TestFileOfAnotherKindIsNotEvenOpened(t *testing.T) {
	inode, err := discoverer(t, Config{}).stat(os.DevNull)
	if inode != 0 || !errors.Is(err, ErrNotNetNS) {
		t.Errorf("got %d, error %v, want %v", inode, err, ErrNotNetNS)
	}
}

func TestDescriptorIsOfTheNamespace(t *testing.T) {
	ns := kerneltest.New(t)
	index := link(t, rtnl(t, ns), bridge("inside"))
	dir := t.TempDir()
	pin(t, ns, dir, "blue")
	n := open(t, discoverer(t, Config{Dir: dir, Specs: specs(t, "blue")})).Namespaces[0]
	check(t, interfaces(t, n.FD()), index, "inside")
}

func TestChangesBetweenFindingAndOpening(t *testing.T) {
	a, b, c := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t)
	dir := t.TempDir()
	blue, red := pin(t, a, dir, "blue"), pin(t, b, dir, "red")
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pid, moved := sleeper(t, c).Process.Pid, sleeper(t, kerneltest.New(t)).Process.Pid

	var got Set
	var errs []error
	d := discoverer(t, Config{})
	d.wasNotNetNS, d.notNetNS = map[string]bool{empty: true}, make(map[string]bool)
	d.openAll(&got, []*candidate{
		{inode: 1, path: blue},                        // was another namespace
		{inode: b.Inode(), path: red},                 // as found
		{inode: 2, path: b.Path()},                    // became one that there is already
		{inode: 3, path: "/proc/thread-self/ns/net"},  // became ours
		{inode: 4, path: empty},                       // was unmounted
		{inode: 5, path: filepath.Join(dir, "gone")},  // was deleted
		{inode: 6, pids: []int{moved}},                // moved to another namespace
		{inode: c.Inode(), pids: []int{1 << 23, pid}}, // the first of them ended
	}, func(err error) { errs = append(errs, err) })
	defer got.Close()

	want := []uint64{a.Inode(), b.Inode(), c.Inode()}
	var inodes []uint64
	for _, n := range got.Namespaces {
		inodes = append(inodes, n.ID.Inode)
	}
	if !slices.Equal(inodes, want) {
		t.Errorf("got %v, want %v", inodes, want)
	}
	if len(errs) != 1 || errs[0].Error() != empty+": not a network namespace" {
		t.Errorf("got errors %v, want one of %s", errs, empty)
	}
}

func TestProcessesAreAskedInTheOrderOfTheirNumbers(t *testing.T) {
	proc := t.TempDir()
	for _, pid := range []string{"10", "9", "100", "self"} {
		if err := os.MkdirAll(filepath.Join(proc, pid, "ns"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("net:[4000000000]", filepath.Join(proc, pid, "ns/net")); err != nil {
			t.Fatal(err)
		}
	}
	found, err := discoverer(t, Config{Proc: proc}).findProcesses(new(Set), nil, nil)
	if err != nil || len(found) != 1 || !slices.Equal(found[0].pids, []int{9, 10, 100}) {
		t.Errorf("got %v, error %v, want one of 9, 10 and 100", found, err)
	}
}

func TestNamesThatIPHasMade(t *testing.T) {
	ip := kerneltest.RequireCommand(t, "ip")
	mounts.RequirePrivate(t)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount tmpfs on /run: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/run", unix.MNT_DETACH); err != nil {
			t.Errorf("unmount /run: %v", err)
		}
	})
	own := kerneltest.New(t)
	d := discoverer(t, Config{Specs: specs(t, "blu*")})
	for _, step := range []struct {
		arg  []string
		want string
	}{
		{nil, ""},
		{[]string{"add", "blue"}, "blue=0"},
		{[]string{"add", "red"}, "blue=0"},
		{[]string{"delete", "blue"}, ""},
	} {
		if step.arg != nil {
			own.Output(t, ip, append([]string{"netns"}, step.arg...)...)
		}
		if got := names(open(t, d)); got != step.want {
			t.Errorf("%q: got %q, want %q", step.arg, got, step.want)
		}
	}
}
