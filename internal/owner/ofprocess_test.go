package owner

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/container/cgroup"
	"sockstate_exporter/internal/kerneltest"
)

const sliceName, sliceSuffix = "sockstate-owner-test-", ".slice"

// newCgroup makes a cgroup that is removed when the test ends. It also removes cgroups that killed
// tests have left.
func newCgroup(t *testing.T, path string) (dir string, id uint64) {
	t.Helper()
	kerneltest.RequireRoot(t)
	hierarchy := cgroup.OpenHierarchy("/sys/fs/cgroup")
	defer hierarchy.Close()
	root := hierarchy.Root()
	if root == "" {
		kerneltest.Skip(t, "needs cgroup2 mounted on /sys/fs/cgroup or below")
	}
	left, err := filepath.Glob(filepath.Join(root, sliceName+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), sliceName), sliceSuffix))
		if err == nil && unix.Kill(pid, 0) != nil {
			removeCgroup(dir)
		}
	}
	slice := filepath.Join(root, sliceName+strconv.Itoa(os.Getpid())+sliceSuffix)
	dir = filepath.Join(slice, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { removeCgroup(slice) })
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return dir, st.Ino
}

// removeCgroup removes a cgroup and those below, unless they have processes.
func removeCgroup(dir string) {
	below, _ := os.ReadDir(dir)
	for _, b := range below {
		if b.IsDir() {
			removeCgroup(filepath.Join(dir, b.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

func join(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
}

func TestOfProcessWhileItRunsAndAfterwards(t *testing.T) {
	for path, want := range map[string]Owner{
		`foo@bar\x2dbaz.service`:                              {Unit: `foo@bar\x2dbaz.service`},
		`docker-` + strings.Repeat("0123", 16) + `.scope/a.b`: {Unit: `docker-` + strings.Repeat("0123", 16) + ".scope", Runtime: "docker", Container: strings.Repeat("0123", 16)},
	} {
		t.Run(path, func(t *testing.T) {
			dir, id := newCgroup(t, path)
			f := newFinder(t, Options{})
			if !f.root {
				kerneltest.Skip(t, "needs procfs of the initial pid namespace")
			}
			_, cmd := start(t, kerneltest.New(t), task{Name: []byte("binder")}, nil)
			pid, began := uint32(cmd.Process.Pid), startOf(t, cmd.Process.Pid)
			join(t, dir, cmd.Process.Pid)

			live := want
			live.Process, live.Exe, live.PID, live.Processes = "binder", ownerOf(t, f, "", cmd.Process.Pid, 1).Exe, cmd.Process.Pid, 1
			expectProcess(t, f, pid, began, id, live, true)
			// Another process has its pid by now.
			expectProcess(t, f, pid, began-clockTick, id, want, true)

			cmd.Kill()
			expectProcess(t, f, pid, began, id, want, true)
			expectProcess(t, newFinder(t, Options{}), pid, began, id, want, true)

			removeCgroup(dir)
			expectProcess(t, f, pid, began, id, want, true)
			expectProcess(t, newFinder(t, Options{}), pid, began, id, Owner{}, false)
		})
	}
}

// A user to whom a cgroup is delegated, as systemd does for user managers, makes cgroups below it.
func TestUserCannotLookLikeAnotherUnit(t *testing.T) {
	container := strings.Repeat("a1", 32)
	for path, want := range map[string]string{
		"app.slice/postgresql.service":                              "user@65534/postgresql.service",
		"system.slice/postgresql.service":                           "user@65534/postgresql.service",
		"docker-" + container + ".scope":                            "user@65534/docker-a1a1a1a1a1a1",
		"kubepods.slice/cri-containerd-" + container + ".scope":     "user@65534/containerd-a1a1a1a1a1a1",
		"x.service/docker/" + container:                             "user@65534/x.service",
		"user.slice/user-0.slice/user@0.service/postgresql.service": "user@65534/postgresql.service",
		"init.scope":               "user@65534.service",
		"odd name\"\u202e.service": "user@65534.service",
	} {
		t.Run(path, func(t *testing.T) {
			delegated, _ := newCgroup(t, "user@65534.service")
			for _, file := range []string{"", "cgroup.procs"} {
				if err := os.Chown(filepath.Join(delegated, file), nobody, nobody); err != nil {
					t.Fatal(err)
				}
			}
			got, cmd := start(t, kerneltest.New(t), task{Name: []byte("postgres"), Listen: true, Delegated: delegated, Drop: true, Below: path}, nil)
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(delegated, path), &st); err != nil || st.Uid != nobody {
				t.Fatalf("the user's cgroup: uid %d, %v", st.Uid, err)
			}
			f := newFinder(t, Options{})
			if !f.root {
				kerneltest.Skip(t, "needs procfs of the initial pid namespace")
			}
			found, ok := f.OfProcess(uint32(cmd.Process.Pid), startOf(t, cmd.Process.Pid), st.Ino)
			if !ok || found.Service() != want {
				t.Errorf("bind(): service %q, want %q", found.Service(), want)
			}
			if found := find(t, f, got.Socket)[got.Socket.Cookie]; found.Service() != want {
				t.Errorf("listener: service %q, want %q", found.Service(), want)
			}
		})
	}
}

// startOf is when a process started, after boot.
func startOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	p, err := procfs.NewProc(pid)
	if err != nil {
		t.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(stat.Starttime) * clockTick
}

func expectProcess(t *testing.T, f *Finder, pid uint32, began time.Duration, cgroup uint64, want Owner, wantOK bool) {
	t.Helper()
	got, ok := f.OfProcess(pid, began, cgroup)
	if got != want || ok != wantOK {
		t.Fatalf("got %+v, %t; want %+v, %t", got, ok, want, wantOK)
	}
}

// Without cgroup2, as on a host with only cgroup v1, the process is known while it runs.
func TestOfProcessWithoutCgroup2(t *testing.T) {
	empty := t.TempDir()
	f := newFinder(t, Options{Cgroup: empty})
	_, cmd := start(t, kerneltest.New(t), task{Name: []byte("binder")}, nil)
	pid, began := uint32(cmd.Process.Pid), startOf(t, cmd.Process.Pid)
	got, ok := f.OfProcess(pid, began, 1)
	if want := ownerOf(t, f, "binder", cmd.Process.Pid, 1); !f.root || !ok || got != want {
		t.Errorf("got %+v, %t; want %+v", got, ok, want)
	}
	cmd.Kill()
	expectProcess(t, f, pid, began, 1, Owner{}, false)

	// In a pid namespace another process may have that pid.
	server := nginx()
	f = newFinder(t, Options{Cgroup: empty, Proc: newFakeProc(t, server).path})
	expectProcess(t, f, uint32(server.pid), time.Duration(server.start)*clockTick, 1, Owner{}, false)
}

func TestPlacesOfCgroupsAreBounded(t *testing.T) {
	c := &cgroupIDs{known: make(map[uint64]cgroup.Place)}
	for id := range uint64(3 * maxCgroups) {
		c.keep(id, cgroup.Place{Unit: fmt.Sprint(id)})
		if p, ok := c.place(id); !ok || p.Unit != fmt.Sprint(id) {
			t.Fatalf("cgroup %d: got %v, %t", id, p, ok)
		}
	}
	if len(c.known) != maxCgroups {
		t.Errorf("%d places kept, want %d", len(c.known), maxCgroups)
	}
}
