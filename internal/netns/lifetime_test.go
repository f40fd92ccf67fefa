package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/sock"
)

// patience is how long the tests wait for what the kernel does later.
const patience = 3 * time.Minute

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func TestDeletedNamespaceGoesWhenItsSetIsClosed(t *testing.T) {
	for how, enter := range map[string]func(*Namespace) error{
		"looked at": func(*Namespace) error { return nil },
		"entered":   func(n *Namespace) error { return linux.RunInNetNS(n.FD(), func() error { return nil }) },
		"asked for a name": func(n *Namespace) error {
			i := NewInterfaces(n.FD())
			defer i.Close()
			if name := i.Name(1); name != "lo" {
				return fmt.Errorf("interface 1 is %q, want lo", name)
			}
			return nil
		},
	} {
		t.Run(how, func(t *testing.T) {
			a, b := kerneltest.New(t), kerneltest.New(t)
			kept := rtnl(t, a)
			link(t, kept, &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1", PeerNamespace: netlink.NsFd(b.FD()),
			})
			dir := t.TempDir()
			path := pin(t, b, dir, "doomed")
			d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})

			s := open(t, d)
			if err := enter(s.Namespaces[0]); err != nil {
				t.Fatal(err)
			}
			b.Close()
			unpin(t, path)
			if _, err := kept.LinkByName("v0"); err != nil {
				t.Fatal(err)
			}
			s.Close()
			// The kernel removes both ends of a veth pair when one end goes.
			eventually(t, "the namespace goes", func() bool {
				_, err := kept.LinkByName("v0")
				return err != nil
			})
			if s := open(t, d); len(s.Namespaces) != 0 {
				t.Errorf("got %s", names(s))
			}
		})
	}
}

func TestReusedNumberIsAnotherNamespace(t *testing.T) {
	dir := t.TempDir()
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})
	identify := func() ID {
		ns := kerneltest.New(t)
		defer ns.Close()
		path := pin(t, ns, dir, "blue")
		defer unpin(t, path)
		var ids [2]ID
		for i := range ids {
			s := open(t, d)
			if got := names(s, ns); got != "blue=1" {
				t.Fatalf("got %s", got)
			}
			ids[i] = s.Namespaces[0].ID
			s.Close()
		}
		if ids[0] != ids[1] {
			t.Fatalf("got %v, a moment ago %v", ids[1], ids[0])
		}
		return ids[0]
	}

	known := make(map[uint64]ID)
	eventually(t, "a number is used again", func() bool {
		id := identify()
		if id.Cookie == 0 {
			kerneltest.Skip(t, "kernel without SO_NETNS_COOKIE")
		}
		before, reused := known[id.Inode]
		known[id.Inode] = id
		if reused && before == id {
			t.Fatalf("got %v twice, of two namespaces", id)
		}
		return reused
	})
}

func TestReusedNumberDoesNotInheritTheNameOfAContainer(t *testing.T) {
	ns := kerneltest.New(t)
	sleeper(t, ns)
	d := discoverer(t, Config{Processes: true, ContainerOf: func(int) (sock.Container, string) { return sock.Container{Name: "now"}, "" }})
	d.known = map[ID]*known{{Inode: ns.Inode(), Cookie: 1}: {name: "before"}}
	for range 2 {
		n := find(t, openAmid(t, d), ns.Inode())
		if n == nil || n.Name != "now" && n.Name != numbered("now", ns.Inode(), sock.MaxPrintable) {
			t.Errorf("got %v, want now", n)
		}
	}
}

func TestNamespaceIsDeletedWhileItIsRead(t *testing.T) {
	dir := t.TempDir()
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})
	round := func() {
		ns := kerneltest.New(t)
		path := pin(t, ns, dir, "doomed")
		s := open(t, d)
		if got := names(s, ns); got != "doomed=1" {
			t.Fatalf("got %s", got)
		}
		ns.Close()
		unpin(t, path)
		n := s.Namespaces[0]
		// What is open can still be entered.
		if err := linux.RunInNetNS(n.FD(), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	round()
	before := descriptors(t)
	for range 100 {
		round()
	}
	if now := descriptors(t); now != before {
		t.Errorf("got %d descriptors, had %d", now, before)
	}
}

func TestNamespacesComeAndGoWhileOthersAreOpened(t *testing.T) {
	dir := t.TempDir()
	stays := kerneltest.New(t)
	pin(t, stays, dir, "stays")
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*", filepath.Join(dir, "*"))})
	d.Open().Close()
	before := descriptors(t)

	done := make(chan error)
	stop := make(chan struct{})
	go func() { done <- comeAndGo(dir, stop) }()
	seen, missed := 0, 0
	eventually(t, "a namespace is met", func() bool {
		s := d.Open()
		defer s.Close()
		if s.Err != nil && !errors.Is(s.Err, ErrNotNetNS) { // a name without its namespace
			t.Errorf("got error %v", s.Err)
		}
		if n := find(t, s, stays.Inode()); n == nil || n.Name != "stays" {
			t.Errorf("got %v, want stays", n)
		}
		switch len(s.Namespaces) {
		case 1:
			missed++
		case 2:
			seen++
		}
		return t.Failed() || seen >= 20 && missed >= 20
	})
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("got %d descriptors, had %d", now, before)
	}
}

// comeAndGo makes and deletes a namespace over and over.
func comeAndGo(dir string, stop chan struct{}) error {
	path := filepath.Join(dir, "goes")
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		ns, err := kerneltest.Open()
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		ns.Close()
		time.Sleep(5 * time.Millisecond) // so that the discoverer sees it now and then
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
}

func TestFiveHundredNamespaces(t *testing.T) {
	const n = 500
	dir := t.TempDir()
	for i := range n {
		ns := kerneltest.New(t)
		pin(t, ns, dir, fmt.Sprintf("n%03d", i))
		ns.Close()
	}
	d := discoverer(t, Config{Dir: dir, Specs: specs(t, "*")})
	before := descriptors(t)
	s := open(t, d)
	if len(s.Namespaces) != n || s.Dropped != 0 {
		t.Fatalf("got %d, dropped %d, want %d and 0", len(s.Namespaces), s.Dropped, n)
	}
	for i, ns := range s.Namespaces {
		if want := fmt.Sprintf("n%03d", i); ns.Name != want {
			t.Fatalf("got %q, want %q", ns.Name, want)
		}
	}
	if now := descriptors(t); now != before+n {
		t.Errorf("got %d descriptors, want %d", now, before+n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("closed: got %d descriptors, want %d", now, before)
	}
}
