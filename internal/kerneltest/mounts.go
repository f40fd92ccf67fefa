package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// privateMountsEnv marks a test binary that PrivateMounts already started once.
const privateMountsEnv = "SOCKSTATE_KERNELTEST_MOUNTS"

// Tracefs is where [MountTracefs] mounts.
const Tracefs = "/sys/kernel/tracing"

// PrivateMounts runs this binary again, with the same arguments, in a mount
// namespace of its own, and exits as that one did; call it from TestMain,
// before [Main]. There it returns true: what is mounted from then on nobody
// else sees, and it goes with the last process, also when that is killed.
// It needs CAP_SYS_ADMIN in some user namespace, as Main makes one. Where that
// is missing or the kernel refuses, it returns false; Main may then run the
// binary once more, and tests skip what they cannot do: [RequirePrivateMounts].
func PrivateMounts() bool {
	if os.Getenv(privateMountsEnv) != "" {
		return true
	}
	if !hasCaps(unix.CAP_SYS_ADMIN) {
		return false
	}
	code, err := runInMountNS()
	if err != nil {
		fmt.Fprintf(os.Stderr, "kerneltest: running without a mount namespace: %v\n", err)
		return false
	}
	os.Exit(code)
	return false
}

// runInMountNS runs this binary in a new mount namespace and returns its exit
// code, or an error when it could not be started.
func runInMountNS() (int, error) {
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), privateMountsEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags, unlike Cloneflags, makes mounts private as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start test binary in a mount namespace: %w", err)
	}
	return exitCode(cmd), nil
}

// RequirePrivateMounts skips where [PrivateMounts] returned false.
func RequirePrivateMounts(t testing.TB) {
	t.Helper()
	if os.Getenv(privateMountsEnv) == "" {
		Skip(t, "needs a mount namespace of its own")
	}
}

// MountTracefs mounts tracefs, which the tracepoints of tests need, unless it
// is there. Call it where [PrivateMounts] returned true. It does nothing for
// root of a user namespace, who can neither mount it (it lacks FS_USERNS_MOUNT)
// nor trace.
func MountTracefs() error {
	if initial, err := inInitUserNS(); err != nil || !initial {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(Tracefs, &st); err == nil && st.Type == unix.TRACEFS_MAGIC {
		return nil
	}
	if err := unix.Mount("tracefs", Tracefs, "tracefs", 0, ""); err != nil {
		return fmt.Errorf("mount tracefs: %w", err)
	}
	return nil
}

// UnmountTracefs takes tracefs away, and debugfs, which has it, too. Call it
// in a process that has a mount namespace to itself.
func UnmountTracefs() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " - tracefs ") || strings.Contains(line, " - debugfs ") {
			points = append(points, strings.Fields(line)[4])
		}
	}
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}
