package deploy

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// systemdScript starts systemd as the first process of a pid namespace, in a cgroup of its own, with units of one
// directory only. The network namespace is the caller's.
const systemdScript = `
set -e
mount --make-rprivate /
mount -t tmpfs none /run
echo $$ >"$CGROUP/cgroup.procs"
umount -R /sys/fs/cgroup || true
exec unshare --cgroup --pid --fork --mount-proc --uts --ipc --kill-child bash -ec '
	mount -t cgroup2 none /sys/fs/cgroup
	exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH="$UNITS" \
		"$SYSTEMD" --system --unit=test.target --show-status=no --log-target=console'
`

// A systemd runs in namespaces of its own.
type systemd struct {
	t   *testing.T
	cmd *kerneltest.Cmd
	out bytes.Buffer
}

// startSystemd starts it with units by their names.
func startSystemd(t *testing.T, ns *kerneltest.NetNS, units map[string]string) *systemd {
	t.Helper()
	kerneltest.RequireRoot(t)
	kerneltest.RequireCommand(t, "systemctl")
	kerneltest.RequireCommand(t, "unshare")
	const program = "/lib/systemd/systemd"
	if _, err := os.Stat(program); err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	dir := t.TempDir()
	units["test.target"] = "[Unit]\nWants=" + strings.Join(slices.DeleteFunc(keys(units), func(name string) bool {
		return !strings.HasSuffix(name, ".service")
	}), " ") + "\n"
	for _, name := range []string{"basic", "sysinit", "shutdown"} {
		units[name+".target"] = "[Unit]\n"
	}
	for name, text := range units {
		write(t, filepath.Join(dir, name), text)
	}
	cgroup := newCgroup(t)
	s := &systemd{t: t, cmd: ns.Command(t, "unshare", "--mount", "bash", "-c", systemdScript)}
	s.cmd.Env = append(os.Environ(), "CGROUP="+cgroup, "UNITS="+dir, "SYSTEMD="+program)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

func keys(units map[string]string) (names []string) {
	for name := range units {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// newCgroup makes a cgroup for the test, and removes what killed tests have left.
func newCgroup(t *testing.T) string {
	t.Helper()
	const prefix = "sockstate-systemd-"
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		kerneltest.Skip(t, "mount cgroup2: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	left, err := filepath.Glob(filepath.Join(root, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), prefix))
		if err == nil && unix.Kill(pid, 0) != nil {
			removeCgroup(dir)
		}
	}
	dir := filepath.Join(root, prefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		kerneltest.Skip(t, "%v", err)
	}
	t.Cleanup(func() {
		for range 1000 { // its processes have been killed, and some may not be gone yet
			if removeCgroup(dir); unix.Access(dir, unix.F_OK) != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s is still there", dir)
	})
	return dir
}

// removeCgroup removes a cgroup and those below it.
func removeCgroup(dir string) {
	var found []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			found = append(found, path)
		}
		return nil
	})
	for _, path := range slices.Backward(found) {
		_ = unix.Rmdir(path)
	}
}

// show returns properties of a unit; empty: systemd does not answer yet.
func (s *systemd) show(unit string) string {
	s.t.Helper()
	self := strconv.Itoa(s.cmd.Process.Pid)
	children, err := os.ReadFile(filepath.Join("/proc", self, "task", self, "children"))
	if err != nil || len(bytes.Fields(children)) == 0 {
		return ""
	}
	first := string(bytes.Fields(children)[0])
	out, _ := exec.Command("nsenter", "--target", first, "--mount", "--pid", "systemctl", "show", unit, "--property=ActiveState,ExecStartPre").Output()
	return string(out)
}

// await waits until the properties of a unit have some texts.
func (s *systemd) await(unit string, texts ...string) {
	s.t.Helper()
	var got string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		got = s.show(unit)
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(got, text) }) {
			return
		}
	}
	s.t.Fatalf("%s: %s, want %q\n%s", unit, got, texts, s.out.String())
}

// `check --wait` in ExecStartPre= starts the service when the port is free. Where the time is over, or the command
// line is wrong, the unit fails.
func TestCheckAsExecStartPre(t *testing.T) {
	dir, ns := t.TempDir(), kerneltest.New(t)
	program := filepath.Join(dir, "sockstate_exporter")
	launch.Copy(t, program)
	unit := func(name, args string) string {
		return fmt.Sprintf(`[Unit]
DefaultDependencies=no
[Service]
ExecStartPre=%[1]s check %[2]s
ExecStart=%[1]s --web.listen-address=127.0.0.1:4840
StandardOutput=append:%[3]s/%[4]s.out
StandardError=append:%[3]s/%[4]s.err
`, program, args, dir, name)
	}
	held := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4840"), kerneltest.Options{})
	ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:4841"), kerneltest.Options{})
	s := startSystemd(t, ns, map[string]string{
		"waits.service": unit("waits", "--wait=10m --reuseaddr 4840"),
		"over.service":  unit("over", "--wait=1s 4841"),
		"wrong.service": unit("wrong", "--wait=10m 4840/sctp"),
	})
	s.await("over.service", "ActiveState=failed", "status=1")
	s.await("wrong.service", "ActiveState=failed", "status=2")
	s.await("waits.service", "ActiveState=activating")
	said := func(name string) string { return read(t, filepath.Join(dir, name+".err")) }
	for deadline := time.Now().Add(time.Minute); !strings.HasPrefix(said("waits"), "waiting: 4840: in use by "); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("said %q, want what it waits for", said("waits"))
		}
	}
	if !strings.Contains(said("wrong"), `"4840/sctp": want `) {
		t.Errorf("said %q, want what is wrong", said("wrong"))
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	s.await("waits.service", "ActiveState=active\n", "status=0")
	if out := read(t, filepath.Join(dir, "waits.out")); !strings.HasPrefix(out, "4840: free") {
		t.Errorf("wrote %q, want that the port is free", out)
	}
}
