package netns

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

func TestProcessesAreNamedAfterTheirContainer(t *testing.T) {
	a, b, own := kerneltest.New(t), kerneltest.New(t), os.Getpid()
	pids := map[int]string{
		sleeper(t, a).Process.Pid: "",
		sleeper(t, a).Process.Pid: "web",
		sleeper(t, a).Process.Pid: "",
		sleeper(t, b).Process.Pid: "",
	}
	d := discoverer(t, Config{Processes: true, ContainerOf: func(pid int) (sock.Container, string) {
		if pid == own {
			t.Error("asked for a name of the own namespace")
		}
		return sock.Container{Name: pids[pid]}, ""
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
	d := discoverer(t, Config{Processes: true, ContainerOf: func(int) (sock.Container, string) { return sock.Container{Name: name}, "" }})
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
	if after == nil || after.Name != "first" && after.Name != numbered("first", ns.Inode(), sock.MaxPrintable) {
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
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*"), Processes: true, ContainerOf: func(p int) (sock.Container, string) {
		if p == pid {
			return sock.Container{Name: "blue"}, ""
		}
		return sock.Container{}, ""
	}})
	s := openAmid(t, d)
	for ns, want := range map[*kerneltest.NetNS]string{a: "blue", b: numbered("blue", b.Inode(), sock.MaxPrintable)} {
		if n := find(t, s, ns.Inode()); n == nil || n.Name != want {
			t.Errorf("got %v, want %s", n, want)
		}
	}
}

// A file that a glob finds is called by its container. One that is named keeps its name.
func TestFilesOfAGlobAreCalledByTheirContainer(t *testing.T) {
	withCookie(t)
	for _, processes := range []bool{false, true} {
		pod, blue, late, dir, proc := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t), t.TempDir(), newFakeProc(t)
		pin(t, pod, dir, "cni-1")
		pin(t, blue, dir, "blue")
		pin(t, late, dir, "cni-2")
		containers := map[int]string{7: "shop/web", 8: "shop/db"}
		proc.put("7", pod)
		proc.put("8", blue)
		d := discoverer(t, Config{Dir: dir, Specs: specs(t, "blue", "cni-*"), Processes: processes, Proc: proc.path, ContainerOf: named(containers)})
		if got := names(open(t, d), pod, blue, late); got != "blue=2 cni-2=3 shop/web=1" {
			t.Errorf("processes %t: got %s", processes, got)
		}
		// Its first process comes after the file.
		containers[9] = "shop/late"
		proc.put("9", late)
		if got := names(open(t, d), pod, blue, late); got != "blue=2 shop/late=3 shop/web=1" {
			t.Errorf("processes %t: got %s", processes, got)
		}
		// A name is kept, and so is that of a file after a minute.
		containers[7] = "another"
		if got := names(open(t, d), pod, blue, late); got != "blue=2 shop/late=3 shop/web=1" {
			t.Errorf("processes %t: got %s", processes, got)
		}
	}
}

func TestContainerNamesTheOldestOfItsNamespaces(t *testing.T) {
	withCookie(t)
	nested, pod, joined, proc := kerneltest.New(t), kerneltest.New(t), kerneltest.New(t), newFakeProc(t)
	long := "shop/" + strings.Repeat("x", 200)
	web := sock.Container{Runtime: sock.RuntimeContainerd, Namespace: "shop", Pod: long[5:], PodUID: "1"}
	sidecar := sock.Container{Runtime: sock.RuntimeDocker, Name: "sidecar", Joined: true}
	of := map[int]sock.Container{7: web, 9: web, 11: sidecar, 12: {Runtime: sock.RuntimeDocker, Name: "db"}}
	proc.put("7", pod)
	proc.put("9", nested)
	proc.put("11", joined)
	proc.put("12", joined)
	d := discoverer(t, Config{Processes: true, Proc: proc.path, ContainerOf: func(pid int) (sock.Container, string) { return of[pid], "0123456789ab" }})
	for range 2 {
		s := open(t, d)
		for ns, want := range map[*kerneltest.NetNS]string{pod: long, nested: numbered(long, nested.Inode(), MaxName), joined: "db"} {
			n := find(t, s, ns.Inode())
			if n == nil || n.Name != want || Label(n.Name, uint32(n.ID.Inode)) != want {
				t.Errorf("got %v, want %s", n, want)
			}
			if ns != joined && n.Container != web || ns == joined && n.Container != of[12] {
				t.Errorf("%s is of %+v", want, n.Container)
			}
		}
	}
}

// A container whose files are read late has a name then.
func TestShortIDGivesWayToAName(t *testing.T) {
	withCookie(t)
	ns, other, proc := kerneltest.New(t), kerneltest.New(t), newFakeProc(t)
	proc.put("7", ns)
	proc.put("8", other)
	var name string
	d := discoverer(t, Config{Processes: true, Proc: proc.path, ContainerOf: func(pid int) (sock.Container, string) {
		if pid == 8 {
			return sock.Container{}, "0123456789ab"
		}
		return sock.Container{Name: name}, "0123456789ab"
	}})
	both := numbered("0123456789ab", ns.Inode(), sock.MaxPrintable)
	for range 2 {
		if got := proc.look(d, ns); got != "found "+both {
			t.Errorf("got %q, want %q", got, both)
		}
	}
	name = "web"
	for range 2 {
		if got := proc.look(d, ns); got != "found web" {
			t.Errorf("got %q, want found web", got)
		}
	}
	if got, want := proc.look(d, other), "found "+numbered("0123456789ab", other.Inode(), sock.MaxPrintable); got != want {
		t.Errorf("the other one: got %q, want %q", got, want)
	}
}
