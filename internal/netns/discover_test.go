package netns

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
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
	s := open(t, discoverer(t, Config{Specs: specs(t, "/proc/self/ns/net", "/proc/thread-self/ns/net")}))
	if len(s.Namespaces) != 0 {
		t.Errorf("got %s", names(s))
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

	s := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")}).Open()
	defer s.Close()
	if got := names(s, ns); got != "good=1" {
		t.Errorf("got %s", got)
	}
	want := empty + ": not a network namespace\n" + fifo + ": not a network namespace\n" +
		mount + ": not a network namespace, but one of another kind (0x4000000)"
	if s.Err == nil || s.Err.Error() != want || !errors.Is(s.Err, ErrNotNetNS) {
		t.Errorf("got error %v\nwant %s", s.Err, want)
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
