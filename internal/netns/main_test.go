package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/mounts"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// TestMain runs the tests in a mount namespace of their own. The names that they pin end with it.
func TestMain(m *testing.M) {
	reexec.Play(map[string]func([]string) error{
		"sleep": func([]string) error {
			for {
				time.Sleep(time.Hour)
			}
		},
		"look": func(args []string) error {
			look(args[0])
			return nil
		},
	})
	mounts.Private()
	kerneltest.Main(m)
}

// pin gives the namespace a name in the directory, as "ip netns" does.
func pin(t testing.TB, ns *kerneltest.NetNS, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	bind(t, ns.Path(), path)
	return path
}

func bind(t testing.TB, source, path string) {
	t.Helper()
	mounts.RequirePrivate(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount %s on %s: %v", source, path, err)
	}
	t.Cleanup(func() { unpin(t, path) })
}

// unpin removes the name, if it still exists.
func unpin(t testing.TB, path string) {
	t.Helper()
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("unmount %s: %v", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func specs(t testing.TB, all ...string) []Spec {
	t.Helper()
	var parsed []Spec
	for _, s := range all {
		spec, err := ParseSpec(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, spec)
	}
	return parsed
}

func discoverer(t testing.TB, cfg Config) *Discoverer {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// open opens a Set that must have no error.
func open(t testing.TB, d *Discoverer) *Set {
	t.Helper()
	s := d.Open()
	t.Cleanup(func() { s.Close() })
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	return s
}

// openAmid opens a Set that also has the processes of the host. Some of their namespaces may not be
// entered.
func openAmid(t testing.TB, d *Discoverer) *Set {
	t.Helper()
	s := d.Open()
	t.Cleanup(func() { s.Close() })
	return s
}

// names shows which namespace has which name: "blue=1 red=2", by the position
// in known.
func names(s *Set, known ...*kerneltest.NetNS) string {
	var all []string
	for _, n := range s.Namespaces {
		position := 0
		for i, k := range known {
			if k.Inode() == n.ID.Inode {
				position = i + 1
			}
		}
		all = append(all, fmt.Sprintf("%s=%d", n.Name, position))
	}
	return strings.Join(all, " ")
}

// find returns nil if it is not there.
func find(t testing.TB, s *Set, inode uint64) *Namespace {
	t.Helper()
	var found *Namespace
	for _, n := range s.Namespaces {
		if n.ID.Inode != inode {
			continue
		}
		if found != nil {
			t.Errorf("namespace %d is there twice, as %q and %q", inode, found.Name, n.Name)
		}
		found = n
	}
	return found
}

// sleeper starts a process in the namespace.
func sleeper(t testing.TB, ns *kerneltest.NetNS) *kerneltest.Cmd {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe")
	cmd.Env = reexec.RoleEnv("sleep")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
