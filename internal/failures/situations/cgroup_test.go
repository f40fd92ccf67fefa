package situations

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// cgroupPrefix is the name of cgroups of this test, before the id of its process.
const cgroupPrefix = "sockstate-situations-"

// refusedByCgroup makes a cgroup in which a program refuses each bind, as systemd does for
// SocketBindDeny=.
func refusedByCgroup(s *scene) {
	s.cgroup = newCgroup(s.t)
	s.later(func() { _ = unix.Rmdir(s.cgroup) })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Bind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		kerneltest.SkipOrFatal(s.t, err)
	}
	defer program.Close()
	attached, err := link.AttachCgroup(link.CgroupOptions{Path: s.cgroup, Attach: ebpf.AttachCGroupInet4Bind, Program: program})
	if err != nil {
		kerneltest.SkipOrFatal(s.t, err)
	}
	s.later(func() { _ = attached.Close() })
}

// newCgroup mounts cgroup2, in the mount namespace of the test, and makes a cgroup there. It removes what
// killed tests have left.
func newCgroup(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
		kerneltest.SkipOrFatal(t, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	left, err := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix))
		if err == nil && unix.Kill(pid, 0) != nil {
			_ = unix.Rmdir(dir)
		}
	}
	dir := filepath.Join(root, cgroupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
