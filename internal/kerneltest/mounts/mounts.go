// Package mounts gives a test binary a mount namespace of its own ([Private]), where tracefs and
// other mounts disturb nobody.
package mounts

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
)

// privateEnv marks a test binary that Private already started once.
const privateEnv = "SOCKSTATE_KERNELTEST_MOUNTS"

// Tracefs is the directory where [MountTracefs] mounts tracefs.
const Tracefs = "/sys/kernel/tracing"

// Private runs this binary again, with the same arguments, in a mount namespace
// of its own, and exits with its exit code. Call it from TestMain, before
// [kerneltest.Main]. In the second run it returns true: from then on nobody else
// sees what is mounted, and the mounts go with the last process, also when that
// is killed. It needs CAP_SYS_ADMIN in some user namespace, as kerneltest.Main
// makes one. Where that is missing or the kernel refuses, it returns false. Main
// may then run the binary once more, and tests skip what they cannot do:
// [RequirePrivate].
func Private() bool {
	if os.Getenv(privateEnv) != "" {
		return true
	}
	if !kerneltest.HasCaps(unix.CAP_SYS_ADMIN) {
		return false
	}
	// Unshareflags, unlike Cloneflags, makes mounts private as well.
	code, err := reexec.Run(privateEnv, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	if err != nil {
		fmt.Fprintf(os.Stderr, "mounts: running without a mount namespace: %v\n", err)
		return false
	}
	os.Exit(code)
	return false
}

// PrivateTracefs is Private with tracefs mounted, where that is allowed.
func PrivateTracefs() {
	if !Private() {
		return
	}
	if err := MountTracefs(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// RequirePrivate skips where [Private] returned false.
func RequirePrivate(t testing.TB) {
	t.Helper()
	if os.Getenv(privateEnv) == "" {
		kerneltest.Skip(t, "needs a mount namespace of its own")
	}
}

// MountTracefs mounts tracefs, which tracepoints need, unless it is mounted.
// Call it where [Private] returned true. It does nothing for root of a
// user namespace, who can neither mount tracefs (it lacks FS_USERNS_MOUNT) nor
// trace.
func MountTracefs() error {
	if initial, err := kerneltest.InInitUserNS(); err != nil || !initial {
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

// UnmountTracefs unmounts tracefs, and debugfs, which contains it. Call it in a
// process that has a mount namespace of its own.
func UnmountTracefs() error {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for line := range strings.Lines(string(mountinfo)) {
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
