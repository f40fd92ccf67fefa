package containers

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// A node is a machine for one runtime: a network namespace, and a process that is the first one of its pid
// namespace and has mounts of its own. All that runs on it ends with it.
type node struct {
	ns  *kerneltest.NetNS
	dir string // for the runtime's files
	log *kerneltest.Log

	// hostPIDs says that it has no pid namespace of its own: what runs on it sees all processes.
	hostPIDs bool

	init *exec.Cmd
}

// withHostPIDs is an option.
func withHostPIDs(n *node) { n.hostPIDs = true }

// newNode starts a node that runs a command, which may be empty. It removes what is left of its cgroups
// afterwards.
func newNode(t *testing.T, command ...string) *node {
	t.Helper()
	n := &node{ns: kerneltest.New(t), dir: shortDir(t), log: new(kerneltest.Log)}
	n.start(t, command...)
	return n
}

// shortDir is a folder whose name leaves room for the paths of Unix sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "node") //nolint:usetesting // that of TempDir is longer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (n *node) start(t *testing.T, command ...string) {
	t.Helper()
	kerneltest.RequireRoot(t)
	before := cgroups()
	t.Cleanup(func() { removeCgroups(before) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the node:\n%s", n.log)
		}
	})
	if n.hostPIDs {
		n.startInHostPIDs(t, command...)
		return
	}
	cmd := n.ns.Command(t, "/proc/self/exe", command...)
	n.init = cmd.Cmd
	n.init.Env = reexec.RoleEnv("node")
	n.init.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	n.init.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	n.init.Stdout, n.init.Stderr = n.log, n.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// startInHostPIDs starts a node that ends, with all that runs on it, when the test closes a pipe or ends.
func (n *node) startInHostPIDs(t *testing.T, command ...string) {
	t.Helper()
	ends, lives, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	n.init = exec.Command("/proc/self/exe", command...)
	n.init.Env = reexec.RoleEnv("node in the host's pids")
	n.init.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setsid: true}
	n.init.Stdout, n.init.Stderr, n.init.ExtraFiles = n.log, n.log, []*os.File{ends}
	err = n.ns.Run(n.init.Start)
	_ = ends.Close()
	if err != nil {
		_ = lives.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = lives.Close()
		if err := n.init.Wait(); err != nil {
			t.Errorf("end the node: %v", err)
		}
	})
}

// beNodeInHostPIDs is the process of such a node. Whatever loses its parent becomes its child.
func beNodeInHostPIDs(command []string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { // until all children have ended
		for {
			_, _ = unix.Wait4(-1, nil, 0, nil)
		}
	}()
	_, _ = os.NewFile(3, "pipe").Read(make([]byte, 1)) // until the test has closed it
	for {
		children := childrenOf(os.Getpid())
		if len(children) == 0 {
			return nil
		}
		for _, pid := range children {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func childrenOf(parent int) (children []int) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil
	}
	all, _ := fs.AllProcs()
	for _, p := range all {
		if stat, err := p.Stat(); err == nil && stat.PPID == parent {
			children = append(children, p.PID)
		}
	}
	return children
}

// beNode is the first process of a node. It reaps what nobody waits for.
func beNode(command []string) error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	// What runtimes make in /run is the node's.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	if len(command) > 0 {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); errors.Is(err, unix.ECHILD) {
			_ = unix.Pause()
		}
	}
}

// run runs a command on the node, and returns what it prints.
func (n *node) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := n.try(t, args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

func (n *node) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	enter := []string{"--target", strconv.Itoa(n.init.Process.Pid), "--mount", "--pid", "--net", "--"}
	cmd := n.ns.Command(t, "nsenter", append(enter, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// cgroups are the folders in which runtimes make those of their containers, and all below.
func cgroups() map[string]bool {
	all := make(map[string]bool)
	for _, name := range []string{"kubepods", "docker", "libpod_parent", "machine.slice"} {
		for _, root := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			found, _ := filepath.Glob(root + name)
			for _, dir := range found {
				_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
					if err == nil && d.IsDir() {
						all[path] = true
					}
					return nil
				})
			}
		}
	}
	return all
}

// removeCgroups removes those that were not there before, from the leaves up.
func removeCgroups(before map[string]bool) {
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(cgroups()))) {
		if !before[path] {
			_ = unix.Rmdir(path) // one that is in use stays
		}
	}
}
