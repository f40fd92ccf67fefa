package netns

import (
	"fmt"
	"os"
	"testing"

	"sockstate_exporter/internal/kerneltest"
)

func TestProcessesAreNamedAfterTheirContainer(t *testing.T) {
	a, b, own := kerneltest.New(t), kerneltest.New(t), os.Getpid()
	pids := map[int]string{
		sleeper(t, a).Process.Pid: "",
		sleeper(t, a).Process.Pid: "web",
		sleeper(t, a).Process.Pid: "",
		sleeper(t, b).Process.Pid: "",
	}
	d := discoverer(t, Config{Processes: true, NameOf: func(pid int) string {
		if pid == own {
			t.Error("asked for a name of the own namespace")
		}
		return pids[pid]
	}})

	s := openAmid(t, d)
	for ns, want := range map[*kerneltest.NetNS]string{a: "web", b: fmt.Sprintf("net:[%d]", b.Inode())} {
		if n := find(t, s, ns.Inode()); n == nil || n.Name != want {
			t.Errorf("got %v, want %s", n, want)
		}
	}
}

func TestNamespaceKeepsTheNameOfAContainerWhoseProcessEnds(t *testing.T) {
	ns := kerneltest.New(t)
	first := sleeper(t, ns)
	sleeper(t, ns)
	name := "first"
	d := discoverer(t, Config{Processes: true, NameOf: func(int) string { return name }})
	before := find(t, openAmid(t, d), ns.Inode())
	if before == nil {
		t.Fatal("namespace not found")
	}
	if before.ID.Cookie == 0 {
		kerneltest.Skip(t, "kernel without SO_NETNS_COOKIE")
	}
	first.Kill()
	name = "second"
	after := find(t, openAmid(t, d), ns.Inode())
	// Other processes of this host may be in namespaces, too.
	if after == nil || after.Name != "first" && after.Name != numbered("first", ns.Inode()) {
		t.Errorf("got %v, want %s", after, before.Name)
	}
}

func TestNamespaceGoesWithItsLastProcess(t *testing.T) {
	ns := kerneltest.New(t)
	p := sleeper(t, ns)
	inode := ns.Inode()
	d := discoverer(t, Config{Processes: true})
	if find(t, openAmid(t, d), inode) == nil {
		t.Fatal("namespace not found")
	}
	// ns keeps the namespace open, so no other one has its number.
	p.Kill()
	eventually(t, "it goes", func() bool {
		s := openAmid(t, d)
		defer s.Close()
		return find(t, s, inode) == nil
	})
}

func TestSpecHasPrecedenceOverProcesses(t *testing.T) {
	a, b := kerneltest.New(t), kerneltest.New(t)
	dir := t.TempDir()
	pin(t, a, dir, "blue")
	sleeper(t, a)
	pid := sleeper(t, b).Process.Pid
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*"), Processes: true, NameOf: func(p int) string {
		if p == pid {
			return "blue"
		}
		return ""
	}})
	s := openAmid(t, d)
	for ns, want := range map[*kerneltest.NetNS]string{a: "blue", b: numbered("blue", b.Inode())} {
		if n := find(t, s, ns.Inode()); n == nil || n.Name != want {
			t.Errorf("got %v, want %s", n, want)
		}
	}
}
